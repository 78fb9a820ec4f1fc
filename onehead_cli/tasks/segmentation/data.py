"""Pictures with masks of class indices: x.jpg in one folder, x.png in another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.checks import unknown_label, wrong_mask_size
from onehead_cli.data.images import fit_mask, open_mask, resize_mask
from onehead_cli.data.listing import MaskFolders
from onehead_cli.data.split import TaskData
from onehead_cli.errors import DataError
from onehead_cli.tasks.boxes_from_masks import MaskBoxes, boxes_from_mask
from onehead_cli.tasks.detection.data import detection_target
from onehead_cli.types import IGNORE_INDEX, DetectionTarget, Task


class SegmentationData(TaskData):
    """mask_paths: one mask a picture, class indices with `data.ignore_index` for void.

    shared: mask label -> detection class; set, each batch carries the boxes that its masks hold.
    """

    task = Task.SEG
    bytes_per_pixel = 3 + 1

    def __init__(
        self,
        found: MaskFolders,
        data: DataConfig,
        interpolation: str,
        budget: CacheBudget,
        device: torch.device = CPU,
    ) -> None:
        self.mask_paths = found.masks
        self.ignore_index = data.ignore_index
        self.shared: dict[int, int] = {}
        self._boxes: dict[int, MaskBoxes] = {}
        self._masks: dict[int, Tensor] = {}
        self._kept_masks: dict[int, Tensor] = {}
        super().__init__(found.pictures, found.classes, data, interpolation, budget, device)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask at its original size, uint8 [height, width], with IGNORE_INDEX for void.

        Raises:
            DataError: unreadable, of another size than the picture, or with a label that is no class.
        """
        fit = self.fit(index)
        return checked_mask(
            self.mask_paths[index], (fit.width, fit.height), len(self.classes), ignore_index=self.ignore_index
        )

    def _targets(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._fitted_mask(i) for i in indices]).long()

    def _kept_targets(self, indices: Sequence[int]) -> list[Tensor]:
        """Masks uint8 [height, width], each of the size of its kept picture."""
        return [self._kept_mask(i) for i in indices]

    def _mask_boxes(self, indices: Sequence[int]) -> DetectionTarget | None:
        if not self.shared:
            return None
        for index in indices:
            if index not in self._boxes:
                self._boxes[index] = boxes_from_mask(self.mask(index), self.shared)
        found = [self._boxes[index] for index in indices]
        return detection_target(
            [(self.fit(i).to_input(f.boxes), f.labels, f.doubtful) for i, f in zip(indices, found, strict=True)]
        )

    def _fitted_mask(self, index: int) -> Tensor:
        if index in self._masks:
            return self._masks[index]
        fitted = torch.tensor(fit_mask(self.mask(index), self.fit(index), IGNORE_INDEX), device=self.device)
        if self.budget.take(fitted.nbytes):
            self._masks[index] = fitted
        return fitted

    def _kept_mask(self, index: int) -> Tensor:
        if index in self._kept_masks:
            return self._kept_masks[index]
        kept = torch.tensor(resize_mask(self.mask(index), self._store.kept_size(index)), device=self.device)
        if self.budget.take(kept.nbytes):
            self._kept_masks[index] = kept
        return kept


def checked_mask(
    path: Path, size: tuple[int, int], num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> NDArray[np.uint8]:
    """A mask at its original size, uint8 [height, width], with IGNORE_INDEX for void.

    Args:
        size: width and height of its picture.
        ignore_index: what the file has for void.

    Raises:
        DataError: unreadable, of another size than the picture, or with a label that is no class.
    """
    mask = open_mask(path)
    if problem := wrong_mask_size(mask.shape[::-1], size):
        raise DataError(f"{path}: {problem}")
    if problem := unknown_label(np.unique(mask).tolist(), num_classes, ignore_index):
        raise DataError(f"{path}: {problem}")
    return mask if ignore_index == IGNORE_INDEX else np.where(mask == ignore_index, np.uint8(IGNORE_INDEX), mask)
