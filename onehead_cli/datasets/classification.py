"""Class folders: {root}/{split}/{class}/picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onehead_cli.config import DataConfig
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.listing import ClassFolders
from onehead_cli.datasets.picture_store import CPU
from onehead_cli.datasets.pictures import CacheBudget
from onehead_cli.types import Task


class ClassificationData(TaskData):
    """labels: int, one a picture."""

    task = Task.CLS

    def __init__(
        self,
        found: ClassFolders,
        data: DataConfig,
        interpolation: str,
        budget: CacheBudget,
        device: torch.device = CPU,
    ) -> None:
        self.labels = found.labels
        super().__init__(found.pictures, found.classes, data, interpolation, budget, device)

    def _targets(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self.labels[i] for i in indices])
