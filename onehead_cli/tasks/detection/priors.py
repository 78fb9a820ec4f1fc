"""The sizes that a cell's boxes start with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Sizes spread evenly, in log, between these shares of the input.
SPREAD = (0.12, 0.6)
_ROUNDS = 100


def spread_priors(count: int) -> list[tuple[float, float]]:
    """Squares from .12 to .6 of the input, evenly in log: width and height of each."""
    low, high = map(math.log, SPREAD)
    step = (high - low) / max(1, count - 1)
    sides = [math.exp(low + i * step) for i in range(count)]
    return [(side, side) for side in sides]


def kmeans_priors(sizes: NDArray[np.float64], count: int) -> list[tuple[float, float]]:
    """The means of `count` groups of boxes, smallest first, the distance being 1 - IoU of boxes of one centre.

    After Redmon and Farhadi, YOLO9000, arXiv 1612.08242; it begins with the boxes at the middles of `count` equal
    shares by area, so the same boxes give the same priors. With fewer boxes than groups, the spread ones.

    Args:
        sizes: float64 [n, 2], width and height, above 0.
    """
    if len(sizes) < count:
        return spread_priors(count)
    by_area = sizes[np.argsort(sizes.prod(1), kind="stable")]
    means = by_area[((np.arange(count) + 0.5) * len(sizes) / count).astype(int)]
    for _ in range(_ROUNDS):
        groups = _overlap(sizes, means).argmax(1)
        # A group that lost all its boxes stays where it was.
        new = np.stack([sizes[groups == g].mean(0) if (groups == g).any() else means[g] for g in range(count)])
        if np.array_equal(new, means):
            break
        means = new
    return [(float(w), float(h)) for w, h in means[np.argsort(means.prod(1), kind="stable")]]


def _overlap(sizes: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of each box with each mean, both centred on one point, float64 [n, count]."""
    shared = np.minimum(sizes[:, None], means[None]).prod(2)
    overlap: NDArray[np.float64] = shared / (sizes.prod(1)[:, None] + means.prod(1)[None] - shared)
    return overlap
