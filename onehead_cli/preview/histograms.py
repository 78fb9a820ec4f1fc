"""Counts the labels of a split: how often each class is there, how large the pictures and boxes are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onehead_cli.data.images import picture_size
from onehead_cli.data.split import TaskData
from onehead_cli.tasks.classification import ClassificationData
from onehead_cli.tasks.detection.data import DetectionData
from onehead_cli.tasks.segmentation.data import SegmentationData, checked_mask
from onehead_cli.types import IGNORE_INDEX, Task

#: What is counted of a class beside the pictures that show it.
UNITS = {Task.SEG: "pixels", Task.DET: "boxes"}

#: COCO's limits between small, medium and large boxes, in square pixels.
_SMALL, _LARGE = 32**2, 96**2


@dataclass
class LabelCounts:
    """The labels of one split of one task.

    classes: every class name, in the order of the labels.
    sizes: width and height of each picture in pixels.
    shown: the classes that each picture shows; None stands for void or a crowd region.
    amounts: pixels (seg) or boxes (det) of each class; None for void and crowd regions.
    box_sizes: how many boxes are small, medium and large as COCO defines them, by the area of their annotation.
    """

    task: Task
    classes: list[str]
    sizes: list[tuple[int, int]] = field(default_factory=list)
    shown: list[frozenset[str | None]] = field(default_factory=list)
    amounts: Counter[str | None] = field(default_factory=Counter)
    box_sizes: Counter[str] = field(default_factory=Counter)

    def pictures(self, name: str | None) -> int:
        """How many pictures show a class."""
        return sum(name in labels for labels in self.shown)

    def document(self) -> dict[str, Any]:
        """The counts as they stand in a JSON file."""
        widths, heights = zip(*self.sizes, strict=True)
        unit = UNITS.get(self.task)
        found: dict[str, Any] = {
            "pictures": len(self.sizes),
            "width": _spread(widths),
            "height": _spread(heights),
            "classes": {
                name: {"pictures": self.pictures(name), **({unit: self.amounts[name]} if unit else {})}
                for name in self.classes
            },
        }
        if self.task is Task.SEG:
            found["void"] = {"pictures": self.pictures(None), "pixels": self.amounts[None]}
        elif self.task is Task.DET:
            found["crowd"] = {"pictures": self.pictures(None), "regions": self.amounts[None]}
            found["box_sizes"] = {size: self.box_sizes[size] for size in ("small", "medium", "large")}
            found["pictures_without_boxes"] = sum(not labels - {None} for labels in self.shown)
        return found


def count_labels(split: TaskData, advance: Callable[[str], None]) -> LabelCounts:
    """Count all labels of a split; of JPEGs only the headers are read, of the masks every pixel.

    Args:
        advance: called with each picture's name once it is counted.

    Raises:
        DataError: a picture's header or a mask cannot be read, or a mask does not fit its picture or the classes.
    """
    counts = LabelCounts(split.task, list(split.classes))
    boxes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    names: dict[int, str] = {}
    if isinstance(split, DetectionData):
        names = dict(zip(split.category_ids, split.classes, strict=True))
        for annotation in split.ground_truth["annotations"]:
            boxes[annotation["image_id"]].append(annotation)
    for index, path in enumerate(split.paths):
        size = picture_size(path)
        counts.sizes.append(size)
        if isinstance(split, ClassificationData):
            counts.shown.append(frozenset({split.classes[split.labels[index]]}))
        elif isinstance(split, SegmentationData):
            ignored = {"ignore_index": split.ignore_index}
            _count_mask(counts, checked_mask(split.mask_paths[index], size, len(split.classes), **ignored))
        elif isinstance(split, DetectionData):
            _count_boxes(counts, boxes[split.ground_truth["images"][index]["id"]], names)
        advance(path.name)
    return counts


def _count_mask(counts: LabelCounts, mask: NDArray[np.uint8]) -> None:
    pixels = np.bincount(mask.ravel())
    found: dict[str | None, int] = {
        None if label == IGNORE_INDEX else counts.classes[label]: int(pixels[label]) for label in np.flatnonzero(pixels)
    }
    counts.amounts.update(found)
    counts.shown.append(frozenset(found))


def _count_boxes(counts: LabelCounts, annotations: list[dict[str, Any]], names: dict[int, str]) -> None:
    found: list[str | None] = [None if a["iscrowd"] else names[a["category_id"]] for a in annotations]
    counts.amounts.update(found)
    counts.shown.append(frozenset(found))
    for annotation in annotations:
        if not annotation["iscrowd"]:
            area = annotation["area"]
            counts.box_sizes["small" if area < _SMALL else "medium" if area < _LARGE else "large"] += 1


def _spread(values: tuple[int, ...]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}
