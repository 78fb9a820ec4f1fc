"""Segmentation: the class of each pixel."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from onehead_cli.config.sections import Config
from onehead_cli.data.batch import Target
from onehead_cli.data.format import Listing
from onehead_cli.data.mask_folders import MaskFoldersListing
from onehead_cli.data.split import Loading, Split
from onehead_cli.tasks.figures import Figure, shares_of_rows
from onehead_cli.tasks.labels import Histogram, Label, LabelCounts
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.segmentation.copy_paste import Pastes
from onehead_cli.tasks.segmentation.exported import ExportedMasks, MaskReading
from onehead_cli.tasks.segmentation.loss import segmentation_loss
from onehead_cli.tasks.segmentation.reader import SegmentationReader
from onehead_cli.tasks.segmentation.repeat_factor import mask_classes, repeat_factors
from onehead_cli.tasks.segmentation.scores import SegmentationResult
from onehead_cli.tasks.segmentation.split import Masks, SegmentationSplit
from onehead_cli.tasks.soft_targets import distil_cells
from onehead_cli.tasks.task import Metric, Reading, Setting, Task


class Segmentation(Task):
    """Mean IoU of masks."""

    name = "seg"
    title = "Segmentation"
    metrics = (Metric("miou", "mIoU"),)
    class_scores: ClassVar[Mapping[str, str]] = {"iou": "IoU"}
    counted = "Pixels"
    section = "segmentation"
    files = ("mask",)
    names_things = True
    reference_classes = 21

    def load(self, listing: Listing, config: Config, loading: Loading) -> SegmentationSplit:
        assert isinstance(listing, MaskFoldersListing)
        split, taught = SegmentationSplit(listing, config.data, loading), config.segmentation
        if loading.training and taught.repeat_factor:
            split.repeats = repeat_factors(mask_classes(listing), taught.repeat_factor)
        if loading.training and taught.copy_paste:
            split.mixing = functools.partial(Pastes.draw, probability=taught.copy_paste)
        return split

    def loss(self, task_map: Tensor, target: Target, image_size: int, setting: Setting) -> Tensor:
        assert isinstance(target, Masks)
        return segmentation_loss(task_map, target.masks, lovasz=setting.config.segmentation.lovasz)

    def distil(self, student_map: Tensor, teacher_map: Tensor, setting: Setting) -> Tensor:
        return distil_cells(student_map, teacher_map, temperature=setting.config.distill.temperature)

    def cells_weight(self, config: Config) -> float:
        return config.segmentation.imagenet_cells

    def teacher_reads(self, config: Config) -> tuple[str, ...]:
        # It learns from the ImageNet classifier in each cell, by a weight of its own.
        return ("distill.temperature",) if config.segmentation.imagenet_cells else ()

    def reader(self, reading: Reading) -> SegmentationReader:
        return SegmentationReader(reading.architecture.classes[self.name])

    def exported(self, reading: Reading) -> MaskReading:
        return MaskReading(len(reading.architecture.classes[self.name]))

    def exported_reader(self, reading: Reading, fixed: Mapping[str, Any]) -> ExportedMasks:
        return ExportedMasks(reading.architecture.classes[self.name])

    @property
    def histogram(self) -> Histogram:
        return Histogram(("images that show it", "pixels"), has_background=True)

    def counts_document(self, counts: LabelCounts) -> dict[str, Any]:
        return {"void": {"pictures": counts.images(None), "pixels": counts.amounts[None]}}

    def figures(self, result: Result, thresholds: Mapping[str, Any]) -> list[Figure]:
        assert isinstance(result, SegmentationResult)
        note = "Share of the pixels of each true class (row) that got each predicted class (column)."
        return [shares_of_rows(result.confusion, result.class_names, title="Confusion", note=note)]

    record_column = "Mask"

    def record_cell(self, record: Mapping[str, Any]) -> str:
        """The three largest classes."""
        area, pixels = record["width"] * record["height"], record.get("mask", {}).get("pixels", {})
        largest = [(name, count / area) for name, count in Counter(pixels).most_common(3) if count >= 0.005 * area]
        return ", ".join(f"{name} {share:.0%}" for name, share in largest)

    counts_title = "images that show the class, share of all pixels"

    def counts_cell(self, found: Mapping[str, int], split: Mapping[str, Any]) -> str:
        pixels = split["void"]["pixels"] + sum(one["pixels"] for one in split["classes"].values())
        return f"{found['pictures']} {found['pixels'] / pixels:6.1%}"

    def counts_rows(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        return {"(void)": lambda split: self.counts_cell(split["void"], split)}

    def show_label(self, split: Split, index: int) -> Label:
        assert isinstance(split, SegmentationSplit)
        return Label(mask=split.mask(index))

    def colour_names(self, classes: Sequence[str]) -> Sequence[str]:
        return classes[1:]


SEGMENTATION = Segmentation()
