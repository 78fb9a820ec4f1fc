"""Images without labels: one forward pass per batch, then an overlay, a mask and a line of JSON per image.

Everything is written as soon as it is known, so that memory does not grow with the number of images and an interrupted
run keeps what it has done. The records of these images by an earlier run are replaced once one image has been read, so
that a run that can read none leaves them as they are; those of other images stay.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from onehead_cli.checkpoint.exported import ExportedNetwork, load_network
from onehead_cli.coco_results import CocoResults
from onehead_cli.config.sections import Config
from onehead_cli.data.images import DARK, is_nearly_black, is_turned, open_image
from onehead_cli.drawing import numbers_for_names
from onehead_cli.errors import ConfigError, DataError, OneheadError
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import DISK_ERRORS, make_writable_folder, write_atomically, write_whole
from onehead_cli.files.checksum import sha256_of
from onehead_cli.files.json_files import read_json
from onehead_cli.network.closed_form import image_task
from onehead_cli.prediction import records
from onehead_cli.prediction.image_paths import FOLDER
from onehead_cli.prediction.names import Places, in_json, of_json, output_names
from onehead_cli.prediction.predictor import Prediction, Predictor
from onehead_cli.runtime.compute import threads_of_torch
from onehead_cli.tasks.canvas import drawing_copy
from onehead_cli.tasks.task import get_task
from onehead_cli.wording import how_many


class PredictRun:
    """Predicts images as it is iterated over: a record per image, as it also stands in the file `predictions`.

    The record of an image that cannot be read, or of which a file cannot be written, has an "error", and it is warned
    about.

    paths: of the images that were asked for. failed: how many have an error, so far. turned: how many were turned as
    their EXIF orientation says, so far. dark: how many of 16 bits are nearly black, so far. passed_over: what lay
    among them, by kind. tasks: that the network does. folder: where overlays, masks and records are written. sha256:
    of the checkpoint's file; its first 12 digits are in each record.
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
        coco: Path | None,
        coco_masks: bool,
        coco_ids: Path | None = None,
        reporter: Reporter,
        passed_over: Mapping[str, int] | None = None,
    ) -> None:
        """Args:
        paths: of the images, as `find_images` gives them.
        score_threshold: for boxes of every class, instead of the checkpoint's own.
        overlays, masks: which images are written; the records always are.
        coco: where all boxes are written to as a COCO dataset once all images are done. coco_masks: masks as well.
        coco_ids: a COCO file of labels, whose ids are taken; see `CocoResults`.

        Raises:
            OneheadError: the checkpoint or the labels cannot be used.
        """
        if coco is not None:
            if coco.suffix != ".json":  # a glob after --coco would name an image
                raise ConfigError(f"--coco {coco}: the name of a COCO file ends in .json")
            if coco.is_dir():
                raise ConfigError(f"--coco {coco}: a folder has this name")
            if coco_ids is not None and coco.resolve() == coco_ids.resolve():
                raise ConfigError(f"--coco {coco}: --coco-ids names the same file, whose labels would be lost")
            make_writable_folder(coco.parent, "--coco")
        self.checkpoint = checkpoint
        self.folder = config.output / FOLDER
        self.predictions = self.folder / records.FILE
        self.paths = paths
        self.passed_over = passed_over or {}
        self.failed = self.turned = self.dark = 0
        network = load_network(checkpoint, threads=config.threads)
        self.sha256 = sha256_of(checkpoint)
        self.tasks = network.architecture.tasks
        # An exported file takes one image at a time, and gives its mask at once.
        self._batch_size = 1 if isinstance(network, ExportedNetwork) else config.evaluation.batch_size
        self._threads = config.threads
        self._predictor = Predictor(network, config, score_threshold=score_threshold)
        self._overlays, self._masks = overlays, masks
        self._reporter = reporter
        self._places = Places(self.folder)
        self._coco_file, self._coco_masks = coco, coco_masks
        self._coco = _coco_results(list(self._predictor.colours), coco_ids) if coco else None
        self._coco_ids = coco_ids

    @property
    def images(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises: OneheadError: no image can be read, or nothing can be written into the folder."""
        try:
            with records.hold_records(self.folder, self._reporter) as written, threads_of_torch(self._threads):
                yield from self._go_on(written)
        except OSError as error:
            where = error.filename or self.folder
            raise OneheadError(
                f"{where}: cannot be written ({error.strerror or error}); choose another folder with --output"
            ) from None

    def _go_on(self, written: records.Records) -> Iterator[dict[str, Any]]:
        if self._overlays and (warning := numbers_for_names(self._predictor.classes)):
            self._reporter.warn(warning)
        task = image_task(self.tasks)
        if task is not None:
            count = len(self._predictor.classes[task])
            self._reporter.note(f"class: always the most likely of the {count} that this network knows")
        waiting: list[tuple[Path, dict[str, Any]]] | None = []  # None once an image has been read
        with self._reporter.track("predict", self.images) as advance:
            for done, (path, record) in enumerate(self._records(written), start=1):
                if "error" in record:
                    self.failed += 1
                    self._reporter.warn(f"{path}: {record['error']}")
                if waiting is None:
                    written.add(self._places.of(path), record)
                else:
                    waiting.append((path, record))
                    if "width" in record:
                        for each, its_record in waiting:
                            written.add(self._places.of(each), its_record)
                        waiting = None
                yield record
                advance(done, path.name)
        if self._coco is not None and self._coco_file is not None and waiting is None:
            _write_coco(self._coco_file, self._coco)
        if self.turned:
            self._reporter.note(f"turned by the EXIF orientation: {how_many(self.turned, 'image')}")
        if self.dark:
            self._reporter.warn(
                f"nearly black: {how_many(self.dark, '16-bit image')} with no value above {(DARK << 8) - 1} of 65535; "
                "stretch the values to 16 bits, or save them in 8"
            )
        if waiting is not None:
            kept = f"; {self.predictions} is from an earlier run" if self.predictions.is_file() else ""
            raise DataError(f"none of the images could be read: {self.failed} of {self.images} failed{kept}")

    def _records(self, written: records.Records) -> Iterator[tuple[Path, dict[str, Any]]]:
        kinds = [kind for task in self.tasks for kind in get_task(task).files]
        names = output_names(self.paths, self.folder, kinds, written.earlier)
        jobs = iter(zip(self.paths, names, strict=True))
        while batch := list(islice(jobs, self._batch_size)):
            for (path, name), found in zip(batch, self._batch(batch), strict=True):
                earlier = written.earlier.get(self._places.of(path))
                record = {**self._places.for_record(path), "checkpoint": self.sha256[:12], **found}
                if earlier is not None:
                    # Else they would pass for files of the user's own.
                    unwritten = earlier.files - set(map(of_json, records.written_files(record)))
                    if left := sorted(in_json(file) for file in unwritten if (self.folder / file).is_file()):
                        record["earlier"] = {"name": in_json(name), "files": left}
                yield path, record

    def _batch(self, batch: Sequence[tuple[Path, str]]) -> Iterator[dict[str, Any]]:
        """What the records say of (image, name of its outputs), in order."""
        inputs, fits, drawings = [], [], []
        errors: dict[Path, str] = {}
        for path, _ in batch:
            try:
                image = open_image(path)
                self.dark += is_nearly_black(path, image)
            except DataError as error:
                errors[path] = str(error).removeprefix(f"{path}: ")
                continue
            self.turned += is_turned(image)  # which still has the metadata of its file
            fitted, fit = self._predictor.fit(image)
            inputs.append(fitted)
            fits.append(fit)
            # The original may be a hundred times larger; only this copy waits for the forward pass.
            drawings.append(drawing_copy(image) if self._overlays else None)
        predictions = zip(self._predictor.predict(inputs, fits) if inputs else (), drawings, strict=True)
        for path, name in batch:
            if path in errors:
                yield {"error": errors[path]}
                continue
            prediction, drawing = next(predictions)
            if self._coco is not None:
                left_out = prediction.add_to_coco(self._coco, in_json(path), masks=self._coco_masks)
                if left_out is not None:
                    self._reporter.warn(f"{path}: {left_out} {self._coco_ids}, so it is not in the COCO file")
            yield self._write(name, prediction, drawing)

    def _write(self, name: str, prediction: Prediction, drawing: Image.Image | None) -> dict[str, Any]:
        """Write the files of a prediction; its record, with an error where one of them cannot be written."""
        record: dict[str, Any] = {"width": prediction.width, "height": prediction.height}
        errors = []

        def write(file: str, image: Image.Image, **options: Any) -> str | None:
            try:
                _write_png(self.folder / file, image, **options)
            except OSError as error:
                if error.errno in DISK_ERRORS:
                    raise
                errors.append(f"{self.folder / file}: cannot be written ({error.strerror})")
                return None
            return in_json(file)

        if drawing is not None and (overlay := write(f"{name}.png", prediction.draw(drawing), compress_level=4)):
            record["overlay"] = overlay

        def save(kind: str, image: Image.Image) -> str | None:
            return write(f"{name}_{kind}.png", image) if self._masks else None

        for found in prediction.found.values():
            record |= found.record(save)
        return {**record, "error": "; ".join(errors)} if errors else record


def _coco_results(names: list[str], ids: Path | None) -> CocoResults:
    try:
        return CocoResults(names, None if ids is None else read_json(ids))
    except ValueError as error:
        raise DataError(f"--coco-ids {ids}: {error}") from None


def _write_coco(path: Path, results: CocoResults) -> None:
    content = json.dumps(results.document()).encode() + b"\n"
    try:
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise OneheadError(f"--coco {path}: cannot be written ({error.strerror})") from None


def _write_png(path: Path, image: Image.Image, **options: Any) -> None:
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    write_whole(path, content.getbuffer(), kind=records.TEMPORARY)
