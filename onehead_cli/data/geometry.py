"""How an image of any size becomes the S x S input, and how results find their way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fit:
    """The map between an image and its place in the square input.

    A point (x, y) of the image, in pixels with (0, 0) at the outer corner of the first pixel, lies at
    (x * scale_x + offset_x, y * scale_y + offset_y) of the input.
    """

    width: int
    height: int
    size: int
    scale_x: float
    scale_y: float
    offset_x: int
    offset_y: int

    @classmethod
    def of(cls, width: int, height: int, size: int, mode: Literal["resize", "letterbox"]) -> Fit:
        """Stretch to size x size (resize), or scale to the longer side and centre it (letterbox)."""
        if mode == "resize":
            return cls(width, height, size, size / width, size / height, 0, 0)
        scale = size / max(width, height)
        inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
        # The rounded size is what is drawn, so the exact scales differ a little between the axes.
        return cls(width, height, size, inner_w / width, inner_h / height, (size - inner_w) // 2, (size - inner_h) // 2)

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the image inside the input, in pixels."""
        return round(self.width * self.scale_x), round(self.height * self.scale_y)

    def to_input(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes [n, 4] (x1 y1 x2 y2, pixels of the image) in pixels of the input."""
        scale, offset = self._scale_offset()
        return boxes * scale + offset

    def to_image(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes [n, 4] (x1 y1 x2 y2, pixels of the input) in pixels of the image, clipped to it."""
        scale, offset = self._scale_offset()
        limit = np.array([self.width, self.height, self.width, self.height], dtype=np.float64)
        return np.clip((boxes - offset) / scale, 0.0, limit)

    def _scale_offset(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = np.array([self.scale_x, self.scale_y] * 2)
        offset = np.array([self.offset_x, self.offset_y] * 2, dtype=np.float64)
        return scale, offset
