"""Pictures without labels: one forward pass a batch, then an overlay, a mask and a line of JSON a picture.

Everything is written as soon as it is known, so that memory does not grow with the number of pictures and an
interrupted run keeps what it has done. The records of an earlier run in the folder are replaced once a picture has been
read, so that a run that can read none leaves them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.config.sections import Config
from onehead_cli.data.batch import images_to_float
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import fit_picture, open_picture
from onehead_cli.drawing import class_colours
from onehead_cli.errors import CheckpointError, DataError, OneheadError
from onehead_cli.events import Reporter
from onehead_cli.network.closed_form import image_task
from onehead_cli.network.onehead import TaskOutputs
from onehead_cli.prediction.image_paths import FOLDER, output_names
from onehead_cli.runtime.compute import autocast, resolve_device, resolve_precision
from onehead_cli.tasks.canvas import Canvas, drawing_copy
from onehead_cli.tasks.task import Found, get_task

RECORDS = "predictions.jsonl"

#: Records that the result keeps, for a table.
_FIRST = 20


@dataclass
class PredictResult:
    """What was done: all records are in the file `predictions`, the `first` few also here.

    pictures: how many were asked for. failed: how many of them could not be read.
    """

    pictures: int
    failed: int
    checkpoint: Path
    folder: Path
    predictions: Path
    first: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Prediction:
    """What the network says about one image.

    width, height: of the image, turned as its EXIF orientation says.
    found: by task; masks and boxes are in pixels of the image.
    """

    width: int
    height: int
    found: dict[str, Found]


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
        self._preprocess = checkpoint.preprocess
        self._device = resolve_device(config.device)
        self._precision = resolve_precision(config.model.precision, self._device)
        self._model = checkpoint.model().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fit(self, image: Image.Image) -> tuple[NDArray[np.uint8], Fit]:
        """The image as the network sees it, uint8 [S, S, 3], and its place there."""
        fit = Fit.of(image.width, image.height, self._preprocess["image_size"], self._preprocess["fit"])
        return fit_picture(image, fit, self._preprocess["interpolation"]), fit

    def predict(self, inputs: Sequence[NDArray[np.uint8]], fits: list[Fit]) -> Iterator[Prediction]:
        """One forward pass over images from `fit`, then a prediction each; masks are made one at a time.

        Raises:
            CheckpointError: the network's outputs are not finite.
        """
        maps = self._forward(inputs)
        found = {task: reader.predict(maps[task], fits) for task, reader in self.readers.items()}
        for fit in fits:
            yield Prediction(fit.width, fit.height, {task: next(each) for task, each in found.items()})

    def _forward(self, inputs: Sequence[NDArray[np.uint8]]) -> TaskOutputs:
        images = images_to_float(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2), self._device)
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = self._model(images)
        maps = {task: output.float() for task, output in outputs.items()}
        if not all(bool(m.isfinite().all()) for m in maps.values()):
            raise CheckpointError(
                "the network's outputs are not finite; its weights are damaged, or try --set model.precision=fp32"
            )
        return maps


def predict_pictures(
    paths: Sequence[Path],
    config: Config,
    *,
    checkpoint: Path,
    score_threshold: float | None,
    overlays: bool,
    masks: bool,
    reporter: Reporter,
) -> PredictResult:
    """Predict every picture and write {output}/predictions; one that cannot be read is warned about and counted.

    Args:
        paths: of the pictures, as `find_pictures` gives them.
        score_threshold: for boxes of every class, instead of the checkpoint's own.
        overlays, masks: which pictures are written; the records always are.

    Raises:
        OneheadError: no picture can be read, the checkpoint cannot be used, or a file cannot be written.
    """
    folder = config.output / FOLDER
    network = load_checkpoint(checkpoint)
    predictor = Predictor(network, config, score_threshold=score_threshold)
    writer = _Writer(folder, predictor.classes, overlays=overlays, masks=masks)
    kinds = [kind for task in network.architecture.tasks for kind in get_task(task).files]
    result = PredictResult(len(paths), 0, checkpoint, folder, folder / RECORDS)
    done = 0
    records: TextIO | None = None
    lines: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        task = image_task(network.architecture.tasks)
        if task is not None:
            count = len(predictor.classes[task])
            reporter.note(f"class: always the likeliest of the {count} that this network knows")
        with ExitStack() as closing, reporter.track("predict", len(paths)) as advance:
            jobs = iter(zip(paths, output_names(paths, folder, kinds), strict=True))
            while batch := list(islice(jobs, config.evaluation.batch_size)):
                for record in _predict_batch(batch, predictor, writer):
                    if "error" in record:
                        result.failed += 1
                        reporter.warn(f"{record['file']}: {record['error']}")
                    if done < _FIRST:
                        result.first.append(record)
                    lines.append(json.dumps(record, allow_nan=False) + "\n")
                    if records is None and "error" not in record:
                        records = closing.enter_context(result.predictions.open("w", encoding="utf-8", newline="\n"))
                    if records is not None:
                        records.writelines(lines)
                        records.flush()
                        lines.clear()
                    done += 1
                    advance(done, Path(record["file"]).name)
    except OSError as error:
        where = error.filename or folder
        raise OneheadError(
            f"{where}: cannot be written ({error.strerror or error}); choose another folder with --output"
        ) from None
    if result.failed == result.pictures:
        kept = f"; {result.predictions} is that of an earlier run" if result.predictions.is_file() else ""
        raise DataError(f"none of the pictures can be read: {result.failed} of {result.pictures} failed{kept}")
    return result


def _predict_batch(
    batch: Sequence[tuple[Path, str]], predictor: Predictor, writer: _Writer
) -> Iterator[dict[str, Any]]:
    """The records of (picture, name of its outputs), in order."""
    inputs, fits, drawings = [], [], []
    errors: dict[Path, str] = {}
    for path, _ in batch:
        try:
            picture = open_picture(path)
        except DataError as error:
            errors[path] = str(error).removeprefix(f"{path}: ")
            continue
        fitted, fit = predictor.fit(picture)
        inputs.append(fitted)
        fits.append(fit)
        # The original may be a hundred times larger; only this copy waits for the forward pass.
        drawings.append(drawing_copy(picture) if writer.overlays else None)
    predictions = zip(predictor.predict(inputs, fits) if inputs else (), drawings, strict=True)
    for path, name in batch:
        if path in errors:
            yield {"file": str(path), "error": errors[path]}
        else:
            prediction, drawing = next(predictions)
            yield {"file": str(path), **writer.write(name, prediction, drawing)}


class _Writer:
    """Writes the files of a prediction and says what it holds."""

    def __init__(self, folder: Path, classes: Mapping[str, Sequence[str]], *, overlays: bool, masks: bool) -> None:
        self.folder = folder
        self.overlays = overlays
        self.masks = masks
        # Boxes come before masks, whatever the order of the tasks: a class keeps the colour it always had.
        names = [name for task in reversed(list(classes)) for name in get_task(task).colour_names(classes[task])]
        self._colours = class_colours(names)

    def write(self, name: str, prediction: Prediction, drawing: Image.Image | None) -> dict[str, Any]:
        record: dict[str, Any] = {"width": prediction.width, "height": prediction.height}
        if drawing is not None:
            record["overlay"] = f"{name}.png"
            canvas = Canvas(self._colours)
            for found in prediction.found.values():
                found.paint(canvas)
            overlay = canvas.render(drawing, (prediction.width, prediction.height))
            overlay.save(self.folder / record["overlay"], compress_level=4)

        def save(kind: str, image: Image.Image) -> str | None:
            if not self.masks:
                return None
            file = f"{name}_{kind}.png"
            image.save(self.folder / file)
            return file

        for found in prediction.found.values():
            record |= found.record(save)
        return record
