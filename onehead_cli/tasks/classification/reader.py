"""Reads the class of an image: on labelled splits, and on images without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onehead_cli.config.sections import Pooling
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split
from onehead_cli.drawing import class_text
from onehead_cli.tasks.canvas import Canvas
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.classification.scores import ClassificationResult
from onehead_cli.tasks.classification.split import ClassificationSplit
from onehead_cli.tasks.reader import Choice, Reader
from onehead_cli.wording import readable

if TYPE_CHECKING:
    from PIL import Image

    from onehead_cli.coco_results import CocoResults

#: The thresholds that are tried on val for leaving out unsure cells.
_CELL_THRESHOLDS = [i / 20 for i in range(20)]
#: Soft pooling has none above: bf16 would move the answer more than it does without a threshold.
_HIGHEST_SOFT = 0.3


@dataclass
class ClassificationReader(Reader):
    """Pools the class map; see `pool_classes`."""

    classes: Sequence[str]
    threshold: float
    pooling: Pooling

    def observe(self, maps: Tensor, split: Split, indices: Sequence[int], *, choosing: bool = False) -> list[Tensor]:
        return list(torch.split(maps.cpu(), 1))

    def result(self, observations: Sequence[Tensor], splits: Sequence[Split]) -> ClassificationResult:
        return self._result(torch.cat(list(observations)), labels_of(splits), self.threshold)

    def choose(self, observations: Sequence[Tensor], split: Split) -> Choice:
        maps, labels = torch.cat(list(observations)), labels_of([split])
        threshold = self.best_threshold(maps, labels)
        return Choice(self._result(maps, labels, threshold), {"cells": threshold})

    def predict(self, maps: Tensor, fits: Sequence[Fit]) -> Iterator[FoundClass]:
        probabilities = pool_classes(maps, self.threshold, pooling=self.pooling).softmax(1).cpu().numpy()
        return (FoundClass(self.classes, row) for row in probabilities)

    def best_threshold(self, maps: Tensor, labels: Sequence[int]) -> float:
        """The threshold whose pooling gives the best top-1, and among equals the lowest cross-entropy, then the lowest.

        Args: maps: class maps of val, float [n, C, h, w].
        """
        truth = torch.tensor(labels)

        def merit(threshold: float) -> tuple[float, float, float]:
            logits = pool_classes(maps, threshold, pooling=self.pooling)
            top1 = float((logits.argmax(1) == truth).float().mean())
            return top1, -float(nn.functional.cross_entropy(logits, truth)), -threshold

        highest = _HIGHEST_SOFT if self.pooling == "soft" else 1.0
        return max((threshold for threshold in _CELL_THRESHOLDS if threshold <= highest), key=merit)

    def _result(self, maps: Tensor, labels: Sequence[int], threshold: float) -> ClassificationResult:
        logits = pool_classes(maps, threshold, pooling=self.pooling)
        return ClassificationResult(logits.numpy(), np.array(labels), self.classes)


def labels_of(splits: Sequence[Split]) -> list[int]:
    """The true class of each image of the splits, one after the other."""
    found: list[int] = []
    for split in splits:
        assert isinstance(split, ClassificationSplit)
        found += split.labels
    return found


@dataclass(frozen=True)
class FoundClass:
    """probabilities: float [classes], of one image."""

    classes: Sequence[str]
    probabilities: NDArray[np.float32]

    def likely(self) -> list[tuple[str, float]]:
        """The five likeliest classes, best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:5]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def record(self, save: Callable[[str, Image.Image], str | None]) -> dict[str, Any]:
        top = [{"name": n, "title": readable(n), "probability": round(p, 6)} for n, p in self.likely()]
        return {"class": {**top[0], "top5": top}}

    def add_to_coco(self, results: CocoResults, *, masks: bool) -> None:
        return None

    def paint(self, canvas: Canvas) -> None:
        canvas.banner = [(class_text(name, self.classes.index(name)), p) for name, p in self.likely()]
