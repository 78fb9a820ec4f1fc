"""The Lovasz-softmax loss: a surrogate of the mean IoU (Berman et al., arXiv 1705.08790)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import IGNORE_INDEX

#: Pixels of the mask per pixel that is compared, along each side. The loss sorts all its pixels once per class:
#: at full resolution it would take longer than the network, at a quarter a tenth of the cross-entropy's time.
STRIDE = 4


def lovasz_softmax(segmentation_map: Tensor, masks: Tensor) -> Tensor:
    """1 - IoU, extended to probabilities, averaged over the classes present in each image; float [B] in 0..1.

    It is computed at a quarter of the masks' resolution: the logits are upsampled bilinearly to it, and every fourth
    pixel of the mask is looked at. Void pixels do not count; 0 where an image has nothing else.

    Args:
        segmentation_map: logits, float [B, C, h, w].
        masks: int64 [B, S, S], S a multiple of 4, 255 = void.
    """
    masks = masks[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    logits = F.interpolate(segmentation_map.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    return lovasz_of_probabilities(logits.softmax(1).flatten(2), masks.flatten(1))


def lovasz_of_probabilities(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The loss of pixels in any order, float [B].

    Args:
        probabilities: float [B, C, P], adding up to 1 over the classes.
        labels: int64 [B, P], 255 = void.
    """
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    truth = labels[:, None] == classes[:, None]  # [B, C, P]
    present = truth.any(2)
    image, label = torch.nonzero(present, as_tuple=True)  # one row per class of an image: R in all
    inside = truth[image, label].to(probabilities.dtype)  # [R, P]
    # With an error of 0 the void comes last when sorted, and adds nothing.
    labelled = (labels != IGNORE_INDEX)[image]
    errors = ((inside - probabilities[image, label]).abs() * labelled).sort(dim=1, descending=True)
    losses = (errors.values * _steps(inside.gather(1, errors.indices))).sum(1)
    total = losses.new_zeros(len(labels)).index_add(0, image, losses)
    return total / present.sum(1).clamp(min=1)


@torch.no_grad()
def _steps(inside: Tensor) -> Tensor:
    """How much the Jaccard loss rises as each pixel becomes wrong after those before it (algorithm 1), float [R, P].

    Args:
        inside: float [R, P], 1 for a pixel of the class and else 0, the largest error first.
    """
    # Counts of pixels are whole, and so exact in float32 up to 16 million.
    wanted = inside.sum(1, keepdim=True)
    left = wanted - inside.cumsum(1)
    union = wanted + (1 - inside).cumsum(1)
    loss = 1 - left / union
    return torch.diff(loss, dim=1, prepend=torch.zeros_like(wanted))
