"""How a synthetic scene is painted. Colour and texture are drawn without regard to the class."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from onehead_cli.data.prepare.items import Floats, Item


def paint(rng: Generator, items: Sequence[Item], width: int, height: int) -> NDArray[np.uint8]:
    """An image [H, W, 3] of the items, from back to front."""
    first, second = _colour(rng), _colour(rng)
    canvas = _texture(rng, width, height, first, first + np.float32(rng.uniform(0.15, 0.7)) * (second - first))
    for item in items:
        _paint_item(rng, canvas, item)
    canvas += rng.normal(0, rng.uniform(0.005, 0.03), size=(height, width, 1)).astype(np.float32)
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


def _paint_item(rng: Generator, canvas: Floats, item: Item) -> None:
    """Paint one item with its shadow into the canvas [H, W, 3]."""
    height, width = canvas.shape[:2]
    place, inside = item.window(width, height)
    ground = canvas[place]
    if ground.size == 0:
        return
    coverage = item.coverage[inside]
    alpha = Image.fromarray((item.coverage * 255).astype(np.uint8))

    shift = rng.integers(-3, 4, size=2)
    shadow = np.asarray(alpha.filter(ImageFilter.GaussianBlur(2.5)), dtype=np.float32) / 255
    shadow = np.roll(shadow, (int(shift[0]), int(shift[1])), axis=(0, 1))[inside]
    ground *= 1 - rng.uniform(0, 0.5) * shadow[..., None]

    first = _colour_unlike(rng, ground.mean(axis=(0, 1)), rng.uniform(0.25, 0.45))
    second = (first + rng.uniform(-0.2, 0.2, size=3)).clip(0, 1)
    rows, columns = item.coverage.shape
    fill = _texture(rng, columns, rows, first, second)[inside]
    light = _gradient(rng, columns, rows)[inside]
    fill *= 1 - rng.uniform(0, 0.45) * light[..., None]
    if rng.random() < 0.5:
        core = np.asarray(alpha.filter(ImageFilter.MinFilter(3)), dtype=np.float32)[inside] / 255
        fill *= 1 - rng.uniform(0.2, 0.6) * (coverage - core)[..., None]
    ground += coverage[..., None] * (fill - ground)


def _texture(rng: Generator, width: int, height: int, first: Floats, second: Floats) -> Floats:
    """[H, W, 3]: two colours mixed by one of the patterns, roughened by noise."""
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, width, height)
    pattern = pattern + rng.uniform(0, 0.5) * (_octaves(rng, width, height) - 0.5)
    mixed: Floats = first + pattern.clip(0, 1)[..., None] * (second - first)
    return mixed


def _gradient(rng: Generator, width: int, height: int) -> Floats:
    angle = rng.uniform(0, 2 * np.pi)
    return _spread(_slope(width, height, angle))


def _octaves(rng: Generator, width: int, height: int) -> Floats:
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(4):
        cells = 3 * 2**octave
        grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return _spread(total)


def _stripes(rng: Generator, width: int, height: int) -> Floats:
    period, bend = rng.uniform(6, 40), rng.uniform(0, 1.5)
    phase = _slope(width, height, rng.uniform(0, 2 * np.pi)) * (2 * np.pi / period)
    wave: Floats = np.sin(phase + bend * 4 * _octaves(rng, width, height))
    return (0.5 + rng.uniform(0.6, 2.0) * wave).clip(0, 1).astype(np.float32)


def _blotches(rng: Generator, width: int, height: int) -> Floats:
    steepness = rng.uniform(4, 12)
    return (0.5 + steepness * (_octaves(rng, width, height) - rng.uniform(0.4, 0.6))).clip(0, 1).astype(np.float32)


_PATTERNS: tuple[Callable[[Generator, int, int], Floats], ...] = (_gradient, _octaves, _stripes, _blotches)


def _slope(width: int, height: int, angle: float) -> Floats:
    """[H, W]: how far each pixel lies along a direction, in pixels."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return x * np.float32(math.cos(angle)) + y[:, None] * np.float32(math.sin(angle))


def _spread(values: Floats) -> Floats:
    """Stretched to 0..1."""
    low, high = values.min(), values.max()
    spread: Floats = (values - low) / (high - low)
    return spread


def _colour(rng: Generator) -> Floats:
    hue, saturation, value = rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.25, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _colour_unlike(rng: Generator, other: Floats, distance: float) -> Floats:
    """A colour that differs from `other` by at least `distance` in one of red, green and blue.

    Keep it below 0.47: beside a medium grey nothing farther away can be drawn, and the search would not end.
    """
    while True:
        colour = _colour(rng)
        if np.abs(colour - other).max() >= distance:
            return colour
