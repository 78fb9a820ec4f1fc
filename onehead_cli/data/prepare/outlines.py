"""The outlines of synthetic objects: ten kinds, and two that belong to no class."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

#: A polygon [n, 2] (x, y) in about the unit disc, and whether it is filled (True) or cut out (False).
Outline = list[tuple[NDArray[np.float64], bool]]


def _circle(radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _polar(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _arrow(rng: Generator) -> Outline:
    shaft, neck, head = rng.uniform(0.16, 0.28), rng.uniform(-0.1, 0.25), rng.uniform(0.55, 0.75)
    half = [(-1.0, shaft), (neck, shaft), (neck, head), (1.0, 0.0)]
    return [(np.array(half + [(x, -y) for x, y in reversed(half[:-1])]), True)]


def _ball(rng: Generator) -> Outline:
    return [(_circle(rng.uniform(0.85, 1.0)), True)]


def _box(rng: Generator) -> Outline:
    x, y = 0.85, rng.uniform(0.5, 0.85)
    return [(np.array([(-x, -y), (x, -y), (x, y), (-x, y)]), True)]


def _crescent(rng: Generator) -> Outline:
    return [(_circle(), True), (_circle(rng.uniform(0.75, 0.9), (rng.uniform(0.4, 0.55), 0.0)), False)]


def _cross(rng: Generator) -> Outline:
    arm = rng.uniform(0.2, 0.34)
    corner = [(arm, arm), (arm, 1.0), (-arm, 1.0)]
    points = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in corner]
    return [(np.array([points[step][turn] for turn in range(4) for step in range(3)]), True)]


def _flower(rng: Generator) -> Outline:
    petals, depth = rng.integers(5, 8), rng.uniform(0.2, 0.3)
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    return [(_polar(1 - depth + depth * np.cos(petals * angle)), True), (_circle(0.2), False)]


def _heart(rng: Generator) -> Outline:
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(angle) ** 3
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return [(np.stack([x, -y - 2.5], axis=1) / rng.uniform(15.5, 17.0), True)]


def _ring(rng: Generator) -> Outline:
    return [(_circle(), True), (_circle(rng.uniform(0.45, 0.7)), False)]


def _star(rng: Generator) -> Outline:
    return [(_polar(np.array([1.0, rng.uniform(0.36, 0.48)] * 5)), True)]


def _triangle(rng: Generator) -> Outline:
    return [(_polar(rng.uniform(0.85, 1.1, size=3)), True)]


def blob_outline(rng: Generator) -> Outline:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [rng.uniform(0.05, 0.2) * np.sin(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4)]
    return [(_polar(0.7 + np.sum(waves, axis=0)), True)]


def stroke_outline(rng: Generator) -> Outline:
    x = np.linspace(-1, 1, 24)
    y = rng.uniform(-0.5, 0.5) * (x**2 - 0.5) + rng.uniform(-0.2, 0.2) * np.sin(4 * x)
    half = rng.uniform(0.015, 0.05)
    upper, lower = np.stack([x, y + half], axis=1), np.stack([x, y - half], axis=1)
    return [(np.concatenate([upper, lower[::-1]]), True)]


#: By class.
OUTLINES: dict[str, Callable[[Generator], Outline]] = {
    "arrow": _arrow,
    "ball": _ball,
    "box": _box,
    "crescent": _crescent,
    "cross": _cross,
    "flower": _flower,
    "heart": _heart,
    "ring": _ring,
    "star": _star,
    "triangle": _triangle,
}

CLASSES = tuple(OUTLINES)


def turned(rng: Generator, outline: Outline, centre: tuple[float, float], radius: float, stretch: float) -> Outline:
    """The outline stretched along a random direction by up to `stretch`, turned, scaled and moved, in pixels."""
    angle, along = rng.uniform(0, 2 * np.pi), math.exp(rng.uniform(-1, 1) * math.log(stretch) / 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = radius * turn @ np.diag([along, 1 / along])
    return [(points @ matrix.T + np.array(centre), filled) for points, filled in outline]
