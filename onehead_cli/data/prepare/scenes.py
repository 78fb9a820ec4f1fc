"""Scenes drawn from a random generator, with true masks: ten kinds of objects on textured backgrounds.

A scene is a list of items from back to front. Which item is seen at a pixel is settled first; only then is anything
painted, so that masks and boxes hold what is visible. Colour, texture, size and rotation are drawn without regard
to the class: the outline alone gives it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.prepare.items import (
    Item,
    Mask,
    any_spot,
    clutter,
    crowd_item,
    drop_hidden,
    free_spot,
    frontmost,
    labelled_item,
)
from onehead_cli.data.prepare.outlines import CLASSES
from onehead_cli.data.prepare.painting import paint

SEGMENTED_CLASSES = ("background", "arrow", "ball", "cross", "heart", "ring", "star")


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
    """image: uint8 [H, W, 3]; objects: from back to front."""

    image: NDArray[np.uint8]
    objects: list[SceneObject]


def draw_detection(rng: Generator, *, image_size: int, crowd: bool) -> Scene:
    """One to six objects of any class, and with `crowd` a cluster of tiny ones of one class in front."""
    width, height = _image_size(rng, image_size)
    short = min(width, height)
    while True:
        items = clutter(rng, width, height)
        for label in rng.choice(CLASSES, size=rng.integers(1, 7)):
            radius = short * math.exp(rng.uniform(math.log(0.15), math.log(0.32)))
            items.append(labelled_item(rng, str(label), free_spot(rng, items, width, height), radius))
        if crowd:
            spot = free_spot(rng, items, width, height)
            items.append(crowd_item(rng, str(rng.choice(CLASSES)), spot, 0.22 * short))
        items = drop_hidden(items, width, height)
        if {False, crowd} <= {item.crowd for item in items if item.label}:
            return _scene(rng, items, width, height)


def draw_segmentation(rng: Generator, *, image_size: int) -> Scene:
    """One to three objects of the segmented classes among up to two of the others."""
    width, height = _image_size(rng, image_size)
    short = min(width, height)
    others = [name for name in CLASSES if name not in SEGMENTED_CLASSES]
    while True:
        labels = [*rng.choice(SEGMENTED_CLASSES[1:], size=rng.integers(1, 4))]
        labels += [*rng.choice(others, size=rng.integers(0, 3))]
        items = clutter(rng, width, height)
        for index in rng.permutation(len(labels)):
            radius = short * math.exp(rng.uniform(math.log(0.18), math.log(0.42)))
            items.append(labelled_item(rng, str(labels[index]), free_spot(rng, items, width, height), radius))
        items = drop_hidden(items, width, height)
        if any(item.label in SEGMENTED_CLASSES for item in items):
            return _scene(rng, items, width, height)


def draw_classification(rng: Generator, label: str, *, image_size: int) -> Scene:
    """One large object of the class `label`, the last of the scene, in front of a few small ones of other classes."""
    width, height = _image_size(rng, image_size)
    short = min(width, height)
    items = clutter(rng, width, height)
    for other in rng.choice([name for name in CLASSES if name != label], size=rng.integers(1, 5)):
        items.append(labelled_item(rng, str(other), any_spot(rng, width, height), short * rng.uniform(0.05, 0.12)))
    centre = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
    items.append(labelled_item(rng, label, centre, short * rng.uniform(0.18, 0.4)))
    return _scene(rng, drop_hidden(items, width, height), width, height)


def _scene(rng: Generator, items: Sequence[Item], width: int, height: int) -> Scene:
    """The items painted, and what is seen of the labelled ones."""
    image = paint(rng, items, width, height)
    owners = frontmost(items, width, height)
    objects = [SceneObject(item.label, owners == index, item.crowd) for index, item in enumerate(items) if item.label]
    return Scene(image, objects)


def _image_size(rng: Generator, image_size: int) -> tuple[int, int]:
    """Width and height, each up to a fifth more or less than `image_size`."""
    width, height = (round(image_size * factor) for factor in rng.uniform(0.8, 1.2, size=2))
    return width, height


def class_mask(scene: Scene) -> NDArray[np.uint8]:
    """The mask [H, W] of a scene: index into SEGMENTED_CLASSES, with a void rim two pixels wide round each object."""
    height, width = scene.image.shape[:2]
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
