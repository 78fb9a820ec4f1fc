"""Class folders: {root}/{split}/{class}/picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from onehead_cli.config import DataConfig
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.pictures import CacheBudget, pictures_in
from onehead_cli.errors import DataError
from onehead_cli.types import Task


class ClassificationData(TaskData):
    """labels: int, one a picture."""

    task = Task.CLS

    def __init__(self, folder: Path, data: DataConfig, interpolation: str, budget: CacheBudget) -> None:
        """Args: folder: the class folders of one split.

        Raises:
            DataError: the folder is missing or empty, or a class folder has no picture.
        """
        classes = read_classes(folder)
        paths: list[Path] = []
        self.labels: list[int] = []
        for label, name in enumerate(classes):
            found = pictures_in(folder / name)
            if not found:
                raise DataError(f"{folder / name}: class folder without a picture")
            paths += found
            self.labels += [label] * len(found)
        super().__init__(paths, classes, data, interpolation, budget)

    def _targets(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor([self.labels[i] for i in indices])


def read_classes(folder: Path) -> list[str]:
    """The class names of a split: its folders, sorted; hidden ones are passed over.

    Raises:
        DataError: the folder is missing or holds no class folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of class folders (see `onehead prepare-data`)")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: no class folders in it")
    return classes
