"""Simple copy-paste: what another image shows of a class is pasted into an image and its mask (Ghiasi et al.,
arXiv 2012.07177)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.types import IGNORE_INDEX, DetectionTarget, TaskBatch

#: Void this near to what is pasted, as a share of the input's side, is its border and comes along: VOC leaves some
#: five pixels of five hundred, and a view may be zoomed by two.
_BORDER = 0.02

#: A box that the paste may hide by more than this share becomes a region to ignore.
_MAX_HIDDEN = 0.5


@dataclass(frozen=True)
class Pastes:
    """What is pasted into each image of a mini-batch.

    sources: int64 [B], index in the dataset of the image that it comes from.
    happens: bool [B].
    which: float [B] in 0..1, which of the source's classes, as a place among them.
    """

    sources: Tensor
    happens: Tensor
    which: Tensor

    @classmethod
    def draw(cls, total: int, images: int, probability: float, generator: torch.Generator, rows: slice) -> Pastes:
        """Args:
        total: images of the mini-batch, all of which are drawn for.
        images: in the dataset.
        probability: of a paste, for each image.
        rows: those that are wanted.
        """
        sources = torch.randint(images, (total,), generator=generator)
        chance, which = torch.rand(2, total, generator=generator)
        return cls(sources[rows], chance[rows] < probability, which[rows])


def paste(batch: TaskBatch, source: TaskBatch, pastes: Pastes) -> TaskBatch:
    """The images with a class region of their sources over them; nothing where a source shows no object.

    Of the boxes read out of the masks, those that the paste may hide become regions to ignore, and so does the paste.

    Args:
        batch: float images with masks, as seen through their views.
        source: the same of their sources; images of the same size.
    """
    assert isinstance(batch.target, Tensor) and isinstance(source.target, Tensor)
    area = _areas(source.target, pastes)  # [B, S, S]
    images = torch.where(area[:, None], source.images, batch.images)
    return replace(
        batch,
        images=images.contiguous(memory_format=torch.channels_last),
        target=torch.where(area, source.target, batch.target),
        mask_boxes=None if batch.mask_boxes is None else boxes_under(batch.mask_boxes, area),
    )


def _areas(masks: Tensor, pastes: Pastes) -> Tensor:
    """The pixels that are pasted: those of one class and the void that borders on them, bool [B, S, S]."""
    region = torch.zeros_like(masks, dtype=torch.bool)
    for row, (happens, which) in enumerate(zip(pastes.happens.tolist(), pastes.which.tolist(), strict=True)):
        labels = torch.unique(masks[row])
        labels = labels[(labels != 0) & (labels != IGNORE_INDEX)]
        if happens and len(labels):
            region[row] = masks[row] == labels[int(which * len(labels))]
    reach = round(_BORDER * masks.shape[-1])
    near = F.max_pool2d(region.float()[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
    return region | (near & (masks == IGNORE_INDEX))


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
    return DetectionTarget(
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
