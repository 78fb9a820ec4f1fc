"""Overlaps of boxes in the last dimension: x1 y1 x2 y2, any leading dimensions that broadcast."""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-9


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, in 0..1."""
    inter, union = _inter_union(a, b)
    return inter / union.clamp(min=_EPS)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU minus the share of the enclosing box that neither covers, in -1..1 (Rezatofighi et al., CVPR 2019)."""
    inter, union = _inter_union(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    enclosing = (high - low).prod(-1)
    return inter / union.clamp(min=_EPS) - (enclosing - union) / enclosing.clamp(min=_EPS)


def _inter_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return inter, area_a + area_b - inter
