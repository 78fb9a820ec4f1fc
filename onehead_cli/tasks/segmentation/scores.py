"""Scores of the segmentation task, from one confusion matrix over the whole split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.tasks.reader import Row
from onehead_cli.tasks.task import confusion_rows


def confusion_matrix(
    predicted: NDArray[np.uint8], label: NDArray[np.uint8], num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> NDArray[np.int64]:
    """Count the pixels of each true class (row) that were given each class (column).

    Args:
        predicted: uint8 [H, W].
        label: uint8 [H, W]; pixels of `ignore_index` are left out.
        num_classes: C.

    Returns:
        int64 [C, C].

    Raises:
        ValueError: sizes that differ, or a counted pixel outside 0..C-1.
    """
    if predicted.shape != label.shape:
        raise ValueError(f"the prediction is {predicted.shape}, the label {label.shape}")
    counted = label != ignore_index
    truth, given = label[counted].astype(np.int64), predicted[counted]
    if truth.size and max(truth.max(), given.max()) >= num_classes:
        raise ValueError(f"a pixel lies outside 0..{num_classes - 1}")
    return np.bincount(truth * num_classes + given, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class SegmentationResult:
    """What a network said about the pixels of each image of a split.

    matrices: int64 [n, C, C], a `confusion_matrix` an image.
    class_names: the C names.

    Raises:
        ValueError: shapes that do not fit together.
    """

    matrices: NDArray[np.int64]
    class_names: Sequence[str]
    task: ClassVar[str] = "seg"

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.matrices.ndim != 3 or self.matrices.shape[1:] != (classes, classes):
            raise ValueError(f"matrices {self.matrices.shape} do not fit {classes} classes")

    def __len__(self) -> int:
        return len(self.matrices)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Pixels of each true class (row) that were given each class (column), int64 [C, C]."""
        total: NDArray[np.int64] = self.matrices.sum(axis=0, dtype=np.int64)
        return total

    def scores(self) -> dict[str, float | None]:
        """The mean IoU of the classes that have a true pixel, and the share of pixels that are right."""
        pixels = int(self.confusion.sum())
        if not pixels:
            return {"miou": None, "pixel_accuracy": None}
        return {
            "miou": float(np.nanmean(self._class_ious())),
            "pixel_accuracy": int(self.confusion.trace()) / pixels,
        }

    def per_class(self) -> list[Row]:
        """A row per class: name, count (true pixels) and iou, None for a class without a true pixel."""
        counts = self.confusion.sum(axis=1)
        return [
            {"name": name, "count": int(count), "iou": float(iou) if count else None}
            for name, count, iou in zip(self.class_names, counts, self._class_ious(), strict=True)
        ]

    def resampled(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Mean IoU when image i is taken counts[r, i] times; counts int [R, n], returns float64 [R].

        A class without a true pixel in a resample is left out of its mean; NaN where no class has one.
        """
        weights = counts.astype(np.float64)
        right = weights @ self.matrices.diagonal(axis1=1, axis2=2)  # [R, C]
        truth, given = weights @ self.matrices.sum(axis=2), weights @ self.matrices.sum(axis=1)
        ious, present = _ious(right, truth, given), truth > 0
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = np.where(present, ious, 0.0).sum(axis=1) / present.sum(axis=1)
        return mean

    def curves(self) -> dict[str, list[list[Any]]]:
        """The confusion matrix of the pixels: a row per true class, a column per predicted one."""
        return {f"confusion_{self.task}": confusion_rows(self.confusion, self.class_names)}

    def _class_ious(self) -> NDArray[np.float64]:
        matrix = self.confusion
        return _ious(matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))


def _ious(right: NDArray[np.number], truth: NDArray[np.number], given: NDArray[np.number]) -> NDArray[np.float64]:
    """Intersection over union from pixel counts of one shape; NaN without a true pixel."""
    union = np.where(truth > 0, truth + given - right, np.nan)
    return np.asarray(right / union, dtype=np.float64)
