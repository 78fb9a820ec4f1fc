"""What the three loaders share: a split of one task, picture by picture, and mini-batches of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CPU, CacheBudget, PictureStore
from onehead_cli.data.geometry import Fit
from onehead_cli.data.kept import KeptBatch
from onehead_cli.types import DetectionTarget, Task, TaskBatch


class TaskData(ABC):
    """One split of one task's dataset.

    classes: names, in the order of the labels.
    paths: the pictures.
    warnings: what was dropped from the labels and how often.
    device: where pictures and masks are kept and mini-batches begin; labels and boxes are on the CPU.
    keeps_larger: whether a training reads `kept_batch`, not `batch`.
    """

    task: Task
    bytes_per_pixel = 3

    def __init__(
        self,
        paths: Sequence[Path],
        classes: Sequence[str],
        data: DataConfig,
        interpolation: str,
        budget: CacheBudget,
        device: torch.device = CPU,
    ) -> None:
        self.paths = list(paths)
        self.classes = list(classes)
        self.warnings: list[str] = []
        self.image_size = data.image_size
        self.keeps_larger = data.cache_scale > 1 or bool(data.sizes)
        self.budget = budget
        self.device = device
        self._store = PictureStore(
            paths,
            size=data.image_size,
            kept_side=round(data.cache_scale * max((data.image_size, *data.sizes))),
            mode=data.fit,
            interpolation=interpolation,
            budget=budget,
            device=device,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def fit(self, index: int) -> Fit:
        return self._store.fit(index)

    def batch(self, indices: Sequence[int]) -> TaskBatch:
        """Pictures uint8 [B, 3, S, S] with their targets, as they are on disk; `transforms` makes them float."""
        images = torch.stack([self._store.get(i) for i in indices]).permute(0, 3, 1, 2)
        names = [self.paths[i].name for i in indices]
        return TaskBatch(images, self._targets(indices), names, mask_boxes=self._mask_boxes(indices))

    def kept_batch(self, indices: Sequence[int]) -> KeptBatch:
        """The same pictures larger, for views at any size; for training where `keeps_larger`."""
        images = [self._store.kept(i) for i in indices]
        return KeptBatch(
            images,
            [self.fit(i) for i in indices],
            self._kept_targets(indices),
            [self.paths[i].name for i in indices],
            mask_boxes=self._mask_boxes(indices),
        )

    def bytes_in_training(self) -> int:
        """Memory for all pictures and masks as a training reads them, from the mean of those it has read."""
        return round(len(self) * self._store.mean_pixels(kept=self.keeps_larger) * self.bytes_per_pixel)

    def _kept_targets(self, indices: Sequence[int]) -> Tensor | DetectionTarget | list[Tensor]:
        return self._targets(indices)

    def _mask_boxes(self, indices: Sequence[int]) -> DetectionTarget | None:
        return None

    @abstractmethod
    def _targets(self, indices: Sequence[int]) -> Tensor | DetectionTarget:
        """The targets of the pictures, in the coordinates of the input."""
