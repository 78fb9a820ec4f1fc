"""Scores of the classification task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onehead_cli.errors import OneheadError
from onehead_cli.tasks.reader import Row
from onehead_cli.tasks.task import confusion_rows

NAME = "cls"


@dataclass(frozen=True)
class ClassificationResult:
    """What a network said about each image of a split.

    logits: float [n, C], a row per image.
    labels: int [n], the true class of each image.
    class_names: the C names.

    Raises:
        ValueError: shapes that do not fit together, or a label outside 0..C-1.
        OneheadError: a logit that is NaN or infinite.
    """

    logits: NDArray[np.floating]
    labels: NDArray[np.integer]
    class_names: Sequence[str]
    task: ClassVar[str] = NAME

    def __post_init__(self) -> None:
        n, classes = len(self.labels), len(self.class_names)
        if self.logits.shape != (n, classes):
            raise ValueError(f"logits {self.logits.shape} do not fit {n} labels and {classes} classes")
        if n and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"a label lies outside 0..{classes - 1}")
        bad = n - int(np.isfinite(self.logits).all(axis=1).sum())
        if bad:  # argmax would call a NaN the best class
            raise OneheadError(f"the class scores of {bad} of {n} images are not finite; train the network again")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The best class of each image, int64 [n]; the first of equals."""
        best: NDArray[np.int64] = self.logits.argmax(axis=1)
        return best

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64 [n, C]."""
        powers = np.exp(self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Images of each true class (row) that were given each class (column), int64 [C, C]."""
        classes = len(self.class_names)
        cells = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes)

    def scores(self) -> dict[str, float | None]:
        """Share of the images whose true class is the best one (top1) or among the best min(5, C) (top5)."""
        if not len(self):
            return {"top1": None, "top5": None}
        best = np.argsort(-self.logits, axis=1, kind="stable")[:, :5]
        hits = best == self.labels[:, None]  # [n, min(5, C)]
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}

    def per_class(self) -> list[Row]:
        """A row per class: name, count (images), top1 (recall) and precision.

        Both are None for a class without images; the precision also for one that was never predicted.
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
        """Top-1 when image i is taken counts[r, i] times; counts int [R, n], returns float64 [R]."""
        weights = counts.astype(np.float64)
        top1: NDArray[np.float64] = weights @ (self.predicted == self.labels) / weights.sum(axis=1)
        return top1

    def curves(self) -> dict[str, list[list[Any]]]:
        """The confusion matrix: a row per true class, a column per predicted one."""
        return {f"confusion_{NAME}": confusion_rows(self.confusion, self.class_names)}
