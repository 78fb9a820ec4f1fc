"""What is wrong with the boxes that are shown: the kinds of error of TIDE (Bolya et al., arXiv 2008.08115), counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from onehead_cli.tasks.detection.decode import Detections

#: From this overlap on a box is in the right place, and from this one on it is near.
_RIGHT, _NEAR = 0.5, 0.1
#: Of the true boxes by area in pixels of the image; COCO has the same limits, and takes the area of the outline.
_SIZES = {"small (under 32² px)": 32**2, "medium (under 96² px)": 96**2, "large": float("inf")}

#: In the order in which a box is asked: it is of the first kind that fits.
KINDS = {
    "correct": "right class, IoU of .5 or more",
    "duplicate": "on a true box that another box has already found",
    "badly placed": "right class, IoU of .1 to .5",
    "wrong class": "IoU of .5 or more with a true box of another class",
    "both": "IoU of .1 to .5 with a true box of another class",
    "background": "no true box there",
    "missed": "a true box that no box has found",
}


@dataclass
class BoxErrors:
    """kinds: how many of KINDS. found, true: true boxes by size, those that were found and all."""

    kinds: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    true: Counter[str] = field(default_factory=Counter)

    @property
    def precision(self) -> float | None:
        """Of the boxes that are shown; None without any."""
        shown = sum(count for kind, count in self.kinds.items() if kind != "missed")
        return self.kinds["correct"] / shown if shown else None

    @property
    def recall(self) -> float | None:
        """Of the true boxes; None without any."""
        true = self.kinds["correct"] + self.kinds["missed"]
        return self.kinds["correct"] / true if true else None

    def recall_by_size(self) -> dict[str, float | None]:
        return {size: self.found[size] / self.true[size] if self.true[size] else None for size in _SIZES}


def box_errors(shown: Sequence[Detections], truth: Mapping[Any, Sequence[Mapping[str, Any]]]) -> BoxErrors:
    """The errors of all images. A box of which half or more lies in a crowd region of its class is not counted.

    Args:
        shown: of each image, best first; classes as `category_id`.
        truth: the true boxes in COCO form of each image, in the same order.
    """
    errors = BoxErrors()
    for found, true in zip(shown, truth.values(), strict=True):
        _count(errors, found, true)
    return errors


def _count(errors: BoxErrors, found: Detections, annotations: Sequence[Mapping[str, Any]]) -> None:
    crowds = [each for each in annotations if each.get("iscrowd")]
    true = [each for each in annotations if not each.get("iscrowd")]
    labels = np.array([each["category_id"] for each in true], dtype=np.int64)
    overlaps = _overlaps(found.boxes, _corners(true))  # [boxes, true boxes]
    taken = np.zeros(len(true), dtype=bool)
    for place, label in enumerate(found.labels.tolist()):
        same = np.where(labels == label, overlaps[place], 0.0)
        free = np.where(taken, 0.0, same)
        other = np.where(labels == label, 0.0, overlaps[place]).max(initial=0.0)
        if free.max(initial=0.0) >= _RIGHT:
            taken[free.argmax()] = True
            kind = "correct"
        elif _in_crowd(found.boxes[place], [each for each in crowds if each["category_id"] == label]):
            continue
        elif same.max(initial=0.0) >= _RIGHT:
            kind = "duplicate"
        elif same.max(initial=0.0) >= _NEAR:
            kind = "badly placed"
        else:
            kind = "wrong class" if other >= _RIGHT else "both" if other >= _NEAR else "background"
        errors.kinds[kind] += 1
    errors.kinds["missed"] += int((~taken).sum())
    for each, is_found in zip(true, taken.tolist(), strict=True):
        _, _, width, height = each["bbox"]
        size = next(name for name, area in _SIZES.items() if width * height < area)
        errors.true[size] += 1
        errors.found[size] += is_found


def _corners(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    sides = np.array([each["bbox"] for each in annotations], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = box_iou(torch.from_numpy(boxes).double(), torch.from_numpy(others)).numpy()
    return found


def _in_crowd(box: NDArray[np.float64], crowds: Sequence[Mapping[str, Any]]) -> bool:
    corners = _corners(crowds)
    sides = np.minimum(box[2:], corners[:, 2:]) - np.maximum(box[:2], corners[:, :2])
    inside = sides.clip(min=0).prod(axis=1).max(initial=0.0)
    return bool(inside >= 0.5 * (box[2:] - box[:2]).prod() > 0)
