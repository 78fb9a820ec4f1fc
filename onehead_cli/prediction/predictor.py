"""A network that reads images without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.coco_results import CocoResults
from onehead_cli.config.sections import Config
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import as_rgb, fit_image, open_image
from onehead_cli.drawing import Colour, class_colours
from onehead_cli.errors import CheckpointError, DataError
from onehead_cli.registry import OWN_TASKS, TASKS
from onehead_cli.runtime.compute import resolve_device, resolve_precision
from onehead_cli.tasks.canvas import Canvas
from onehead_cli.tasks.reader import Found
from onehead_cli.tasks.task import get_task


@dataclass
class Prediction:
    """What the network says about one image.

    width, height: of the image, turned as its EXIF orientation says.
    found: by task; masks and boxes are in pixels of the image.
    """

    width: int
    height: int
    found: dict[str, Found]
    colours: dict[str, Colour] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        """What `predict` writes of an image as a line of JSON, without files."""
        record: dict[str, Any] = {"width": self.width, "height": self.height}
        for found in self.found.values():
            record |= found.record(lambda kind, image: None)
        return record

    def add_to_coco(self, results: CocoResults, file: str, *, masks: bool) -> str | None:
        """Put the image and what was found into a COCO dataset; why, where the image is left out.

        Args:
            file: the image's name there. masks: as RLE too.
        """
        left_out = results.add_image(file, self.width, self.height)
        for found in self.found.values():
            found.add_to_coco(results, masks=masks)
        return left_out

    def draw(self, drawing: Image.Image) -> Image.Image:
        """The overlay. Args: drawing: the image at the size that it is drawn at; see `drawing_copy`."""
        canvas = Canvas(self.colours)
        for found in self.found.values():
            found.paint(canvas)
        return canvas.render(drawing, (self.width, self.height))


class Predictor:
    """A network ready to read images; image size, fit, class names and thresholds are the checkpoint's."""

    def __init__(self, checkpoint: Checkpoint, config: Config, *, score_threshold: float | None = None) -> None:
        """Args: score_threshold: for boxes of every class, instead of the checkpoint's own.

        Raises:
            ConfigError: the device is not there.
        """
        self.classes = checkpoint.architecture.classes
        self.readers = {
            task: checkpoint.reader(task, config.evaluation, score_threshold=score_threshold)
            for task in checkpoint.architecture.tasks
        }
        # Boxes before masks, and other packages' tasks last: a class keeps the colour it always had.
        names = [
            n for task in sorted(self.classes, key=_place) for n in get_task(task).colour_names(self.classes[task])
        ]
        self.colours = class_colours(names)
        self._preprocess = checkpoint.preprocess
        device = resolve_device(config.device)
        self._runner = checkpoint.runner(device, resolve_precision(config.model.precision, device))

    def fit(self, image: Image.Image) -> tuple[NDArray[np.uint8], Fit]:
        """The image as the network sees it, uint8 [S, S, 3], and its place there."""
        fit = Fit.of(image.width, image.height, self._preprocess["image_size"], self._preprocess["fit"])
        return fit_image(image, fit, self._preprocess["interpolation"]), fit

    def predict(self, inputs: Sequence[NDArray[np.uint8]], fits: list[Fit]) -> Iterator[Prediction]:
        """One forward pass over images from `fit`, then a prediction each; masks are made one at a time.

        Raises:
            CheckpointError: the network's outputs are not finite.
        """
        further = {name: value for reader in self.readers.values() for name, value in reader.predict_inputs.items()}
        maps = self._runner.run(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2), fits, inputs=further)
        _check_finite(maps)
        found = {task: reader.predict(maps[task], fits) for task, reader in self.readers.items()}
        for fit in fits:
            each = {task: next(predictions) for task, predictions in found.items()}
            yield Prediction(fit.width, fit.height, each, self.colours)

    def predict_one(self, image: Image.Image | NDArray[np.uint8] | str | Path) -> Prediction:
        """What the network says about one image: a file, Pillow's, or an array uint8 [height, width, 3] or [height,
        width].

        Raises:
            DataError: the file cannot be read, or the array is no such image.
        """
        fitted, fit = self.fit(_as_image(image))
        [prediction] = self.predict([fitted], [fit])
        return prediction


def _check_finite(maps: Mapping[str, Any]) -> None:
    """Raises: CheckpointError: a map has a number that is none; an exported file's runner has looked itself."""
    if not all(bool(each.isfinite().all()) for each in maps.values() if isinstance(each, torch.Tensor)):
        raise CheckpointError(
            "the network's outputs are not finite; its weights are damaged, or try --set model.precision=fp32"
        )


def _as_image(image: Image.Image | NDArray[np.uint8] | str | Path) -> Image.Image:
    if isinstance(image, str | Path):
        return open_image(Path(image))
    if isinstance(image, Image.Image):
        return as_rgb(image)
    is_image = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size > 0
    if image.dtype != np.uint8 or not is_image:
        raise DataError(f"an image is uint8 [height, width, 3] or [height, width], not {image.dtype} {image.shape}")
    return Image.fromarray(image).convert("RGB")


def _place(task: str) -> int:
    """Of a task where colours are given out."""
    return -OWN_TASKS.index(task) if task in OWN_TASKS else TASKS.index(task)
