"""The class of a whole image, pooled from the cells of its map. Training pools in the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from onehead_cli.config.sections import Pooling

#: No cell is less sure than one part in as many classes; it stands for a threshold of 0.
_SMALLEST_THRESHOLD = 1e-6


def pool_classes(class_map: Tensor, threshold: float, *, pooling: Pooling = "gate") -> Tensor:
    """Average the logits of the cells, those that are sure of their class above all.

    Args:
        class_map: float [B, C, h, w], logits per cell.
        threshold: gate: cells whose largest softmax value is below it are left out; where none is left, all are
            averaged. soft: such a cell counts by its share of the threshold, so that a cell that crosses it changes
            nothing at once.

    Returns:
        Logits, float [B, C].
    """
    logits = class_map.float().flatten(2)  # [B, C, h*w]
    with torch.no_grad():
        sureness = logits.softmax(1).amax(1, keepdim=True)  # [B, 1, h*w]
        if pooling == "soft":
            weight = (sureness / max(threshold, _SMALLEST_THRESHOLD)).clamp(max=1)
        else:
            sure = sureness >= threshold
            weight = (sure | ~sure.any(2, keepdim=True)).to(logits.dtype)
    return (logits * weight).sum(2) / weight.sum(2)
