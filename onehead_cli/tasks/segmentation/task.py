"""Segmentation: the class of each pixel."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.config.sections import Config
from onehead_cli.data.batch import Target
from onehead_cli.data.format import Listing
from onehead_cli.data.geometry import Fit
from onehead_cli.data.mask_folders import MaskFoldersListing
from onehead_cli.data.split import Loading, Split
from onehead_cli.drawing import DARK, class_text
from onehead_cli.tasks.canvas import Canvas
from onehead_cli.tasks.labels import Histogram, Label, LabelCounts
from onehead_cli.tasks.segmentation.copy_paste import Pastes
from onehead_cli.tasks.segmentation.loss import segmentation_loss
from onehead_cli.tasks.segmentation.reading import read_mask
from onehead_cli.tasks.segmentation.repeat_factor import mask_classes, repeat_factors
from onehead_cli.tasks.segmentation.scores import SegmentationResult, confusion_matrix
from onehead_cli.tasks.segmentation.split import Masks, SegmentationSplit
from onehead_cli.tasks.soft_targets import distil_cells
from onehead_cli.tasks.task import Metric, Reader, Reading, Setting, Task

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class SegmentationReader(Reader):
    """Upsamples the map to the image; see `read_mask`. What is kept of a labelled image is its confusion matrix."""

    classes: Sequence[str]

    def observe(
        self, maps: Tensor, split: Split, indices: Sequence[int], *, choosing: bool = False
    ) -> list[NDArray[np.int64]]:
        assert isinstance(split, SegmentationSplit)
        matrices = []
        for index, one in zip(indices, maps, strict=True):
            predicted = read_mask(one, split.fit(index))
            matrices.append(confusion_matrix(predicted, split.mask(index), len(split.classes)))
        return matrices

    def result(self, observations: Sequence[NDArray[np.int64]], splits: Sequence[Split]) -> SegmentationResult:
        return SegmentationResult(np.stack(observations), splits[0].classes)

    def predict(self, maps: Tensor, fits: Sequence[Fit]) -> Iterator[FoundMask]:
        return (FoundMask(self.classes, read_mask(one, fit)) for one, fit in zip(maps, fits, strict=True))


@dataclass(frozen=True)
class FoundMask:
    """mask: uint8 [height, width], class indices, in pixels of the image."""

    classes: Sequence[str]
    mask: NDArray[np.uint8]

    def record(self, save: Callable[[str, Image.Image], str | None]) -> dict[str, Any]:
        from onehead_cli.data.images import palette_image

        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes)).tolist()
        pixels = {label: count for label, count in zip(self.classes, counts, strict=True) if count}
        file = save("mask", palette_image(self.mask))
        return {"mask": {"pixels": pixels} if file is None else {"file": file, "pixels": pixels}}

    def paint(self, canvas: Canvas) -> None:
        names = self.classes[1:]  # the background is left as it is
        table = np.array([DARK, *(canvas.colours[name] for name in names)], dtype=np.uint8)
        canvas.tint = (self.mask, table)
        canvas.legend = [*canvas.legend, *self._shares()]

    def _shares(self) -> list[tuple[str, str]]:
        """The classes in the mask but the background, each with the share of the image it covers; largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if i and counts[i]]
        shares = [float(counts[i] / self.mask.size) for i in order]
        texts = [f"{share:.0%}" if share >= 0.005 else "<1%" for share in shares]
        names = [self.classes[i] for i in order]
        return [(name, f"{class_text(name, i)} {t}") for name, i, t in zip(names, order, texts, strict=True)]


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

    @property
    def histogram(self) -> Histogram:
        return Histogram(("images that show it", "pixels"), has_background=True)

    def counts_document(self, counts: LabelCounts) -> dict[str, Any]:
        return {"void": {"pictures": counts.images(None), "pixels": counts.amounts[None]}}

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
