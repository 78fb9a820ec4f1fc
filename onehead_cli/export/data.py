"""The data that an export reads: training images to calibrate int8 by, and val to measure it by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.checkpoint.exported import ExportedNetwork
from onehead_cli.config.sections import Config
from onehead_cli.data.format import check_classes, get_format
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import fit_image, open_image
from onehead_cli.data.listings import Listings
from onehead_cli.data.scan.bad_files import settle
from onehead_cli.data.scan.scan import scan_data
from onehead_cli.errors import DataError
from onehead_cli.evaluation.compare import find_drops
from onehead_cli.evaluation.drop_check import Drop
from onehead_cli.evaluation.measurer import Measurer
from onehead_cli.events import Reporter
from onehead_cli.export.measure import in_float32


@dataclass(frozen=True)
class ExportData:
    """The splits that the config names, of the exported tasks."""

    checkpoint: Checkpoint
    tasks: Sequence[str]
    config: Config
    listings: Listings
    reporter: Reporter

    @classmethod
    def open(
        cls, checkpoint: Checkpoint, tasks: Sequence[str], config: Config, reporter: Reporter, *, needed: bool
    ) -> ExportData | None:
        """None where the data cannot be used, which is said. Bad images are left out, and named.

        Raises:
            DataError: they cannot, and are needed.
        """
        classes = {task: checkpoint.architecture.classes[task] for task in tasks}
        listings = Listings(config, classes=classes)
        splits = [config.data.val_split, *([config.data.train_split] if needed else [])]
        try:
            for task in tasks:
                for split in splits:
                    check_classes(task, listings.get(task, split).classes, list(classes[task]), f"split {split}")
            scan = scan_data({(t, s): listings.get(t, s) for t in tasks for s in splits}, reporter=reporter)
            scan.doubts.clear()  # of labels, from which nothing is learned here
            settle(scan, skip_bad=True, folder=None, reporter=reporter)
            listings.leave_out(scan.bad)
        except DataError as error:
            if needed:
                raise
            # Without any data nobody expects one.
            is_there = any(get_format(task).is_there(config, split) for task in tasks for split in splits)
            (reporter.warn if is_there else reporter.note)(f"no drop check: {error}")
            return None
        return cls(checkpoint, tasks, config, listings, reporter)

    def calibration(self, count: int) -> list[NDArray[np.uint8]]:
        """Images of the training split as the network sees them, uint8 [S, S, 3]; as many of each task, spread
        evenly."""
        stored, images = self.checkpoint.preprocess, list[NDArray[np.uint8]]()
        for place, task in enumerate(self.tasks):
            paths = self.listings.get(task, self.config.data.train_split).images
            wanted = count // len(self.tasks) + (place < count % len(self.tasks))
            chosen = np.linspace(0, len(paths) - 1, min(wanted, len(paths))).round().astype(int)
            for image in self._readable([paths[index] for index in chosen]):
                fit = Fit.of(image.width, image.height, stored["image_size"], stored["fit"])
                images.append(fit_image(image, fit, stored["interpolation"]))
        return images

    def validation(self) -> Iterator[Image.Image]:
        """All images of val, of all tasks."""
        for task in self.tasks:
            yield from self._readable(self.listings.get(task, self.config.data.val_split).images)

    def drops(self, checkpoint: Checkpoint, network: ExportedNetwork) -> list[Drop]:
        """What the file loses on val against the checkpoint in float32; none where it cannot be measured, which is
        said."""
        config = in_float32(self.config)
        measurer = Measurer(config, [config.data.val_split], self.listings, self.reporter)
        try:
            baseline = measurer.measure("checkpoint", dict.fromkeys(self.tasks, checkpoint))
            unified = measurer.measure("exported file", dict.fromkeys(self.tasks, network))
        except DataError as error:
            self.reporter.warn(f"no drop check: {error}")
            return []
        return find_drops(config, baseline, unified, warn=self.reporter.warn)

    def _readable(self, paths: Sequence[Path]) -> Iterator[Image.Image]:
        """The images but those that cannot be read: of many images, the scan has decoded a sample."""
        for path in paths:
            try:
                yield open_image(path)
            except DataError as error:
                self.reporter.warn(f"left out: {error}")
