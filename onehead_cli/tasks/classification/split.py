"""A split of class folders as a training and an evaluation read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onehead_cli.data.augment import Seen
from onehead_cli.data.batch import Target
from onehead_cli.data.class_folders import ClassFoldersListing
from onehead_cli.data.split import Split
from onehead_cli.tasks.classification.scores import NAME


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
