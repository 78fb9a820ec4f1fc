"""Mini-batches for training. What comes when depends on the seed and the position alone, so that a resumed run goes
on with the very pictures and augmentations it would have had."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from onehead_cli.config import DataConfig
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.transforms import augment, to_float
from onehead_cli.types import TASKS, Batch, Task


class TrainLoader:
    """Mini-batches of all tasks by position: each task runs through its own shuffled pictures again and again."""

    def __init__(
        self,
        splits: Mapping[Task, TaskData],
        *,
        batch_size: int,
        seed: int,
        data: DataConfig,
        device: torch.device,
        fill: Tensor,
    ) -> None:
        """Args: fill: colour outside a zoomed-out picture, float [1, 3, 1, 1] in 0..1."""
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed
        self.data = data
        self.device = device
        self.fill = fill.to(device)

    def batches_per_epoch(self) -> int:
        """Mini-batches until the largest dataset has been seen once."""
        return max(-(-len(split) // self.batch_size) for split in self.splits.values())

    def minibatch(self, position: int) -> Batch:
        """The `position`-th mini-batch of the run, augmented, on the device."""
        batch: Batch = {}
        for task, split in self.splits.items():
            raw = split.batch(self._indices(task, len(split), position))
            batch[task] = augment(
                to_float(raw, self.device), task, self.data, self._generator(task, "view", position), self.fill
            )
        return batch

    def _indices(self, task: Task, count: int, position: int) -> list[int]:
        places = range(position * self.batch_size, (position + 1) * self.batch_size)
        orders = {
            passed: torch.randperm(count, generator=self._generator(task, "order", passed)).tolist()
            for passed in {place // count for place in places}
        }
        return [orders[place // count][place % count] for place in places]

    def _generator(self, task: Task, purpose: str, number: int) -> torch.Generator:
        key = hashlib.sha256(f"{self.seed}/{TASKS.index(task)}/{purpose}/{number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
