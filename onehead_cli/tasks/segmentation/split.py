"""Images with masks, as trainings and evaluations read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.augment import Seen
from onehead_cli.data.batch import Target
from onehead_cli.data.images import fit_mask, resize_mask
from onehead_cli.data.mask_folders import MaskFoldersListing
from onehead_cli.data.split import Split


@dataclass
class Masks(Target):
    """masks: int64 [B, S, S], class indices, 255 = void."""

    masks: Tensor

    def seen_through(self, seen: Seen) -> Masks:
        return Masks(seen.nearest(self.masks, IGNORE_INDEX))


@dataclass
class KeptMasks(Target):
    """masks: uint8 [h, w] per image, of the size of its kept image."""

    masks: list[Tensor]

    def take(self, count: int) -> KeptMasks:
        return KeptMasks(self.masks[:count])

    def seen_through(self, seen: Seen) -> Masks:
        return Masks(seen.nearest(self.masks, IGNORE_INDEX))


class SegmentationSplit(Split):
    """listing: where the masks are."""

    task = "seg"
    bytes_per_pixel = 3 + 1

    def __init__(self, listing: MaskFoldersListing, *args: Any, **options: Any) -> None:
        super().__init__(listing, *args, **options)
        self.listing = listing
        self._masks: dict[int, Tensor] = {}
        self._kept_masks: dict[int, Tensor] = {}

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask at its original size, uint8 [height, width], with IGNORE_INDEX for void.

        Raises:
            DataError: unreadable, of another size than the image, or with a label that is no class.
        """
        fit = self.fit(index)
        return self.listing.mask(index, (fit.width, fit.height))

    def target(self, indices: Sequence[int]) -> Masks:
        return Masks(torch.stack([self._fitted_mask(i) for i in indices]).long())

    def kept_target(self, indices: Sequence[int]) -> KeptMasks:
        return KeptMasks([self._kept_mask(i) for i in indices])

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
        kept = torch.tensor(resize_mask(self.mask(index), self.kept_size(index)), device=self.device)
        if self.budget.take(kept.nbytes):
            self._kept_masks[index] = kept
        return kept
