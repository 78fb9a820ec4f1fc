"""The few types that every part of the system shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


class Task(StrEnum):
    """The three tasks, in the order of the head's groups."""

    CLS = "cls"
    SEG = "seg"
    DET = "det"


TASKS = tuple(Task)

#: The score that stands for a task in the drop check and in the choice of a checkpoint.
MAIN_METRIC = {Task.CLS: "top1", Task.SEG: "miou", Task.DET: "map"}

#: How the class map's cells become one answer; see `decode.pool_classes`.
Pooling = Literal["gate", "soft"]

#: What the sizes of boxes are counted in: the sides of the input, or cells of the map.
SizeUnit = Literal["input", "cells"]

#: The label of a mask pixel that belongs to no class ("void" in VOC).
IGNORE_INDEX = 255

#: A row of a table a class: its name, counts and scores.
Row = dict[str, float | int | str | None]

#: TaskOutputs[task] is the map of that task: float [B, channels of the task, S / 16, S / 16].
TaskOutputs = dict[Task, "Tensor"]


@dataclass
class DetectionTarget:
    """Boxes of a batch, padded to the largest count M of a picture.

    boxes: float [B, M, 4], x1 y1 x2 y2 in pixels of the S x S input.
    labels: int64 [B, M], class index, or -1 for padding.
    crowd: bool [B, M], True for a region to ignore (its label does not matter).
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor


@dataclass
class TaskBatch:
    """A mini-batch of one task.

    images: float [B, 3, S, S] in 0..1 (the model normalises).
    target: int64 [B] (cls), int64 [B, S, S] (seg), or a DetectionTarget (det).
    names: the B pictures, for messages.
    total: pictures of the mini-batch in all processes together; B where there is one process.
    mask_boxes: of segmentation pictures, the boxes read out of their masks; None where detection does not ask.
    """

    images: Tensor
    target: Tensor | DetectionTarget
    names: list[str]
    total: int = 0
    mask_boxes: DetectionTarget | None = None

    def __post_init__(self) -> None:
        self.total = self.total or len(self.names)


#: One mini-batch of each task; a task may be absent.
Batch = dict[Task, TaskBatch]
