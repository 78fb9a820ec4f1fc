"""The one head: a group of channels a task and a last group that all tasks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from onehead_cli.model.necks import NECK_CHANNELS
from onehead_cli.types import Task


class Head(nn.Module):
    """Project the aggregated necks and give each group its own 1x1 convolution.

    float [B, 256, h, w] -> own [B, width, h, w] a task, and shared [B, width, h, w].

    tasks: those that have a group, in the order of the groups; a teacher's head has the student's.
    """

    def __init__(self, width: int, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.width = width
        self.tasks = tuple(tasks)
        groups = len(self.tasks) + 1
        self.project = nn.Conv2d(NECK_CHANNELS, groups * width, 1)
        self.grouped = nn.Conv2d(groups * width, groups * width, 1, groups=groups)

    def forward(self, aggregate: Tensor) -> tuple[dict[Task, Tensor], Tensor]:
        *own, shared = self.grouped(self.project(aggregate)).split(self.width, dim=1)
        return dict(zip(self.tasks, own, strict=True)), shared


class IdentityMapping(nn.ModuleDict):
    """A 1x1 convolution of each task's own neck, added to its slice of the head."""

    def __init__(self, channels: dict[Task, int], tasks: Iterable[Task]) -> None:
        super().__init__({task.value: nn.Conv2d(NECK_CHANNELS, channels[task], 1) for task in tasks})
