"""Fitted pictures kept in memory, on the device that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from onehead_cli.datasets.geometry import Fit
from onehead_cli.datasets.pictures import CacheBudget, fit_picture, open_picture

CPU = torch.device("cpu")


class PictureStore:
    """Fitted pictures by index, decoded once where the budget allows and read from disk each time past it.

    device: where the pictures are kept, so that those of a training need not go to its GPU again at every step.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        size: int,
        mode: Literal["resize", "letterbox"],
        interpolation: str,
        budget: CacheBudget,
        device: torch.device,
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.mode = mode
        self.interpolation = interpolation
        self.device = device
        self._budget = budget
        self._kept: dict[int, Tensor] = {}
        self._fits: dict[int, Fit] = {}

    def get(self, index: int) -> Tensor:
        """The fitted picture on the device, uint8 [S, S, 3].

        Raises:
            DataError: the picture cannot be read.
        """
        if index in self._kept:
            return self._kept[index]
        picture = open_picture(self.paths[index])
        fit = Fit.of(picture.width, picture.height, self.size, self.mode)
        fitted = torch.tensor(fit_picture(picture, fit, self.interpolation), device=self.device)
        self._fits[index] = fit
        if index not in self._kept and self._budget.take(fitted.nbytes):
            self._kept[index] = fitted
        return fitted

    def fit(self, index: int) -> Fit:
        """How the picture is fitted; kept for every picture, so that it is decoded once for both."""
        if index not in self._fits:
            self.get(index)
        return self._fits[index]
