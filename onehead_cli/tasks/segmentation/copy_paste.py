"""Simple copy-paste: what another image shows of a class is pasted into an image and its mask (Ghiasi et al.,
arXiv 2012.07177)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.batch import TaskBatch
from onehead_cli.tasks.segmentation.split import Masks

#: Void this near to what is pasted, as a share of the input's side, is its border and comes along: VOC leaves some
#: five pixels of five hundred, and a view may be zoomed by two.
_BORDER = 0.02


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
    def draw(cls, total: int, images: int, generator: torch.Generator, rows: slice, *, probability: float) -> Pastes:
        """Args:
        total: images of the mini-batch, all of which are drawn for.
        images: in the dataset.
        rows: those that are wanted.
        probability: of a paste, for each image.
        """
        sources = torch.randint(images, (total,), generator=generator)
        chance, which = torch.rand(2, total, generator=generator)
        return cls(sources[rows], chance[rows] < probability, which[rows])

    def mix(self, batch: TaskBatch, source: TaskBatch) -> TaskBatch:
        """The images with a class region of their sources over them; nothing where a source shows no object.

        Labels for other tasks, such as boxes read out of the masks, are told what is covered.

        Args:
            batch: float images with masks, as seen through their views.
            source: the same of their sources; images of the same size.
        """
        assert isinstance(batch.target, Masks) and isinstance(source.target, Masks)
        area = _areas(source.target.masks, self)  # [B, S, S]
        images = torch.where(area[:, None], source.images, batch.images)
        return replace(
            batch,
            images=images.contiguous(memory_format=torch.channels_last),
            target=Masks(torch.where(area, source.target.masks, batch.target.masks)),
            also={task: target.covered(area) for task, target in batch.also.items()},
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
