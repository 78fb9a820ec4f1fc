"""Labels as people look at them: counted over a split, and of one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.data.format import Contents

#: x1 y1 x2 y2 in pixels of the image.
Corners = tuple[float, float, float, float]


@dataclass
class Label:
    """The label of one image, in its pixels.

    text: of the whole image, if it has one.
    mask: uint8 [height, width], class indices.
    boxes: corners, class name, whether it is a region to ignore.
    panel: what no tint can show, drawn beside the image, of any size; not with a mask or boxes.
    """

    text: str = ""
    mask: NDArray[np.uint8] | None = None
    boxes: Sequence[tuple[Corners, str, bool]] = ()
    panel: Image.Image | None = None


@dataclass(frozen=True)
class Histogram:
    """How the labels of a task are counted in a diagram.

    panels: titles; one that is the listing's unit shows amounts, others how many images show a class.
    has_background: the first class is everywhere, and has no bar.
    nothing: a row for what belongs to no class; None for none.
    """

    panels: tuple[str, ...] = ("images",)
    has_background: bool = False
    nothing: str | None = None


@dataclass
class LabelCounts:
    """The labels of one split of one task.

    classes: every class name, in the order of the labels.
    unit: what `amounts` counts; None where there is no more to count than images.
    sizes: width and height of each image in pixels.
    shown: the classes that each image shows; None stands for what belongs to no class.
    amounts: how much there is of each class.
    further: counts of other things, by what they are.
    """

    classes: list[str]
    unit: str | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    shown: list[frozenset[str | None]] = field(default_factory=list)
    amounts: Counter[str | None] = field(default_factory=Counter)
    further: Counter[str] = field(default_factory=Counter)

    def add(self, size: tuple[int, int], contents: Contents) -> None:
        """Take in one image."""
        self.sizes.append(size)
        self.shown.append(frozenset(contents.amounts))
        self.amounts.update(contents.amounts)
        self.further.update(contents.further)

    def images(self, name: str | None) -> int:
        """How many images show a class."""
        return sum(name in labels for labels in self.shown)
