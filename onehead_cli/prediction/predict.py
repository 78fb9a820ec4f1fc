"""Images without labels: one forward pass per batch, then an overlay, a mask and a line of JSON per image.

Everything is written as soon as it is known, so that memory does not grow with the number of images and an interrupted
run keeps what it has done. The records of an earlier run in the folder are replaced once an image has been read, so
that a run that can read none leaves them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.sections import Config
from onehead_cli.data.images import open_image
from onehead_cli.drawing import numbers_for_names
from onehead_cli.errors import DataError, OneheadError
from onehead_cli.events import Reporter
from onehead_cli.network.closed_form import image_task
from onehead_cli.prediction.image_paths import FOLDER, output_names
from onehead_cli.prediction.predictor import Prediction, Predictor
from onehead_cli.tasks.canvas import drawing_copy
from onehead_cli.tasks.task import get_task

RECORDS = "predictions.jsonl"


class PredictRun:
    """Predicts images as it is iterated over: a record per image, as it also stands in the file `predictions`.

    An image that cannot be read is warned about, and its record has an "error".

    images: how many were asked for. failed: how many could not be read, so far. tasks: that the network does.
    folder: where overlays, masks and records are written.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        config: Config,
        *,
        checkpoint: Path,
        score_threshold: float | None,
        overlays: bool,
        masks: bool,
        reporter: Reporter,
    ) -> None:
        """Args:
        paths: of the images, as `find_images` gives them.
        score_threshold: for boxes of every class, instead of the checkpoint's own.
        overlays, masks: which images are written; the records always are.

        Raises:
            OneheadError: the checkpoint cannot be used.
        """
        self.checkpoint = checkpoint
        self.folder = config.output / FOLDER
        self.predictions = self.folder / RECORDS
        self.images = len(paths)
        self.failed = 0
        network = load_checkpoint(checkpoint)
        self.tasks = network.architecture.tasks
        self._paths = paths
        self._batch_size = config.evaluation.batch_size
        self._predictor = Predictor(network, config, score_threshold=score_threshold)
        self._overlays, self._masks = overlays, masks
        self._reporter = reporter

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises: OneheadError: no image can be read, or a file cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._overlays and (warning := numbers_for_names(self._predictor.classes)):
                self._reporter.warn(warning)
            task = image_task(self.tasks)
            if task is not None:
                count = len(self._predictor.classes[task])
                self._reporter.note(f"class: always the likeliest of the {count} that this network knows")
            with self._reporter.track("predict", self.images) as advance:
                for done, record in enumerate(self._written(), start=1):
                    yield record
                    advance(done, Path(record["file"]).name)
        except OSError as error:
            where = error.filename or self.folder
            raise OneheadError(
                f"{where}: cannot be written ({error.strerror or error}); choose another folder with --output"
            ) from None
        if self.failed == self.images:
            kept = f"; {self.predictions} is that of an earlier run" if self.predictions.is_file() else ""
            raise DataError(f"none of the images can be read: {self.failed} of {self.images} failed{kept}")

    def _written(self) -> Iterator[dict[str, Any]]:
        """The records, each in the file before it is given; the file begins with the first image that can be read."""
        file: TextIO | None = None
        waiting: list[str] = []
        with ExitStack() as closing:
            for record in self._records():
                if "error" in record:
                    self.failed += 1
                    self._reporter.warn(f"{record['file']}: {record['error']}")
                elif file is None:
                    file = closing.enter_context(self.predictions.open("w", encoding="utf-8", newline="\n"))
                waiting.append(json.dumps(record, allow_nan=False) + "\n")
                if file is not None:
                    file.writelines(waiting)
                    file.flush()
                    waiting.clear()
                yield record

    def _records(self) -> Iterator[dict[str, Any]]:
        kinds = [kind for task in self.tasks for kind in get_task(task).files]
        jobs = iter(zip(self._paths, output_names(self._paths, self.folder, kinds), strict=True))
        while batch := list(islice(jobs, self._batch_size)):
            yield from self._batch(batch)

    def _batch(self, batch: Sequence[tuple[Path, str]]) -> Iterator[dict[str, Any]]:
        """The records of (image, name of its outputs), in order."""
        inputs, fits, drawings = [], [], []
        errors: dict[Path, str] = {}
        for path, _ in batch:
            try:
                image = open_image(path)
            except DataError as error:
                errors[path] = str(error).removeprefix(f"{path}: ")
                continue
            fitted, fit = self._predictor.fit(image)
            inputs.append(fitted)
            fits.append(fit)
            # The original may be a hundred times larger; only this copy waits for the forward pass.
            drawings.append(drawing_copy(image) if self._overlays else None)
        predictions = zip(self._predictor.predict(inputs, fits) if inputs else (), drawings, strict=True)
        for path, name in batch:
            if path in errors:
                yield {"file": str(path), "error": errors[path]}
            else:
                yield {"file": str(path), **self._write(name, *next(predictions))}

    def _write(self, name: str, prediction: Prediction, drawing: Image.Image | None) -> dict[str, Any]:
        """Write the files of a prediction; its record."""
        record: dict[str, Any] = {"width": prediction.width, "height": prediction.height}
        if drawing is not None:
            record["overlay"] = f"{name}.png"
            prediction.draw(drawing).save(self.folder / record["overlay"], compress_level=4)

        def save(kind: str, image: Image.Image) -> str | None:
            if not self._masks:
                return None
            file = f"{name}_{kind}.png"
            image.save(self.folder / file)
            return file

        for found in prediction.found.values():
            record |= found.record(save)
        return record
