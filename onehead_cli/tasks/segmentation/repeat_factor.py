"""Repeat-factor sampling: images of rare classes are seen more often (Gupta et al., LVIS, arXiv 1908.03195)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.images import open_mask
from onehead_cli.data.mask_folders import MaskFoldersListing


def mask_classes(listing: MaskFoldersListing) -> list[set[int]]:
    """The classes that each mask holds, but for the background.

    Raises:
        DataError: a mask cannot be read.
    """
    nothing = {0, IGNORE_INDEX, listing.ignore_index}
    return [set(np.unique(open_mask(path)).tolist()) - nothing for path in listing.masks]


def repeat_factors(classes: Sequence[Collection[int]], threshold: float) -> list[float]:
    """How often each image is to be seen beside one of frequent classes: the largest r(c) of its classes.

    r(c) = max(1, sqrt(t / f(c))), where f(c) is the share of the images that have class c.

    Args:
        classes: of each image, without the background.
        threshold: t.
    """
    images = Counter(label for found in classes for label in set(found))
    wanted = threshold * len(classes)
    return [max([1.0, *(math.sqrt(wanted / images[label]) for label in found)]) for found in classes]
