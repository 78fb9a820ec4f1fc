"""Pixel-wise cross-entropy, with a share of the Lovasz-softmax loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.tasks.segmentation.lovasz import lovasz_softmax


def segmentation_loss(segmentation_map: Tensor, masks: Tensor, *, lovasz: float = 0.0) -> Tensor:
    """(1 - s) times the mean cross-entropy over the labelled pixels of each image plus s times its Lovasz-softmax
    loss, float [B]; 0 where an image has no labelled pixels.

    Each image counts the same however many of its pixels are void, so that a buffer of small batches equals one
    large batch.

    Args:
        segmentation_map: logits, float [B, C, h, w], upsampled bilinearly to the masks.
        masks: int64 [B, S, S], 255 = void.
        lovasz: s, from 0 to 1.
    """
    logits = F.interpolate(segmentation_map.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    pixels = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX, reduction="none")  # [B, S, S], 0 where void
    labelled = (masks != IGNORE_INDEX).flatten(1).sum(1).clamp(min=1)
    entropy = pixels.flatten(1).sum(1) / labelled
    return entropy if not lovasz else (1 - lovasz) * entropy + lovasz * lovasz_softmax(segmentation_map, masks)
