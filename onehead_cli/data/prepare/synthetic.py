"""Pictures drawn from a random generator, with true masks: ten kinds of objects on textured backgrounds.

A scene is a list of items from back to front. Which item is seen at a pixel is settled first; only then is anything
painted, so that masks and boxes hold what is visible. Colour, texture, size and rotation are drawn without regard
to the class: the outline alone gives it away.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from onehead_cli.types import IGNORE_INDEX

#: A polygon [n, 2] (x, y) in about the unit disc, and whether it is filled (True) or cut out (False).
Outline = list[tuple[NDArray[np.float64], bool]]

Floats = NDArray[np.float32]

Mask = NDArray[np.bool_]

MIN_IMAGE_SIZE = 64

_SUPERSAMPLING = 4

_MIN_VISIBLE_SHARE = 0.2

_MIN_VISIBLE_PIXELS = 12


@dataclass(frozen=True)
class SceneObject:
    """A labelled object. mask: bool [H, W], the pixels where it is seen; crowd: many small objects of one class."""

    label: str
    mask: Mask
    crowd: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box of the mask: x, y, width, height in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Scene:
    """picture: uint8 [H, W, 3]; objects: from back to front."""

    picture: NDArray[np.uint8]
    objects: list[SceneObject]


def draw_detection(rng: Generator, *, image_size: int, crowd: bool) -> Scene:
    """One to six objects of any class, and with `crowd` a cluster of tiny ones of one class in front."""
    width, height = _picture_size(rng, image_size)
    short = min(width, height)
    while True:
        items = _clutter(rng, width, height)
        for label in rng.choice(CLASSES, size=rng.integers(1, 7)):
            radius = short * math.exp(rng.uniform(math.log(0.15), math.log(0.32)))
            items.append(_item(rng, str(label), _free_spot(rng, items, width, height), radius))
        if crowd:
            spot = _free_spot(rng, items, width, height)
            items.append(_crowd(rng, str(rng.choice(CLASSES)), spot, 0.22 * short))
        items = _drop_hidden(items, width, height)
        if {False, crowd} <= {item.crowd for item in items if item.label}:
            return _paint(rng, items, width, height)


def draw_segmentation(rng: Generator, *, image_size: int) -> Scene:
    """One to three objects of the segmented classes among up to two of the others."""
    width, height = _picture_size(rng, image_size)
    short = min(width, height)
    others = [name for name in CLASSES if name not in SEGMENTED_CLASSES]
    while True:
        labels = [*rng.choice(SEGMENTED_CLASSES[1:], size=rng.integers(1, 4))]
        labels += [*rng.choice(others, size=rng.integers(0, 3))]
        items = _clutter(rng, width, height)
        for index in rng.permutation(len(labels)):
            radius = short * math.exp(rng.uniform(math.log(0.18), math.log(0.42)))
            items.append(_item(rng, str(labels[index]), _free_spot(rng, items, width, height), radius))
        items = _drop_hidden(items, width, height)
        if any(item.label in SEGMENTED_CLASSES for item in items):
            return _paint(rng, items, width, height)


def draw_classification(rng: Generator, label: str, *, image_size: int) -> Scene:
    """One large object of the class `label`, the last of the scene, in front of a few small ones of other classes."""
    width, height = _picture_size(rng, image_size)
    short = min(width, height)
    items = _clutter(rng, width, height)
    for other in rng.choice([name for name in CLASSES if name != label], size=rng.integers(1, 5)):
        items.append(_item(rng, str(other), _spot(rng, width, height), short * rng.uniform(0.05, 0.12)))
    centre = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
    items.append(_item(rng, label, centre, short * rng.uniform(0.18, 0.4)))
    return _paint(rng, _drop_hidden(items, width, height), width, height)


def class_mask(scene: Scene) -> NDArray[np.uint8]:
    """The mask [H, W] of a scene: index into SEGMENTED_CLASSES, with a void rim two pixels wide round each object."""
    height, width = scene.picture.shape[:2]
    labels = np.zeros((height, width), dtype=np.uint8)
    regions = np.zeros((height, width), dtype=np.uint8)
    for number, thing in enumerate(scene.objects, start=1):
        if thing.label in SEGMENTED_CLASSES:
            labels[thing.mask] = SEGMENTED_CLASSES.index(thing.label)
            regions[thing.mask] = number
    beside = regions[:, 1:] != regions[:, :-1]
    below = regions[1:] != regions[:-1]
    rim = np.zeros((height, width), dtype=bool)
    rim[:, 1:] |= beside
    rim[:, :-1] |= beside
    rim[1:] |= below
    rim[:-1] |= below
    labels[rim] = IGNORE_INDEX
    return labels


# --- outlines -------------------------------------------------------------------------------------------------------


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


def _blob(rng: Generator) -> Outline:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [rng.uniform(0.05, 0.2) * np.sin(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4)]
    return [(_polar(0.7 + np.sum(waves, axis=0)), True)]


def _stroke(rng: Generator) -> Outline:
    x = np.linspace(-1, 1, 24)
    y = rng.uniform(-0.5, 0.5) * (x**2 - 0.5) + rng.uniform(-0.2, 0.2) * np.sin(4 * x)
    half = rng.uniform(0.015, 0.05)
    upper, lower = np.stack([x, y + half], axis=1), np.stack([x, y - half], axis=1)
    return [(np.concatenate([upper, lower[::-1]]), True)]


_OUTLINES: dict[str, Callable[[Generator], Outline]] = {
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

CLASSES = tuple(_OUTLINES)

SEGMENTED_CLASSES = ("background", "arrow", "ball", "cross", "heart", "ring", "star")


# --- items ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """An outline at its place. coverage: float [h, w] in 0..1, with its upper left corner at (left, top), which may
    lie outside the picture; label: None for clutter."""

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
        """The part inside a picture: as rows and columns of the picture, and as rows and columns of the coverage."""
        rows, columns = self.coverage.shape
        y0, y1 = np.clip([self.top, self.top + rows], 0, height)
        x0, x1 = np.clip([self.left, self.left + columns], 0, width)
        inside = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return (slice(y0, y1), slice(x0, x1)), inside


def _item(rng: Generator, label: str, centre: tuple[float, float], radius: float, *, stretch: float = 1.25) -> _Item:
    return _rasterise(_turned(rng, _OUTLINES[label](rng), centre, radius, stretch), label=label)


def _crowd(rng: Generator, label: str, centre: tuple[float, float], radius: float) -> _Item:
    """A 4 x 4 grid of tiny objects, shaken, with about a third left out."""
    step = radius / 2
    outline: Outline = []
    for cell in rng.permutation(16)[: rng.integers(9, 13)]:
        x = centre[0] + (cell % 4 - 1.5 + rng.uniform(-0.2, 0.2)) * step
        y = centre[1] + (cell // 4 - 1.5 + rng.uniform(-0.2, 0.2)) * step
        outline += _turned(rng, _OUTLINES[label](rng), (x, y), step * rng.uniform(0.3, 0.42), 1.1)
    return _rasterise(outline, label=label, crowd=True)


def _clutter(rng: Generator, width: int, height: int) -> list[_Item]:
    """Blobs and strokes of no class, behind everything."""
    items = []
    for _ in range(rng.integers(0, 5)):
        blob = rng.random() < 0.4
        radius = min(width, height) * (rng.uniform(0.04, 0.16) if blob else rng.uniform(0.15, 0.5))
        centre = (width * rng.random(), height * rng.random())
        items.append(_rasterise(_turned(rng, _blob(rng) if blob else _stroke(rng), centre, radius, 1.4)))
    return items


def _turned(rng: Generator, outline: Outline, centre: tuple[float, float], radius: float, stretch: float) -> Outline:
    """The outline stretched along a random direction by up to `stretch`, turned, scaled and moved, in pixels."""
    angle, along = rng.uniform(0, 2 * np.pi), math.exp(rng.uniform(-1, 1) * math.log(stretch) / 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = radius * turn @ np.diag([along, 1 / along])
    return [(points @ matrix.T + np.array(centre), filled) for points, filled in outline]


def _rasterise(outline: Outline, *, label: str | None = None, crowd: bool = False) -> _Item:
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
    return _Item(label, crowd, coverage, left, top)


def _spot(rng: Generator, width: int, height: int) -> tuple[float, float]:
    return width * rng.uniform(0.08, 0.92), height * rng.uniform(0.08, 0.92)


def _free_spot(rng: Generator, items: list[_Item], width: int, height: int) -> tuple[float, float]:
    """The spot, of four, that lies farthest from the labelled items: objects overlap, but seldom pile up."""
    spots = [_spot(rng, width, height) for _ in range(4)]
    centres = [item.centre for item in items if item.label]
    return max(spots, key=lambda spot: min((math.dist(spot, centre) for centre in centres), default=0.0))


def _picture_size(rng: Generator, image_size: int) -> tuple[int, int]:
    """Width and height, each up to a fifth more or less than `image_size`."""
    width, height = (round(image_size * factor) for factor in rng.uniform(0.8, 1.2, size=2))
    return width, height


def _owners(items: list[_Item], width: int, height: int) -> NDArray[np.int16]:
    """[H, W]: the index of the frontmost item at each pixel, -1 for the background."""
    owners = np.full((height, width), -1, dtype=np.int16)
    for index, item in enumerate(items):
        place, inside = item.window(width, height)
        owners[place][item.solid[inside]] = index
    return owners


def _drop_hidden(items: list[_Item], width: int, height: int) -> list[_Item]:
    """Leave out the labelled items of which too little is seen to label them; the rest is then seen no less."""
    seen = np.bincount(_owners(items, width, height).ravel() + 1, minlength=len(items) + 1)[1:]
    return [
        item
        for item, pixels in zip(items, seen, strict=True)
        if item.label is None or (pixels >= _MIN_VISIBLE_PIXELS and pixels >= _MIN_VISIBLE_SHARE * item.solid.sum())
    ]


# --- painting -------------------------------------------------------------------------------------------------------


def _paint(rng: Generator, items: list[_Item], width: int, height: int) -> Scene:
    first, second = _colour(rng), _colour(rng)
    canvas = _texture(rng, width, height, first, first + np.float32(rng.uniform(0.15, 0.7)) * (second - first))
    for item in items:
        _paint_item(rng, canvas, item)
    canvas += rng.normal(0, rng.uniform(0.005, 0.03), size=(height, width, 1)).astype(np.float32)
    owners = _owners(items, width, height)
    objects = [SceneObject(item.label, owners == index, item.crowd) for index, item in enumerate(items) if item.label]
    return Scene((canvas.clip(0, 1) * 255).round().astype(np.uint8), objects)


def _paint_item(rng: Generator, canvas: Floats, item: _Item) -> None:
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
