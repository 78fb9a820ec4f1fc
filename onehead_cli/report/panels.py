"""The images of the report: what is true, what the first network says and what the last one says, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.config.sections import IGNORE_INDEX, Config
from onehead_cli.data.images import open_image
from onehead_cli.data.split import Split
from onehead_cli.drawing import DARK, LIGHT, Colour, class_colours, class_text
from onehead_cli.evaluation.measurer import Measurer
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.report.details import Shown
from onehead_cli.tasks.canvas import Boxes, Canvas
from onehead_cli.tasks.labels import Label
from onehead_cli.tasks.reader import Found, Result
from onehead_cli.tasks.task import Task, get_task
from onehead_cli.wording import readable, shown

#: How many images of each kind; the longer side of a panel in pixels.
LOST, WON, RANDOM, SIDE = 6, 3, 3, 256
#: Images times images that are scored one by one, so that a large split takes no longer than a moment: all of 1,000.
MOST_SCORED = 1_000_000


@dataclass(frozen=True)
class Choice:
    """An image that is shown. place: of the split and in it. scores: of the image alone, by network; None without."""

    why: str
    place: int
    scores: Mapping[str, float | None]


def image_details(networks: Sequence[Shown], measurer: Measurer, config: Config) -> dict[str, Any]:
    """By task, the images of the report with what is said of each, and its panels as data URIs.

    Of a split of more than 1,000 images they are chosen from as many, drawn at random, as MOST_SCORED allows.
    """
    found = {}
    for task in dict.fromkeys(task for each in networks for task in each.results):
        able = [each for each in networks if task in each.results]
        pair = able if len(able) == 1 else [able[0], able[-1]]
        kept = [measurer.maps.get((id(each.networks[task]), task), {}) for each in pair]
        count = len(pair[0].results[task])
        drawn = np.random.default_rng([config.seed, 15]).permutation(count)[: max(20, MOST_SCORED // max(count, 1))]
        results = {each.label: each.results[task] for each in pair}
        choices = choose_images(results, get_task(task), sorted(drawn.tolist()), config.seed)
        splits = measurer.load(task, pair[-1].networks[task])
        sayings = {
            each.label: _Saying(each.networks[task], task, measurer.load(task, each.networks[task]), maps, config)
            for each, maps in zip(pair, kept, strict=True)
        }
        found[task] = list(_images(get_task(task), choices, splits, sayings))
    return found


class _Saying:
    """What a network says of single images of a task."""

    def __init__(
        self,
        network: Checkpoint,
        task: str,
        splits: Sequence[Split],
        maps: Mapping[int, Tensor],
        config: Config,
    ) -> None:
        """Args: maps: by the number of the image; one without passes through the network."""
        self._network, self._task, self._maps, self._config = network, task, maps, config
        self._places = [(split, index) for split in splits for index in range(len(split))]
        self._predictor: Predictor | None = None
        self._reader = network.reader(task, config.evaluation)

    def __call__(self, number: int, image: Image.Image) -> Found:
        if number in self._maps:
            split, index = self._places[number]
            return next(self._reader.predict(self._maps[number][None], [split.fit(index)]))
        if self._predictor is None:
            self._predictor = Predictor(self._network, self._config)
        return self._predictor.predict_one(image).found[self._task]


def choose_images(results: Mapping[str, Result], task: Task, known: Sequence[int], seed: int) -> list[Choice]:
    """Those in which the last network lost most against the first, won most, and some at random.

    Of one network alone, those with its lowest scores and some at random. An image's score is that of a split of it
    alone.

    Args: known: the images to choose from, by their number. seed: of those at random.
    """
    count = len(next(iter(results.values())))
    rng = np.random.default_rng([seed, 15])
    alone = np.zeros((len(known), count), dtype=np.int64)
    alone[np.arange(len(known)), known] = 1
    scores = {label: result.resampled(alone) for label, result in results.items()}
    values = list(scores.values())
    gains: NDArray[np.float64] = task.metric.sign * (values[-1] - values[0] if len(values) > 1 else values[0])
    finite = np.isfinite(gains)
    order = [int(place) for place in np.argsort(np.where(finite, gains, np.inf), kind="stable") if finite[place]]
    if len(values) > 1:
        lost = [place for place in order if gains[place] < 0][:LOST]
        won = [place for place in reversed(order) if gains[place] > 0][:WON]
        chosen = {"lost most": lost, "won most": won}
    else:
        chosen = {"lowest score": order[:LOST]}
    taken = {place for places in chosen.values() for place in places}
    rest = [place for place in range(len(known)) if place not in taken]
    chosen["at random"] = sorted(rng.permutation(rest)[:RANDOM].tolist())
    return [
        Choice(why, known[place], {label: _number(one[place]) for label, one in scores.items()})
        for why, places in chosen.items()
        for place in places
    ]


def _images(
    task: Task, choices: Sequence[Choice], splits: Sequence[Split], sayings: Mapping[str, _Saying]
) -> Iterator[dict[str, Any]]:
    places = [(split, index) for split in splits for index in range(len(split))]
    for choice in choices:
        split, index = places[choice.place]
        image, label = open_image(split.paths[index]), task.show_label(split, index)
        drawing = image.copy()
        drawing.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        names = list(split.classes)
        only_text = label.mask is None and not label.boxes and label.panel is None and bool(label.text)
        panels = [("truth", readable(label.text), Canvas({}) if only_text else _truth(label, names, task))]
        for name, saying in sayings.items():
            said = saying(choice.place, image)
            canvas = Canvas(class_colours(task.colour_names(names)))
            said.paint(canvas)
            panels.append((name, task.record_cell(_record(said, image)), canvas))
        drawn = [] if only_text else [_data_uri(c.render(drawing, image.size, least=(1, 1))) for _, _, c in panels]
        yield {
            "file": shown(str(split.paths[index])),
            "why": choice.why,
            "scores": dict(choice.scores),
            "said": {name: text for name, text, _ in panels},
            "panels": drawn or [_data_uri(drawing)],
        }


def _record(said: Found, image: Image.Image) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, **said.record(lambda kind, saved: None)}


def _truth(label: Label, classes: Sequence[str], task: Task) -> Canvas:
    """The label as a prediction would be drawn."""
    colours: dict[str, Colour] = class_colours(task.colour_names(classes))
    canvas = Canvas(colours)
    if label.mask is not None:
        table = np.full((256, 3), DARK, dtype=np.uint8)
        for index, name in enumerate(classes):
            table[index] = colours.get(name, DARK)
        table[IGNORE_INDEX] = LIGHT
        canvas.tint = (label.mask, table)
        shown = [index for index in np.unique(label.mask).tolist() if 0 < index < len(classes)]
        canvas.legend = [(classes[index], class_text(classes[index], index)) for index in shown]
    if label.boxes:
        names = [name for _, name, _ in label.boxes]
        texts = [f"{class_text(n, classes.index(n))}{' (crowd)' if crowd else ''}" for _, n, crowd in label.boxes]
        canvas.boxes = Boxes(np.array([corners for corners, _, _ in label.boxes]), names, texts)
    if label.panel is not None:
        canvas.panels.append(label.panel)
    return canvas


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.convert("RGB").save(content, "WEBP", quality=70, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
