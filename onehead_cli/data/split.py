"""A split of one task as trainings and evaluations read it: images with their labels, in mini-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.batch import Target, TaskBatch
from onehead_cli.data.cache import CPU, CacheBudget, ImageStore
from onehead_cli.data.format import Listing
from onehead_cli.data.geometry import Fit
from onehead_cli.data.kept import KeptBatch


class Mixing(Protocol):
    """What each image of a mini-batch takes from another image of its dataset.

    sources: the images that are taken from, int64 [B], indices in the dataset.
    """

    @property
    def sources(self) -> Tensor: ...

    def mix(self, batch: TaskBatch, source: TaskBatch) -> TaskBatch:
        """The images with what they take from their sources, both as seen through their views."""


class DrawMixing(Protocol):
    """Draws a `Mixing` for a mini-batch."""

    def __call__(self, total: int, images: int, generator: torch.Generator, rows: slice) -> Mixing:
        """Args:
        total: images of the mini-batch, all of which are drawn for.
        images: in the dataset.
        rows: those that are wanted.
        """


@dataclass(frozen=True)
class Loading:
    """How a split is read.

    interpolation: of images that are resized. budget: memory for what is kept, shared by all splits of a run.
    device: where images and maps of labels are kept.
    training: with what only trainings do, such as images that are seen more often.
    """

    interpolation: str
    budget: CacheBudget
    device: torch.device = CPU
    training: bool = False


class Split(ABC):
    """One split of one task's dataset.

    task: its name.
    classes: names, in the order of the labels.
    paths: the images.
    warnings: what was dropped from the labels and how often.
    device: where images and maps of labels are kept and mini-batches begin; other labels are on the CPU.
    keeps_larger: whether a training reads `kept_batch`, not `batch`.
    further: labels for other tasks, by their names, that can be read out of this one's: indices -> labels.
    repeats: how often each image is to be seen beside the others; empty where all count the same.
    mixing: draws what the images of a training take from one another; None for nothing.
    """

    task: str
    bytes_per_pixel: ClassVar[int] = 3

    def __init__(
        self,
        listing: Listing,
        data: DataConfig,
        loading: Loading,
    ) -> None:
        self.paths = list(listing.images)
        self.classes = list(listing.classes)
        self.warnings = listing.warnings
        self.image_size = data.image_size
        self.keeps_larger = data.cache_scale > 1 or bool(data.sizes)
        self.budget = loading.budget
        self.device = loading.device
        self.further: dict[str, Callable[[Sequence[int]], Target]] = {}
        self.repeats: list[float] = []
        self.mixing: DrawMixing | None = None
        self._store = ImageStore(
            self.paths,
            size=data.image_size,
            kept_side=round(data.cache_scale * max((data.image_size, *data.sizes))),
            mode=data.fit,
            interpolation=loading.interpolation,
            budget=loading.budget,
            device=loading.device,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def fit(self, index: int) -> Fit:
        return self._store.fit(index)

    def kept_size(self, index: int) -> tuple[int, int]:
        """Width and height of an image as it is kept for `kept_batch`."""
        return self._store.kept_size(index)

    def images(self, indices: Sequence[int]) -> Tensor:
        """Images uint8 [B, 3, S, S], as they are on disk."""
        return torch.stack([self._store.get(i) for i in indices]).permute(0, 3, 1, 2)

    def batch(self, indices: Sequence[int]) -> TaskBatch:
        """The same with their labels; `TaskBatch.to_float` makes the images float."""
        names = [self.paths[i].name for i in indices]
        return TaskBatch(self.images(indices), self.target(indices), names, also=self._also(indices))

    def kept_batch(self, indices: Sequence[int]) -> KeptBatch:
        """The same images larger, for views at any size; for training where `keeps_larger`."""
        images = [self._store.kept(i) for i in indices]
        return KeptBatch(
            images,
            [self.fit(i) for i in indices],
            self.kept_target(indices),
            [self.paths[i].name for i in indices],
            also=self._also(indices),
        )

    def bytes_in_training(self) -> int:
        """Memory for all images and maps of labels as a training reads them, from the mean of those it has read."""
        return round(len(self) * self._store.mean_pixels(kept=self.keeps_larger) * self.bytes_per_pixel)

    @abstractmethod
    def target(self, indices: Sequence[int]) -> Target:
        """The labels of the images, in the coordinates of the input."""

    def kept_target(self, indices: Sequence[int]) -> Target:
        """The same for `kept_batch`; labels per pixel are of the size of their kept image."""
        return self.target(indices)

    def _also(self, indices: Sequence[int]) -> dict[str, Target]:
        return {task: read(indices) for task, read in self.further.items()}
