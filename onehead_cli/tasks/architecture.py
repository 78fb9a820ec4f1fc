"""What a network is made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onehead_cli.registry import TASKS

#: Pixels of the input that a cell of the maps stands for, along each side.
STRIDE = 16


@dataclass(frozen=True)
class Architecture:
    """What is needed to rebuild a network without its config; stored in every checkpoint.

    classes: the class names of every task that there is data for, also of those that a teacher does not do: they set
        the head's width and its groups.
    tasks: the tasks that the network has a neck and an output for.
    skip: the backbone's last map of stride 16 is added to the upsampled features.
    of_tasks: what the tasks add, as plain values by name; see `Task.of_config`.
    """

    backbone: str
    classes: Mapping[str, Sequence[str]]
    tasks: tuple[str, ...]
    skip: bool = False
    of_tasks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each task's map."""
        from onehead_cli.tasks.task import get_task

        return {task: get_task(task).channels(self) for task in TASKS if task in self.classes}

    @property
    def width(self) -> int:
        """N, the channels of a group of the head."""
        return max(self.channels.values())
