"""Repeat-factor sampling: images of rare classes are seen more often (Gupta et al., LVIS, arXiv 1908.03195)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch

from onehead_cli.data.images import open_mask
from onehead_cli.tasks.segmentation.data import SegmentationData
from onehead_cli.types import IGNORE_INDEX


def mask_classes(data: SegmentationData) -> list[set[int]]:
    """The classes that each mask holds, but for the background.

    Raises:
        DataError: a mask cannot be read.
    """
    nothing = {0, IGNORE_INDEX, data.ignore_index}
    return [set(np.unique(open_mask(path)).tolist()) - nothing for path in data.mask_paths]


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


def repeated_order(factors: Sequence[float], generator: torch.Generator) -> list[int]:
    """One pass over n images: n indices, among which image i is expected n r_i / sum(r) times.

    A pass stays as long as one without repeats, so that an epoch does. Each image comes as often as expected, rounded
    down or up by chance (systematic resampling): images whose share is below 1 are left out of some passes.
    """
    count = len(factors)
    order = torch.randperm(count, generator=generator)
    shares = torch.tensor(factors, dtype=torch.float64)[order]
    ends = shares.cumsum(0) * (count / shares.sum())
    ends = (ends + torch.rand(1, generator=generator, dtype=torch.float64)).floor().long()
    ends[-1] = count  # whatever the rounding
    times = torch.diff(ends, prepend=ends.new_zeros(1))
    seen = order.repeat_interleave(times)
    return seen[torch.randperm(count, generator=generator)].tolist()
