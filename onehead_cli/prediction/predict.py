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
from onehead_cli.data.augment import pictures_to_float
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import fit_picture, open_picture
from onehead_cli.data.layout import voc_palette
from onehead_cli.errors import CheckpointError, DataError, OneheadError
from onehead_cli.events import Reporter
from onehead_cli.prediction.image_paths import FOLDER, output_names
from onehead_cli.prediction.overlay import Painter, drawing_copy
from onehead_cli.runtime.compute import autocast, resolve_device, resolve_precision
from onehead_cli.tasks.classification import pool_classes
from onehead_cli.tasks.detection.decode import Detections, decode_boxes, read_boxes
from onehead_cli.tasks.segmentation.reading import read_mask
from onehead_cli.types import Task, TaskOutputs
from onehead_cli.wording import readable

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
    """What the network says about one picture; None for a task that it does not do.

    width, height: of the picture, turned as its EXIF orientation says; mask and boxes are in its pixels.
    probabilities: float [classes].
    mask: uint8 [height, width], class indices.
    boxes: those above the thresholds, best first.
    """

    width: int
    height: int
    probabilities: NDArray[np.float32] | None = None
    mask: NDArray[np.uint8] | None = None
    boxes: Detections | None = None


class Predictor:
    """A network ready to read pictures; image size, fit, class names and thresholds are the checkpoint's."""

    def __init__(self, checkpoint: Checkpoint, config: Config, *, score_threshold: float | None = None) -> None:
        """Args: score_threshold: for boxes of every class, instead of the checkpoint's own.

        Raises:
            ConfigError: the device is not there.
        """
        self.classes = checkpoint.architecture.classes
        self.cell_threshold = checkpoint.thresholds.cells
        floor, own = config.evaluation.score_min, checkpoint.thresholds.boxes
        count = len(self.classes.get(Task.DET, ()))
        self.box_thresholds = np.array(
            (own or [floor] * count) if score_threshold is None else [score_threshold] * count
        )
        self.score_min = floor if score_threshold is None else min(floor, score_threshold)
        self._evaluation = config.evaluation
        self._reading = checkpoint.reading.changed_by(config.evaluation)
        self._preprocess = checkpoint.preprocess
        self._device = resolve_device(config.device)
        self._precision = resolve_precision(config.model.precision, self._device)
        self._model = checkpoint.model().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fit(self, picture: Image.Image) -> tuple[NDArray[np.uint8], Fit]:
        """The picture as the network sees it, uint8 [S, S, 3], and its place there."""
        fit = Fit.of(picture.width, picture.height, self._preprocess["image_size"], self._preprocess["fit"])
        return fit_picture(picture, fit, self._preprocess["interpolation"]), fit

    def predict(self, inputs: Sequence[NDArray[np.uint8]], fits: list[Fit]) -> Iterator[Prediction]:
        """One forward pass over pictures from `fit`, then a prediction each; masks are made one at a time.

        Raises:
            CheckpointError: the network's outputs are not finite.
        """
        maps = self._forward(inputs)
        probabilities, boxes = None, None
        if Task.CLS in maps:
            logits = pool_classes(maps[Task.CLS], self.cell_threshold, pooling=self._reading.pooling)
            probabilities = logits.softmax(1).cpu().numpy()
        if Task.DET in maps:
            boxes = read_boxes(
                decode_boxes(maps[Task.DET], len(self.classes[Task.DET]), self._model.size_unit),
                fits,
                nms_iou=self._reading.predict_nms_iou,
                score_min=self.score_min,
                max_detections=self._evaluation.max_detections,
                best_class=self._reading.best_class,
                vote_iou=self._reading.vote_iou,
            )
        for index, fit in enumerate(fits):
            yield Prediction(
                width=fit.width,
                height=fit.height,
                probabilities=None if probabilities is None else probabilities[index],
                mask=read_mask(maps[Task.SEG][index], fit) if Task.SEG in maps else None,
                boxes=None if boxes is None else self._sure(boxes[index]),
            )

    def _forward(self, inputs: Sequence[NDArray[np.uint8]]) -> TaskOutputs:
        images = pictures_to_float(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2), self._device)
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs = self._model(images)
        maps = {task: output.float() for task, output in outputs.items()}
        if not all(bool(m.isfinite().all()) for m in maps.values()):
            raise CheckpointError(
                "the network's outputs are not finite; its weights are damaged, or try --set model.precision=fp32"
            )
        return maps

    def _sure(self, found: Detections) -> Detections:
        keep = found.scores >= self.box_thresholds[found.labels]
        return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


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
    result = PredictResult(len(paths), 0, checkpoint, folder, folder / RECORDS)
    done = 0
    records: TextIO | None = None
    lines: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if Task.CLS in network.architecture.tasks:
            count = len(predictor.classes[Task.CLS])
            reporter.note(f"class: always the likeliest of the {count} that this network knows")
        with ExitStack() as closing, reporter.track("predict", len(paths)) as advance:
            jobs = iter(zip(paths, output_names(paths, folder), strict=True))
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

    def __init__(self, folder: Path, classes: Mapping[Task, Sequence[str]], *, overlays: bool, masks: bool) -> None:
        self.folder = folder
        self.classes = classes
        self.overlays = overlays
        self.masks = masks
        self._painter = Painter(classes)
        self._palette = voc_palette()

    def write(self, name: str, prediction: Prediction, drawing: Image.Image | None) -> dict[str, Any]:
        record: dict[str, Any] = {"width": prediction.width, "height": prediction.height}
        likely = self._likely(prediction)
        if drawing is not None:
            record["overlay"] = f"{name}.png"
            overlay = self._painter.paint(
                drawing,
                size=(prediction.width, prediction.height),
                likely=likely,
                mask=prediction.mask,
                boxes=prediction.boxes,
            )
            overlay.save(self.folder / record["overlay"], compress_level=4)
        if likely:
            top = [{"name": n, "title": readable(n), "probability": round(p, 6)} for n, p in likely]
            record["class"] = {**top[0], "top5": top}
        if prediction.mask is not None:
            record["mask"] = self._write_mask(name, prediction.mask)
        if prediction.boxes is not None:
            record["boxes"] = self._boxes(prediction.boxes)
        return record

    def _likely(self, prediction: Prediction) -> list[tuple[str, float]]:
        if prediction.probabilities is None:
            return []
        order = np.argsort(-prediction.probabilities, kind="stable")[:5]
        return [(self.classes[Task.CLS][i], float(prediction.probabilities[i])) for i in order]

    def _write_mask(self, name: str, mask: NDArray[np.uint8]) -> dict[str, Any]:
        counts = np.bincount(mask.ravel(), minlength=len(self.classes[Task.SEG])).tolist()
        pixels = {label: count for label, count in zip(self.classes[Task.SEG], counts, strict=True) if count}
        if not self.masks:
            return {"pixels": pixels}
        picture = Image.fromarray(mask)
        picture.putpalette(self._palette)
        file = f"{name}_mask.png"
        picture.save(self.folder / file)
        return {"file": file, "pixels": pixels}

    def _boxes(self, found: Detections) -> list[dict[str, Any]]:
        names = self.classes[Task.DET]
        return [
            {"label": names[label], "score": round(score, 6), "box": [round(side, 3) for side in box]}
            for label, score, box in zip(
                found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
            )
        ]
