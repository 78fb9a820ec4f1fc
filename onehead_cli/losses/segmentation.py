"""Pixel-wise cross-entropy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from onehead_cli.types import IGNORE_INDEX


def segmentation_loss(segmentation_map: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels of each picture, float [B]; 0 where a picture has none.

    Each picture counts the same however many of its pixels are void, so that a buffer of small batches equals one
    large batch.

    Args:
        segmentation_map: logits, float [B, C, h, w], upsampled bilinearly to the masks.
        masks: int64 [B, S, S], 255 = void.
    """
    logits = F.interpolate(segmentation_map.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    pixels = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX, reduction="none")  # [B, S, S], 0 where void
    labelled = (masks != IGNORE_INDEX).flatten(1).sum(1).clamp(min=1)
    return pixels.flatten(1).sum(1) / labelled
