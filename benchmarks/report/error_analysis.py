"""What a network gets wrong: classes confused, and boxes missed or found in vain, by class, size and kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onehead_cli.tasks.detection.decode import Detections

#: A box found counts as the true one from this overlap on.
IOU = 0.5
#: With less overlap than this with a box of its class, what was found has nothing to do with it.
NEAR = 0.1

CORRECT, IGNORED = "correct", "ignored"
#: What is wrong with a box that was found, the first that holds. duplicate: of a true box that another was taken for;
#: wrong class: on a true box of another class; poor box: IoU of .1 to .5 with a true box of its class; else background.
KINDS = ("duplicate", "wrong class", "poor box", "background")
#: COCO's sizes: the name, and the area in pixels of the image that it begins with.
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}


@dataclass(frozen=True)
class TrueBoxes:
    """The labels of one image.

    boxes: float64 [n, 4], x1 y1 x2 y2 in pixels. labels: int64 [n]. crowd: bool [n], regions to ignore.
    areas: float64 [n], pixels of the objects, by which COCO calls them small, medium and large.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]


def match(found: Detections, truth: TrueBoxes) -> tuple[list[str], NDArray[np.bool_], NDArray[np.int64]]:
    """Give found boxes, best first, to true ones of their class as COCO does at IoU .50.

    Returns:
        CORRECT, IGNORED (on a crowd region) or one of KINDS for each box found; whether each true box was found,
        bool [n] (crowd regions: False); and the true class that a wrong class was given to, int64 [m], else -1.
    """
    overlap = _overlap(found.boxes, truth)  # [m, n]
    same = found.labels[:, None] == truth.labels[None]
    kinds = [""] * len(found.labels)
    taken = np.zeros(len(truth.labels), dtype=bool)
    instead = np.full(len(found.labels), -1)
    for index in np.argsort(-found.scores, kind="stable"):
        free = np.where(same[index] & ~truth.crowd & ~taken, overlap[index], 0.0)
        if free.max(initial=0.0) >= IOU:
            taken[free.argmax()] = True
            kinds[index] = CORRECT
        elif np.where(same[index] & truth.crowd, overlap[index], 0.0).max(initial=0.0) >= IOU:
            kinds[index] = IGNORED
    for index, kind in enumerate(kinds):
        if kind:
            continue
        own = np.where(same[index] & ~truth.crowd, overlap[index], 0.0).max(initial=0.0)
        others = np.where(~same[index] & ~truth.crowd, overlap[index], 0.0)
        if own >= IOU:
            kinds[index] = "duplicate"
        elif others.max(initial=0.0) >= IOU:
            kinds[index] = "wrong class"
            instead[index] = truth.labels[others.argmax()]
        else:
            kinds[index] = "poor box" if own >= NEAR else "background"
    return kinds, taken, instead


def size_of(area: float) -> str:
    return [name for name, least in SIZES.items() if area >= least][-1]


@dataclass
class DetectionErrors:
    """Adds up what `match` says of one image after the other."""

    class_names: Sequence[str]
    _classes: list[dict[str, int]] = field(init=False)
    _sizes: dict[str, dict[str, int]] = field(init=False)
    _wrong: dict[tuple[int, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._classes = [dict.fromkeys(("true", "missed", CORRECT, *KINDS), 0) for _ in self.class_names]
        self._sizes = {name: {"true": 0, "missed": 0} for name in SIZES}

    def add(self, found: Detections, truth: TrueBoxes) -> None:
        kinds, hit, instead = match(found, truth)
        for index in np.flatnonzero(~truth.crowd):
            for count in (self._classes[truth.labels[index]], self._sizes[size_of(truth.areas[index])]):
                count["true"] += 1
                count["missed"] += not hit[index]
        for kind, label, true_label in zip(kinds, found.labels.tolist(), instead.tolist(), strict=True):
            if kind != IGNORED:
                self._classes[label][kind] += 1
            if kind == "wrong class":
                self._wrong[true_label, label] = self._wrong.get((true_label, label), 0) + 1

    def document(self) -> dict[str, Any]:
        names = self.class_names
        pairs = sorted(self._wrong.items(), key=lambda item: (-item[1], item[0]))
        return {
            "iou": IOU,
            "classes": [{"name": name, **row} for name, row in zip(names, self._classes, strict=True)],
            "sizes": [{"name": name, **row} for name, row in self._sizes.items()],
            "false_positives": {kind: sum(row[kind] for row in self._classes) for kind in KINDS},
            "correct": sum(row[CORRECT] for row in self._classes),
            "wrong_class_pairs": [{"true": names[a], "given": names[b], "count": n} for (a, b), n in pairs],
        }


def confusion_pairs(
    matrix: NDArray[np.int64], class_names: Sequence[str], *, most: int = 100
) -> list[dict[str, str | int | float]]:
    """The cells off the diagonal of a confusion matrix [C, C] (rows: true classes), each with its share of its row.

    Args: most: how many, the largest first.
    """
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    cells = np.argsort(-off, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(cells, off.shape)
    return [
        {
            "true": class_names[row],
            "given": class_names[column],
            "count": int(off[row, column]),
            "share": float(off[row, column] / matrix[row].sum()),
        }
        for row, column in zip(rows, columns, strict=True)
        if off[row, column]
    ]


def _overlap(boxes: NDArray[np.float64], truth: TrueBoxes) -> NDArray[np.float64]:
    """IoU [m, n]; with a crowd region the share of the found box that lies in it, as in COCO."""
    a, b = boxes[:, None], truth.boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(-1)
    own, other = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    whole = np.where(truth.crowd, own, own + other - shared)
    overlap: NDArray[np.float64] = shared / np.maximum(whole, 1e-9)
    return overlap
