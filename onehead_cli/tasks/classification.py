"""Classification: the class of a whole image, pooled from the cells of its map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from onehead_cli.config.sections import Config, EvaluationConfig, Pooling
from onehead_cli.data.augment import Seen
from onehead_cli.data.batch import Target
from onehead_cli.data.class_folders import ClassFoldersListing
from onehead_cli.data.format import Listing
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Loading, Split
from onehead_cli.drawing import class_text
from onehead_cli.errors import OneheadError
from onehead_cli.tasks.canvas import Canvas
from onehead_cli.tasks.labels import Label
from onehead_cli.tasks.soft_targets import kl
from onehead_cli.tasks.task import Choice, Metric, Reader, Reading, Row, Setting, Task, confusion_rows
from onehead_cli.wording import readable

if TYPE_CHECKING:
    from PIL import Image

NAME = "cls"

#: The thresholds that are tried on val for leaving out unsure cells.
_CELL_THRESHOLDS = [i / 20 for i in range(20)]
#: Soft pooling has none above: bf16 would move the answer more than it does without a threshold.
_HIGHEST_SOFT = 0.3


@dataclass
class ClassLabels(Target):
    """labels: int64 [B]."""

    labels: Tensor

    def seen_through(self, seen: Seen) -> ClassLabels:
        return self


class ClassificationSplit(Split):
    """labels: int, one per image."""

    task = NAME

    def __init__(self, listing: ClassFoldersListing, *args: Any, **options: Any) -> None:
        super().__init__(listing, *args, **options)
        self.labels = listing.labels

    def target(self, indices: Sequence[int]) -> ClassLabels:
        return ClassLabels(torch.tensor([self.labels[i] for i in indices]))


@dataclass
class ClassificationReader(Reader):
    """Pools the class map; see `pool_classes`."""

    classes: Sequence[str]
    threshold: float
    pooling: Pooling

    def observe(self, maps: Tensor, split: Split, indices: Sequence[int], *, choosing: bool = False) -> list[Tensor]:
        return list(torch.split(maps.cpu(), 1))

    def result(self, observations: Sequence[Tensor], splits: Sequence[Split]) -> ClassificationResult:
        return self._result(torch.cat(list(observations)), _labels(splits), self.threshold)

    def choose(self, observations: Sequence[Tensor], split: Split) -> Choice:
        maps, labels = torch.cat(list(observations)), _labels([split])
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


def _labels(splits: Sequence[Split]) -> list[int]:
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

    def paint(self, canvas: Canvas) -> None:
        canvas.banner = [(class_text(name, self.classes.index(name)), p) for name, p in self.likely()]


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
    """Cross-entropy per image, float [B].

    Args:
        class_map: logits, float [B, C, h, w], pooled as by `pool_classes`.
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
    return kl(student, teacher, temperature)


class Classification(Task):
    """Top-1 of the class folders."""

    name = NAME
    title = "Classification"
    metrics = (Metric("top1", "Top-1"), Metric("top5", "Top-5"))
    class_scores: ClassVar[Mapping[str, str]] = {"top1": "Top-1", "precision": "Precision"}
    counted = "Images"
    names_images = True

    def load(self, listing: Listing, config: Config, loading: Loading) -> ClassificationSplit:
        assert isinstance(listing, ClassFoldersListing)
        return ClassificationSplit(listing, config.data, loading)

    def loss(self, task_map: Tensor, target: Target, image_size: int, setting: Setting) -> Tensor:
        assert isinstance(target, ClassLabels)
        return classification_loss(
            task_map,
            target.labels,
            cell_threshold=setting.config.model.cell_threshold,
            pooling=setting.config.model.pooling,
            label_smoothing=setting.schedule.label_smoothing,
        )

    def distil(self, student_map: Tensor, teacher_map: Tensor, setting: Setting) -> Tensor:
        return distil_classes(
            student_map,
            teacher_map,
            cell_threshold=setting.config.model.cell_threshold,
            temperature=setting.config.distill.temperature,
            pooling=setting.config.model.pooling,
        )

    def teacher_reads(self, config: Config) -> tuple[str, ...]:
        # The backbone's ImageNet classifier is one more teacher.
        return ("distill.lambda", "distill.temperature") if config.teacher.imagenet_teacher else ()

    def first_reading(self, config: Config) -> dict[str, Any]:
        return {"pooling": config.model.pooling}

    def changed_reading(self, stored: Mapping[str, Any], config: EvaluationConfig) -> dict[str, Any]:
        return {"pooling": stored.get("pooling", "gate")}

    def first_thresholds(self, config: Config) -> dict[str, Any]:
        return {"cells": config.model.cell_threshold}

    def reader(self, reading: Reading) -> ClassificationReader:
        classes = reading.architecture.classes[self.name]
        return ClassificationReader(classes, reading.thresholds["cells"], reading.values["pooling"])

    record_column = "Class"

    def record_cell(self, record: Mapping[str, Any]) -> str:
        return f"{record['class']['title']} {record['class']['probability']:.0%}" if "class" in record else ""

    def show_label(self, split: Split, index: int) -> Label:
        assert isinstance(split, ClassificationSplit)
        return Label(text=split.classes[split.labels[index]])


CLASSIFICATION = Classification()
