"""VOC-style masks: {root}/{split}/JPEGImages/x.jpg with {root}/{split}/SegmentationClass/x.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.config import DataConfig
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.files import is_one_line
from onehead_cli.datasets.layout import CLASSES_FILE, MASK_FOLDER, PICTURE_FOLDER, VOC_CLASSES
from onehead_cli.datasets.pictures import CacheBudget, fit_mask, open_mask, pictures_in
from onehead_cli.errors import DataError
from onehead_cli.types import IGNORE_INDEX, Task
from onehead_cli.yaml_text import parse_yaml


class SegmentationData(TaskData):
    """mask_paths: one mask a picture, class indices with 255 = void."""

    task = Task.SEG

    def __init__(self, root: Path, split: str, data: DataConfig, interpolation: str, budget: CacheBudget) -> None:
        """Raises: DataError: a folder is missing or empty, or a picture has no mask."""
        pictures, masks = root / split / PICTURE_FOLDER, root / split / MASK_FOLDER
        if not pictures.is_dir() or not masks.is_dir():
            raise DataError(
                f"{root / split}: needs the folders {PICTURE_FOLDER} and {MASK_FOLDER} (see `onehead prepare-data`)"
            )
        paths = pictures_in(pictures)
        if not paths:
            raise DataError(f"{pictures}: no picture in it")
        self.mask_paths = [masks / f"{p.stem}.png" for p in paths]
        missing = [m for m in self.mask_paths if not m.is_file()]
        if missing:
            raise DataError(f"{missing[0]}: mask missing ({len(missing)} in all)")
        self._masks: dict[int, NDArray[np.uint8]] = {}
        super().__init__(paths, read_classes(root), data, interpolation, budget)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask at its original size, uint8 [height, width].

        Raises:
            DataError: unreadable, of another size than the picture, or with a label that is no class.
        """
        fit = self.fit(index)
        return checked_mask(self.mask_paths[index], (fit.width, fit.height), len(self.classes))

    def _targets(self, indices: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.stack([self._fitted_mask(i) for i in indices])).long()

    def _fitted_mask(self, index: int) -> NDArray[np.uint8]:
        if index in self._masks:
            return self._masks[index]
        fitted = fit_mask(self.mask(index), self.fit(index), IGNORE_INDEX)
        if self.budget.take(fitted.nbytes):
            self._masks[index] = fitted
        return fitted


def checked_mask(path: Path, size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    """A mask at its original size, uint8 [height, width].

    Args:
        size: width and height of its picture.

    Raises:
        DataError: unreadable, of another size than the picture, or with a label that is no class.
    """
    mask = open_mask(path)
    if mask.shape != (size[1], size[0]):
        raise DataError(f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, but its picture has {size[0]} x {size[1]}")
    labels = np.unique(mask)
    over = labels[(labels >= num_classes) & (labels != IGNORE_INDEX)]
    if over.size:
        raise DataError(f"{path}: label {over[0]}, but there are {num_classes} classes (0 to {num_classes - 1})")
    return mask


def read_classes(root: Path) -> list[str]:
    """The names in {root}/classes.yaml (a list, or a mapping from index to name), else the 21 VOC names.

    Raises:
        DataError: classes.yaml is not such a list or mapping.
    """
    path = root / CLASSES_FILE
    if not path.is_file():
        return list(VOC_CLASSES)
    try:
        names = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # not UTF-8 is one too
        raise DataError(f"{path}: not valid YAML") from None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and is_one_line(n) for n in names):
        raise DataError(f"{path}: expected a list of class names, background first")
    if len(names) > IGNORE_INDEX or len(set(names)) != len(names):
        raise DataError(f"{path}: expected at most {IGNORE_INDEX} different names")
    return names
