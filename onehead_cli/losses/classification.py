"""Cross-entropy of the pooled class map."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from onehead_cli.decode import pool_classes
from onehead_cli.types import Pooling


def classification_loss(
    class_map: Tensor,
    labels: Tensor,
    *,
    cell_threshold: float,
    pooling: Pooling = "gate",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy a picture, float [B].

    Args:
        class_map: logits, float [B, C, h, w], pooled as in `decode.pool_classes`.
        labels: int64 [B].
    """
    logits = pool_classes(class_map, cell_threshold, pooling=pooling)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
