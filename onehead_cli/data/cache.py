"""Images kept in memory, fitted or near their own size, on the device that reads them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import fit_image, open_image, resize_image

CPU = torch.device("cpu")


class ImageStore:
    """Images by index, decoded once where the budget allows and read from disk each time past it.

    kept_side: side of the square that `kept` fits them into.
    device: where the images are kept, so that those of a training need not go to its GPU again at every step.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        size: int,
        kept_side: int,
        mode: Literal["resize", "letterbox"],
        interpolation: str,
        budget: CacheBudget,
        device: torch.device,
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.kept_side = kept_side
        self.mode = mode
        self.interpolation = interpolation
        self.device = device
        self._budget = budget
        self._fitted: dict[int, Tensor] = {}
        self._kept: dict[int, Tensor] = {}
        self._fits: dict[int, Fit] = {}

    def get(self, index: int) -> Tensor:
        """The fitted image on the device, uint8 [S, S, 3].

        Raises:
            DataError: the image cannot be read.
        """
        if index in self._fitted:
            return self._fitted[index]
        image = self._open(index)
        fitted = torch.tensor(fit_image(image, self._fits[index], self.interpolation), device=self.device)
        self._remember(self._fitted, index, fitted)
        return fitted

    def kept(self, index: int) -> Tensor:
        """The image on the device, uint8 [height, width, 3] of `kept_size`; without letterbox bars.

        Raises:
            DataError: the image cannot be read.
        """
        if index in self._kept:
            return self._kept[index]
        image = self._open(index)
        kept = torch.tensor(resize_image(image, self.kept_size(index), self.interpolation), device=self.device)
        self._remember(self._kept, index, kept)
        return kept

    def kept_size(self, index: int) -> tuple[int, int]:
        """Width and height: as fitted into `kept_side`, but neither above the image's own."""
        fit = self.fit(index)
        width, height = Fit.of(fit.width, fit.height, self.kept_side, self.mode).inner
        return min(width, fit.width), min(height, fit.height)

    def mean_pixels(self, *, kept: bool) -> float:
        """Pixels of a fitted image, or of a kept one: the mean of those that were read, the most there can be where
        none was."""
        if not kept:
            return self.size**2
        sizes = [self.kept_size(index) for index in list(self._fits)]
        return sum(width * height for width, height in sizes) / len(sizes) if sizes else self.kept_side**2

    def fit(self, index: int) -> Fit:
        """How the image is fitted; kept for every image, so that it is decoded once for both."""
        if index not in self._fits:
            self.get(index)
        return self._fits[index]

    def _open(self, index: int) -> Image.Image:
        image = open_image(self.paths[index])
        self._fits[index] = Fit.of(image.width, image.height, self.size, self.mode)
        return image

    def _remember(self, where: dict[int, Tensor], index: int, image: Tensor) -> None:
        if index not in where and self._budget.take(image.nbytes):
            where[index] = image


class CacheBudget:
    """Bytes of memory that all image stores of a run share."""

    def __init__(self, megabytes: int) -> None:
        self.left = megabytes * 1_000_000
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False where they are not left."""
        with self._lock:  # images are read in several threads
            if size > self.left:
                return False
            self.left -= size
            return True
