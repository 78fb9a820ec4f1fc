"""Reads the masks of a segmentation map: on labelled splits, and on images without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split
from onehead_cli.drawing import DARK, class_text
from onehead_cli.tasks.canvas import Canvas
from onehead_cli.tasks.reader import Reader
from onehead_cli.tasks.segmentation.reading import read_mask
from onehead_cli.tasks.segmentation.scores import SegmentationResult, confusion_matrix
from onehead_cli.tasks.segmentation.split import SegmentationSplit

if TYPE_CHECKING:
    from PIL import Image

    from onehead_cli.coco_results import CocoResults


@dataclass
class SegmentationReader(Reader):
    """Upsamples the map to the image; see `read_mask`. What is kept of a labelled image is its confusion matrix."""

    classes: Sequence[str]

    def masks(self, maps: Any, fits: Iterable[Fit]) -> Iterator[NDArray[np.uint8]]:
        """The mask of each image, uint8 [height, width]."""
        return (read_mask(one, fit) for one, fit in zip(maps, fits, strict=True))

    def observe(
        self, maps: Any, split: Split, indices: Sequence[int], *, choosing: bool = False
    ) -> list[NDArray[np.int64]]:
        assert isinstance(split, SegmentationSplit)
        masks = self.masks(maps, [split.fit(index) for index in indices])
        return [
            confusion_matrix(predicted, split.mask(index), len(split.classes))
            for index, predicted in zip(indices, masks, strict=True)
        ]

    def result(self, observations: Sequence[NDArray[np.int64]], splits: Sequence[Split]) -> SegmentationResult:
        return SegmentationResult(np.stack(observations), splits[0].classes)

    def predict(self, maps: Any, fits: Sequence[Fit]) -> Iterator[FoundMask]:
        return (FoundMask(self.classes, mask) for mask in self.masks(maps, fits))


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

    def add_to_coco(self, results: CocoResults, *, masks: bool) -> None:
        if masks:
            results.add_mask(self.mask, self.classes)

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
