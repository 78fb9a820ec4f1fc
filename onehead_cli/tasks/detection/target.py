"""True boxes of a mini-batch, and what an augmentation makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.data.augment import Seen, View
from onehead_cli.data.batch import Target

#: A box cut to less than this share of itself is neither wanted nor wrong: it becomes a region to ignore.
_MIN_VISIBLE = 0.25
_MIN_SIDE = 2.0
#: A box that a paste may hide by more than this share becomes a region to ignore.
_MAX_HIDDEN = 0.5


@dataclass
class DetectionTarget(Target):
    """Boxes of a batch, padded to the largest count M of an image.

    boxes: float [B, M, 4], x1 y1 x2 y2 in pixels of the S x S input.
    labels: int64 [B, M], class index, or -1 for padding.
    crowd: bool [B, M], True for a region to ignore (its label does not matter).
    labelled: the classes that these images are labelled for; None for all.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    labelled: tuple[int, ...] | None = None

    @classmethod
    def padded(
        cls, images: Sequence[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]]
    ) -> DetectionTarget:
        """Boxes, labels and crowd flags of several images, padded to the largest count."""
        most = max([len(labels) for _, labels, _ in images] + [1])
        target = cls(
            boxes=torch.zeros(len(images), most, 4),
            labels=torch.full((len(images), most), -1),
            crowd=torch.zeros(len(images), most, dtype=torch.bool),
        )
        for row, (boxes, labels, crowd) in enumerate(images):
            target.boxes[row, : len(boxes)] = torch.from_numpy(boxes).float()
            target.labels[row, : len(labels)] = torch.from_numpy(labels)
            target.crowd[row, : len(crowd)] = torch.from_numpy(crowd)
        return target

    def seen_through(self, seen: Seen) -> DetectionTarget:
        return view_boxes(self, seen.view, seen.size, seen.side)

    def covered(self, area: Tensor) -> DetectionTarget:
        return boxes_under(self, area)


def view_boxes(target: DetectionTarget, view: View, size: int, side: int | None = None) -> DetectionTarget:
    """Boxes as the view shows them, clipped; those mostly outside become regions to ignore, the rest go.

    Args:
        size: side of the input that the boxes are in, in pixels.
        side: side of the view; unset, the same.
    """
    side = side or size
    device = target.boxes.device
    zoom_x, zoom_y, flip = (v.to(device)[:, None] for v in (view.zoom_x, view.zoom_y, view.flip))
    boxes = target.boxes * 2 / size - 1  # [B, M, 4] in -1..1
    x = (boxes[..., 0::2] - view.shift_x.to(device)[:, None, None]) * (zoom_x * flip)[..., None]
    y = (boxes[..., 1::2] - view.shift_y.to(device)[:, None, None]) * zoom_y[..., None]
    whole = torch.stack([x.amin(-1), y.amin(-1), x.amax(-1), y.amax(-1)], dim=-1)
    whole = (whole + 1) * side / 2
    clipped = whole.clamp(0, side)
    sides = clipped[..., 2:] - clipped[..., :2]
    share = sides.prod(-1) / (whole[..., 2:] - whole[..., :2]).prod(-1).clamp(min=1e-6)
    gone = (sides <= 0).any(-1)
    doubtful = (share < _MIN_VISIBLE) | (sides < _MIN_SIDE).any(-1)
    labels = torch.where(gone, -1, target.labels)
    crowd = (target.crowd | doubtful) & (labels >= 0)
    return replace(target, boxes=clipped, labels=labels, crowd=crowd)


def boxes_under(target: DetectionTarget, area: Tensor) -> DetectionTarget:
    """The boxes with one more per image round the paste, a region to ignore, as are those largely under it.

    Args: area: what is pasted, bool [B, S, S].
    """
    across, down = area.any(1), area.any(2)  # [B, S]: columns and rows with something in them
    cover = torch.stack([_first(across), _first(down), _end(across), _end(down)], dim=1).to(target.boxes)[:, None]
    shared = torch.minimum(target.boxes[..., 2:], cover[..., 2:]) - torch.maximum(target.boxes[..., :2], cover[..., :2])
    whole = (target.boxes[..., 2:] - target.boxes[..., :2]).prod(-1).clamp(min=1e-6)
    pasted = area.flatten(1).any(1)[:, None]
    hidden = (shared.clamp(min=0).prod(-1) > _MAX_HIDDEN * whole) & (target.labels >= 0) & pasted
    return replace(
        target,
        boxes=torch.cat([target.boxes, cover], dim=1),
        labels=torch.cat([target.labels, torch.where(pasted, 0, -1)], dim=1),
        crowd=torch.cat([target.crowd | hidden, pasted], dim=1),
    )


def _first(found: Tensor) -> Tensor:
    """Index of the first True in each row of bool [B, S]; 0 where there is none."""
    return found.int().argmax(1)


def _end(found: Tensor) -> Tensor:
    """Index behind the last True in each row of bool [B, S]; S where there is none."""
    return found.shape[1] - found.flip(1).int().argmax(1)
