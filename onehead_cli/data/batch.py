"""A mini-batch: images and what they are labelled with."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from onehead_cli.data.augment import Seen


@dataclass
class Target(ABC):
    """What the images of a batch are labelled with for one task: a dataclass whose tensors have the images first.

    weight: how much an image with these labels counts beside one with a weight of 1.
    """

    weight: float = field(default=1.0, kw_only=True)

    @abstractmethod
    def seen_through(self, seen: Seen) -> Target:
        """The labels of the images as they are seen in an augmented batch."""

    def covered(self, area: Tensor) -> Target:
        """The labels once something else is pasted over the images. Args: area: of it, bool [B, S, S]."""
        return self

    def take(self, count: int) -> Self:
        """Those of the first images."""
        return self._map(lambda tensor: tensor[:count])

    def to(self, device: torch.device) -> Self:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **changed)


@dataclass
class TaskBatch:
    """A mini-batch of one task's images.

    images: float [B, 3, S, S] in 0..1 (the model normalises).
    target: labels for the task.
    names: the B images, for messages.
    total: images of the mini-batch in all processes together; B where there is one process.
    also: labels for other tasks, by their names, that were read out of this task's.
    """

    images: Tensor
    target: Target
    names: list[str]
    total: int = 0
    also: Mapping[str, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = self.total or len(self.names)

    def take(self, count: int) -> TaskBatch:
        """The first images; the total is theirs."""
        return TaskBatch(
            self.images[:count],
            self.target.take(count),
            self.names[:count],
            also={task: target.take(count) for task, target in self.also.items()},
        )

    def to_float(self, device: torch.device) -> TaskBatch:
        """The batch on the device, images in 0..1."""
        return dataclasses.replace(
            self,
            images=images_to_float(self.images, device),
            target=self.target.to(device),
            also={task: target.to(device) for task, target in self.also.items()},
        )


#: One mini-batch of each task, by name; a task may be absent.
Batch = dict[str, TaskBatch]


def images_to_float(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, 3, S, S] -> float in 0..1 on the device, channels last."""
    return images.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
