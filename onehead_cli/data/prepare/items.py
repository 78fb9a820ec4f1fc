"""What lies where in a synthetic scene: a list of items from back to front, settled before anything is painted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onehead_cli.data.prepare.outlines import OUTLINES, Outline, blob_outline, stroke_outline, turned

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SUPERSAMPLING = 4
_MIN_VISIBLE_SHARE = 0.2
_MIN_VISIBLE_PIXELS = 12


@dataclass(frozen=True)
class Item:
    """An outline at its place. coverage: float [h, w] in 0..1, with its upper left corner at (left, top), which may
    lie outside the image; label: None for clutter."""

    label: str | None
    crowd: bool
    coverage: Floats
    left: int
    top: int

    @property
    def solid(self) -> Mask:
        return self.coverage >= 0.5

    @property
    def centre(self) -> tuple[float, float]:
        rows, columns = self.coverage.shape
        return self.left + columns / 2, self.top + rows / 2

    def window(self, width: int, height: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part inside an image: as rows and columns of the image, and as rows and columns of the coverage."""
        rows, columns = self.coverage.shape
        y0, y1 = np.clip([self.top, self.top + rows], 0, height)
        x0, x1 = np.clip([self.left, self.left + columns], 0, width)
        inside = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return (slice(y0, y1), slice(x0, x1)), inside


def labelled_item(
    rng: Generator, label: str, centre: tuple[float, float], radius: float, *, stretch: float = 1.25
) -> Item:
    """An object of a class. centre, radius: in pixels; see `turned`."""
    return _rasterise(turned(rng, OUTLINES[label](rng), centre, radius, stretch), label=label)


def crowd_item(rng: Generator, label: str, centre: tuple[float, float], radius: float) -> Item:
    """A 4 x 4 grid of tiny objects, shaken, with about a third left out."""
    step = radius / 2
    outline: Outline = []
    for cell in rng.permutation(16)[: rng.integers(9, 13)]:
        x = centre[0] + (cell % 4 - 1.5 + rng.uniform(-0.2, 0.2)) * step
        y = centre[1] + (cell // 4 - 1.5 + rng.uniform(-0.2, 0.2)) * step
        outline += turned(rng, OUTLINES[label](rng), (x, y), step * rng.uniform(0.3, 0.42), 1.1)
    return _rasterise(outline, label=label, crowd=True)


def clutter(rng: Generator, width: int, height: int) -> list[Item]:
    """Blobs and strokes of no class, behind everything."""
    items = []
    for _ in range(rng.integers(0, 5)):
        blob = rng.random() < 0.4
        radius = min(width, height) * (rng.uniform(0.04, 0.16) if blob else rng.uniform(0.15, 0.5))
        centre = (width * rng.random(), height * rng.random())
        items.append(_rasterise(turned(rng, blob_outline(rng) if blob else stroke_outline(rng), centre, radius, 1.4)))
    return items


def _rasterise(outline: Outline, *, label: str | None = None, crowd: bool = False) -> Item:
    points = np.concatenate([points for points, _ in outline])
    # The margin leaves room for the blurred shadow.
    left, top = (math.floor(edge) - 4 for edge in points.min(axis=0))
    right, bottom = (math.ceil(edge) + 4 for edge in points.max(axis=0))
    fine = Image.new("L", ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    pen = ImageDraw.Draw(fine)
    for polygon, filled in outline:
        corners = (polygon - (left, top)) * _SUPERSAMPLING
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=255 if filled else 0)
    coverage: Floats = np.asarray(fine.reduce(_SUPERSAMPLING), dtype=np.float32) / np.float32(255)
    return Item(label, crowd, coverage, left, top)


def any_spot(rng: Generator, width: int, height: int) -> tuple[float, float]:
    """A centre that is not at the very edge of the image: x, y in pixels."""
    return width * rng.uniform(0.08, 0.92), height * rng.uniform(0.08, 0.92)


def free_spot(rng: Generator, items: Sequence[Item], width: int, height: int) -> tuple[float, float]:
    """The spot, of four, that lies farthest from the labelled items: objects overlap, but seldom pile up."""
    spots = [any_spot(rng, width, height) for _ in range(4)]
    centres = [item.centre for item in items if item.label]
    return max(spots, key=lambda spot: min((math.dist(spot, centre) for centre in centres), default=0.0))


def frontmost(items: Sequence[Item], width: int, height: int) -> NDArray[np.int16]:
    """[H, W]: the index of the frontmost item at each pixel, -1 for the background."""
    owners = np.full((height, width), -1, dtype=np.int16)
    for index, item in enumerate(items):
        place, inside = item.window(width, height)
        owners[place][item.solid[inside]] = index
    return owners


def drop_hidden(items: Sequence[Item], width: int, height: int) -> list[Item]:
    """Leave out the labelled items of which too little is seen to label them; the rest is then seen no less."""
    seen = np.bincount(frontmost(items, width, height).ravel() + 1, minlength=len(items) + 1)[1:]
    return [
        item
        for item, pixels in zip(items, seen, strict=True)
        if item.label is None or (pixels >= _MIN_VISIBLE_PIXELS and pixels >= _MIN_VISIBLE_SHARE * item.solid.sum())
    ]
