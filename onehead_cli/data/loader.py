"""Mini-batches for training. What comes when depends on the seed and the position alone, so that a resumed run goes
on with the very images and augmentations it would have had, and several processes share those that one would have.
The same holds for the side of the input of each optimizer step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.augment import augment
from onehead_cli.data.batch import Batch, TaskBatch, images_to_float
from onehead_cli.data.kept import KeptBatch, augment_kept
from onehead_cli.data.repeats import repeated_order
from onehead_cli.data.split import Split
from onehead_cli.registry import TASKS, seed_of

#: A mini-batch as it is read, before it is augmented.
_Raw = dict[str, TaskBatch | KeptBatch]


class TrainLoader:
    """Mini-batches of all tasks by position: each task runs through its own shuffled images again and again."""

    def __init__(
        self,
        splits: Mapping[str, Split],
        *,
        batch_size: int,
        seed: int,
        data: DataConfig,
        device: torch.device,
        fill: Tensor,
        buffer_size: int = 1,
        epochs: int = 1,
        small_until: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Args:
        batch_size: images of a task in a mini-batch, in all processes together.
        fill: colour outside a zoomed-out image, float [1, 3, 1, 1] in 0..1.
        buffer_size, epochs: mini-batches per optimizer step, and epochs of the run.
        small_until: share of the run's steps that see the first of `data.sizes` alone.
        rank, world_size: this process and how many share each mini-batch.
        """
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed
        self.data = data
        self.device = device
        self.fill = fill.to(device)
        self.buffer_size = buffer_size
        self.epochs = epochs
        self.small_until = small_until
        self.rank = rank
        self.world_size = world_size
        self._threads = ThreadPoolExecutor(data.workers, "reader") if data.workers else None
        self._coming: dict[int, Future[_Raw]] = {}

    def batches_per_epoch(self) -> int:
        """Mini-batches until the largest dataset has been seen once."""
        return max(-(-len(split) // self.batch_size) for split in self.splits.values())

    def minibatch(self, position: int) -> Batch:
        """This process's share of the `position`-th mini-batch of the run, augmented, on the device."""
        return self.minibatch_of_side(position, self.side(position))

    def minibatch_of_side(self, position: int, side: int) -> Batch:
        """The mini-batch that `minibatch` gives, at another side of the input; without `data.sizes` there is one."""
        batch = {task: self._seen(raw, task, "view", position, side) for task, raw in self._raw(position).items()}
        return {task: self._mixed(part, task, position, side) for task, part in batch.items()}

    def side(self, position: int) -> int:
        """Side of the input of the optimizer step that the mini-batch belongs to, in pixels."""
        sizes = self.data.sizes or (self.data.image_size,)
        step, steps = position // self.buffer_size, self.epochs * -(-self.batches_per_epoch() // self.buffer_size)
        if step < self.small_until * steps:
            return sizes[0]
        return sizes[self._number(f"side/{step}") % len(sizes)]

    def clean(self, position: int) -> Tensor:
        """The images of the whole `position`-th mini-batch as they are on disk, the same in all processes: float
        [B, 3, S, S] in 0..1, all tasks in one."""
        parts = [split.batch(self._indices(task, len(split), position)) for task, split in self.splits.items()]
        return images_to_float(torch.cat([part.images for part in parts]), self.device)

    def wait(self) -> None:
        """Until the mini-batches that were begun are read."""
        wait(self._coming.values())

    def _raw(self, position: int) -> _Raw:
        """The mini-batch as it is on disk; with `data.workers`, the next ones are begun as well."""
        if self._threads is None:
            return self._read(position)
        coming = range(position, position + self.data.workers + 1)
        self._coming = {place: self._coming.get(place) or self._threads.submit(self._read, place) for place in coming}
        return self._coming.pop(position).result()

    def _read(self, position: int) -> _Raw:
        batch: _Raw = {}
        for task, split in self.splits.items():
            indices, rows = self._indices(task, len(split), position), self._rows(task)
            mine = indices[rows]
            # A process without images of the task reads one for its shape.
            batch[task] = self._on_disk(split, mine or indices[:1], count=len(mine))
        return batch

    def _on_disk(self, split: Split, indices: list[int], *, count: int) -> TaskBatch | KeptBatch:
        """The first `count` of these images, of which all processes together have a mini-batch."""
        part: TaskBatch | KeptBatch
        part = split.kept_batch(indices).take(count) if split.keeps_larger else split.batch(indices).take(count)
        part.total = self.batch_size
        return part

    def _seen(self, raw: TaskBatch | KeptBatch, task: str, purpose: str, position: int, side: int) -> TaskBatch:
        generator, rows = self._generator(task, purpose, position), self._rows(task)
        if isinstance(raw, KeptBatch):
            return augment_kept(raw, self.data, generator, self.fill, side=side, rows=rows)
        return augment(raw.to_float(self.device), self.data, generator, self.fill, rows=rows)

    def _mixed(self, part: TaskBatch, task: str, position: int, side: int) -> TaskBatch:
        """The images with what they take from others of their dataset, which are seen through views of their own."""
        split = self.splits[task]
        if split.mixing is None or not part.names:
            return part
        mixing = split.mixing(self.batch_size, len(split), self._generator(task, "paste", position), self._rows(task))
        raw = self._on_disk(split, mixing.sources.tolist(), count=len(part.names))
        return mixing.mix(part, self._seen(raw, task, "paste view", position, side))

    def _rows(self, task: str) -> slice:
        """Which images of a task's mini-batch are this process's; who has one more goes round with the tasks."""
        place, count = (self.rank + TASKS.index(task)) % self.world_size, self.batch_size
        return slice(place * count // self.world_size, (place + 1) * count // self.world_size)

    def _indices(self, task: str, count: int, position: int) -> list[int]:
        places = range(position * self.batch_size, (position + 1) * self.batch_size)
        orders = {
            passed: self._order(self.splits[task], self._generator(task, "order", passed))
            for passed in {place // count for place in places}
        }
        return [orders[place // count][place % count] for place in places]

    def _order(self, split: Split, generator: torch.Generator) -> list[int]:
        if split.repeats:
            return repeated_order(split.repeats, generator)
        return torch.randperm(len(split), generator=generator).tolist()

    def _generator(self, task: str, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._number(f"{seed_of(task)}/{purpose}/{number}"))

    def _number(self, key: str) -> int:
        """A number of 63 bits that depends on the seed and the key alone."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{key}".encode()).digest()[:8], "big") >> 1
