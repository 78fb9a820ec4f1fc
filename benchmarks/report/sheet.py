"""A sheet of real predictions on test, failures among them, chosen by rule: the best, the middle and the worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.data.images import open_image
from onehead_cli.drawing import class_colours
from onehead_cli.prediction.predictor import Prediction, Predictor
from onehead_cli.preview.sample_sheet import Sample, draw_sheet
from onehead_cli.registry import TASKS
from onehead_cli.tasks.labels import Label
from onehead_cli.tasks.segmentation.scores import SegmentationResult, confusion_matrix
from onehead_cli.wording import readable
from report.error_analysis import CORRECT, IGNORED, IOU, TrueBoxes, match
from report.measure import load, true_boxes

#: Images of each kind, best, middle and worst, of a task.
_OF_EACH = 2
#: A class of the mask is named from this share of the image on.
_NAMED_FROM = 0.01
#: What stands for a photograph that may not be passed on.
_GROUND = (66, 70, 78)


@dataclass
class Tile:
    """One image of a task and what is said of it. score: of this image alone, the larger the better."""

    path: Path
    prediction: Prediction
    score: float
    verdict: str
    said: str
    truth: str


def write_sheets(
    checkpoint: Path, config: Config, *, split: str, with_photographs: Path, without: Path, console: Console
) -> None:
    """Write the same sheet twice.

    Args:
        checkpoint: of the student.
        with_photographs: not to be committed. without: masks and boxes on a plain ground, true shapes nowhere.

    Raises:
        OneheadError: the checkpoint or an image cannot be used.
    """
    predictor = Predictor(load_checkpoint(checkpoint), config)
    chosen: list[tuple[str, str, Tile]] = []
    for task in TASKS:
        console.note(f"sheet: {task}")
        tiles = sorted(_TILES[task](predictor, config, split), key=lambda tile: (tile.score, tile.path.name))
        chosen += [(task, rank, tile) for rank, tile in choose(tiles)]
    for path, plain in ((with_photographs, False), (without, True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet = _draw(chosen, predictor.classes, plain=plain)
        # A palette is enough for flat ground, and a third of the bytes.
        (sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE) if plain else sheet).save(path, optimize=plain)


def choose(tiles: Sequence[Tile]) -> list[tuple[str, Tile]]:
    """The best, middle and worst of tiles that are sorted by score, in turn, so that each row of three shows all."""
    middle = max(0, (len(tiles) - _OF_EACH) // 2)
    ranks = {"best": tiles[::-1], "middle": tiles[middle:], "worst": tiles}
    turns = range(min(_OF_EACH, len(tiles)))
    return [(rank, ordered[turn]) for turn in turns for rank, ordered in ranks.items()]


def _predict(predictor: Predictor, path: Path) -> Prediction:
    fitted, fit = predictor.fit(open_image(path))
    [prediction] = predictor.predict([fitted], [fit])
    return prediction


def _classified(predictor: Predictor, config: Config, split: str) -> list[Tile]:
    """score: the probability of the true class."""
    data, tiles = load("cls", split, config), []
    for path, label in zip(data.paths, data.labels, strict=True):
        prediction = _predict(predictor, path)
        probabilities = prediction.found["cls"].probabilities
        said, score = int(probabilities.argmax()), float(probabilities[label])
        names = [readable(data.classes[index]) for index in (said, label)]
        verdict = f"{'correct' if said == label else 'wrong'}, true class {score:.0%}"
        said_text = f"{names[0]} {probabilities[said]:.0%}"
        tiles.append(Tile(path, prediction, score, verdict, said_text, names[1]))
    return tiles


def _segmented(predictor: Predictor, config: Config, split: str) -> list[Tile]:
    """score: the mean IoU of the image's true classes."""
    data, tiles = load("seg", split, config), []
    for index, path in enumerate(data.paths):
        prediction, true = _predict(predictor, path), data.mask(index)
        mask = prediction.found["seg"].mask
        matrix = confusion_matrix(mask, true, len(data.classes))
        score = SegmentationResult(matrix[None], data.classes).scores()["miou"]
        if score is None:  # all void
            continue
        shares = np.bincount(mask.ravel(), minlength=len(data.classes)) / mask.size
        said = [f"{data.classes[i]} {shares[i]:.0%}" for i in np.argsort(-shares) if i and shares[i] >= _NAMED_FROM]
        truth = [data.classes[i] for i in np.unique(true) if 0 < i < len(data.classes)]
        tiles.append(Tile(path, prediction, score, f"mean IoU {score:.2f}", _join(said), _join(truth)))
    return tiles


def _detected(predictor: Predictor, config: Config, split: str) -> list[Tile]:
    """score: F1 of the boxes that `predict` shows; images without a true box have none."""
    data, tiles = load("det", split, config), []
    for path, truth in zip(data.paths, true_boxes(data), strict=True):
        count = int((~truth.crowd).sum())
        if not count:
            continue
        prediction = _predict(predictor, path)
        boxes = prediction.found["det"].boxes
        kinds, _, _ = match(boxes, truth)
        correct, shown = kinds.count(CORRECT), len(kinds) - kinds.count(IGNORED)
        score = 2 * correct / (count + shown)
        verdict = f"F1 {score:.2f} at IoU {IOU:g}: {correct} of {count} found, {shown - correct} wrong"
        found = zip(boxes.labels, boxes.scores, strict=True)
        said = [f"{data.classes[label]} {value:.2f}" for label, value in found]
        tiles.append(Tile(path, prediction, score, verdict, _join(said), _true_counts(truth, data.classes)))
    return tiles


def _true_counts(truth: TrueBoxes, classes: Sequence[str]) -> str:
    counts = Counter(classes[label] for label in truth.labels[~truth.crowd])
    return _join([name if count == 1 else f"{count} {name}" for name, count in counts.items()])


_TILES: dict[str, Callable[[Predictor, Config, str], list[Tile]]] = {
    "cls": _classified,
    "seg": _segmented,
    "det": _detected,
}


def _draw(chosen: Sequence[tuple[str, str, Tile]], classes: Mapping[str, Sequence[str]], *, plain: bool) -> Image.Image:
    """Every tile shows mask and boxes of the one forward pass, whatever its own task is."""
    mask_names, box_names = classes["seg"], classes["det"]
    colours = class_colours([*box_names, *mask_names[1:]])
    table = np.zeros((256, 3), dtype=np.uint8)
    table[1 : len(mask_names)] = [colours[name] for name in mask_names[1:]]
    samples, seen = [], set()
    for task, rank, tile in chosen:
        prediction = tile.prediction
        size, mask = (prediction.width, prediction.height), prediction.found["seg"].mask
        boxes = prediction.found["det"].boxes
        named = [box_names[label] for label in boxes.labels]
        seen |= {*named, *(mask_names[label] for label in np.unique(mask) if label)}
        samples.append(
            Sample(
                image=Image.new("RGB", size, _GROUND) if plain else open_image(tile.path),
                source=f"{tile.path.name}. Predicted: {tile.said}. Truly there: {tile.truth}.",
                label=Label(
                    f"{task}, {rank}: {tile.verdict}",
                    mask,
                    [(tuple(box), name, False) for box, name in zip(boxes.boxes.tolist(), named, strict=True)],
                ),
            )
        )
    legend = {name: colour for name, colour in colours.items() if name in seen}
    return draw_sheet(samples, box_colours=colours, mask_colours=table, legend=legend, columns=3)


def _join(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "nothing"
