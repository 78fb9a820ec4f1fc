"""What is learned of the labels, and of a teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import Pooling
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.soft_targets import kl


def classification_loss(
    class_map: Tensor,
    labels: Tensor,
    *,
    cell_threshold: float,
    pooling: Pooling = "gate",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy per image, float [B].

    Args:
        class_map: logits, float [B, C, h, w], pooled as by `pool_classes`.
        labels: int64 [B].
    """
    logits = pool_classes(class_map, cell_threshold, pooling=pooling)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def distil_classes(
    student_map: Tensor, teacher_map: Tensor, *, cell_threshold: float, temperature: float, pooling: Pooling = "gate"
) -> Tensor:
    """T^2 KL(teacher || student) of the pooled class maps [B, C, h, w], float [B] (Hinton et al., arXiv 1503.02531)."""
    student = pool_classes(student_map, cell_threshold, pooling=pooling)
    teacher = pool_classes(teacher_map, cell_threshold, pooling=pooling)
    return kl(student, teacher, temperature)
