"""Scores of the classification task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.listing import ClassFolders
from onehead_cli.data.split import TaskData
from onehead_cli.errors import OneheadError
from onehead_cli.tasks.soft_targets import _kl
from onehead_cli.types import Pooling, Row, Task


@dataclass(frozen=True)
class ClassificationResult:
    """What a network said about each picture of a split.

    logits: float [n, C], a row a picture.
    labels: int [n], the true class of each picture.
    class_names: the C names.

    Raises:
        ValueError: shapes that do not fit together, or a label outside 0..C-1.
        OneheadError: a logit that is NaN or infinite.
    """

    logits: NDArray[np.floating]
    labels: NDArray[np.integer]
    class_names: Sequence[str]
    task: ClassVar[Task] = Task.CLS

    def __post_init__(self) -> None:
        n, classes = len(self.labels), len(self.class_names)
        if self.logits.shape != (n, classes):
            raise ValueError(f"logits {self.logits.shape} do not fit {n} labels and {classes} classes")
        if n and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"a label lies outside 0..{classes - 1}")
        bad = n - int(np.isfinite(self.logits).all(axis=1).sum())
        if bad:  # argmax would call a NaN the best class
            raise OneheadError(f"the class scores of {bad} of {n} pictures are not finite; train the network again")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The best class of each picture, int64 [n]; the first of equals."""
        best: NDArray[np.int64] = self.logits.argmax(axis=1)
        return best

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Pictures of each true class (row) that were given each class (column), int64 [C, C]."""
        classes = len(self.class_names)
        cells = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes)

    def scores(self) -> dict[str, float | None]:
        """Share of the pictures whose true class is the best one (top1) or among the best min(5, C) (top5)."""
        if not len(self):
            return {"top1": None, "top5": None}
        best = np.argsort(-self.logits, axis=1, kind="stable")[:, :5]
        hits = best == self.labels[:, None]  # [n, min(5, C)]
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}

    def per_class(self) -> list[Row]:
        """A row a class: name, count (pictures), top1 (recall) and precision.

        Both are None for a class without pictures; the precision also for one that was never predicted.
        """
        rows: list[Row] = []
        for index, name in enumerate(self.class_names):
            count, given = int(self.confusion[index].sum()), int(self.confusion[:, index].sum())
            right = int(self.confusion[index, index])
            rows.append(
                {
                    "name": name,
                    "count": count,
                    "top1": right / count if count else None,
                    "precision": right / given if count and given else None,
                }
            )
        return rows

    def resampled(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Top-1 when picture i is taken counts[r, i] times; counts int [R, n], returns float64 [R]."""
        weights = counts.astype(np.float64)
        top1: NDArray[np.float64] = weights @ (self.predicted == self.labels) / weights.sum(axis=1)
        return top1


class ClassificationData(TaskData):
    """labels: int, one a picture."""

    task = Task.CLS

    def __init__(
        self,
        found: ClassFolders,
        data: DataConfig,
        interpolation: str,
        budget: CacheBudget,
        device: torch.device = CPU,
    ) -> None:
        self.labels = found.labels
        super().__init__(found.pictures, found.classes, data, interpolation, budget, device)

    def _targets(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self.labels[i] for i in indices])


#: No cell is less sure than one part in as many classes; it stands for a threshold of 0.
_SMALLEST_THRESHOLD = 1e-6


def pool_classes(class_map: Tensor, threshold: float, *, pooling: Pooling = "gate") -> Tensor:
    """Average the logits of the cells, those that are sure of their class above all.

    Args:
        class_map: float [B, C, h, w], logits per cell.
        threshold: gate: cells whose largest softmax value is below it are left out; where none is left, all are
            averaged. soft: such a cell counts by its share of the threshold, so that a cell that crosses it changes
            nothing at once.

    Returns:
        Logits, float [B, C].
    """
    logits = class_map.float().flatten(2)  # [B, C, h*w]
    with torch.no_grad():
        sureness = logits.softmax(1).amax(1, keepdim=True)  # [B, 1, h*w]
        if pooling == "soft":
            weight = (sureness / max(threshold, _SMALLEST_THRESHOLD)).clamp(max=1)
        else:
            sure = sureness >= threshold
            weight = (sure | ~sure.any(2, keepdim=True)).to(logits.dtype)
    return (logits * weight).sum(2) / weight.sum(2)


def classification_loss(
    class_map: Tensor,
    labels: Tensor,
    *,
    cell_threshold: float,
    pooling: Pooling = "gate",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy a picture, float [B].

    Args:
        class_map: logits, float [B, C, h, w], pooled as in `decode.pool_classes`.
        labels: int64 [B].
    """
    logits = pool_classes(class_map, cell_threshold, pooling=pooling)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def distil_classes(
    student_map: Tensor, teacher_map: Tensor, *, cell_threshold: float, temperature: float, pooling: Pooling = "gate"
) -> Tensor:
    """T^2 KL(teacher || student) of the pooled class maps [B, C, h, w], float [B] (Hinton et al., arXiv 1503.02531)."""
    student = pool_classes(student_map, cell_threshold, pooling=pooling)
    teacher = pool_classes(teacher_map, cell_threshold, pooling=pooling)
    return _kl(student, teacher, temperature)
