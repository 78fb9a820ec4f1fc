"""Counts the labels of a split: how often each class is there, how large the images are."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from onehead_cli.data.format import Listing
from onehead_cli.data.images import image_size
from onehead_cli.tasks.labels import LabelCounts
from onehead_cli.tasks.task import Task


def count_labels(listing: Listing, advance: Callable[[str], None]) -> LabelCounts:
    """Count all labels of a split; of JPEGs only the headers are read, of the masks every pixel.

    Args:
        advance: called with each image's name once it is counted.

    Raises:
        DataError: an image's header or a mask cannot be read, or a mask does not fit its image or the classes.
    """
    counts = LabelCounts(list(listing.classes), listing.unit)
    for index, path in enumerate(listing.images):
        size = image_size(path)
        counts.add(size, listing.contents(index, size))
        advance(path.name)
    return counts


def counts_document(task: Task, counts: LabelCounts) -> dict[str, Any]:
    """The counts as they stand in a JSON file."""
    widths, heights = zip(*counts.sizes, strict=True)
    unit = counts.unit
    return {
        "pictures": len(counts.sizes),
        "width": _spread(widths),
        "height": _spread(heights),
        "classes": {
            name: {"pictures": counts.images(name), **({unit: counts.amounts[name]} if unit else {})}
            for name in counts.classes
        },
        **task.counts_document(counts),
    }


def _spread(values: tuple[int, ...]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}
