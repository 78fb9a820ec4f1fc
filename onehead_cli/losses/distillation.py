"""What the student learns from the teachers, a term a task; each is a mean over pictures like the task losses."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from onehead_cli.decode import decode_boxes, pool_classes
from onehead_cli.losses.boxes import generalised_iou
from onehead_cli.types import Pooling, SizeUnit


def distil_classes(
    student_map: Tensor, teacher_map: Tensor, *, cell_threshold: float, temperature: float, pooling: Pooling = "gate"
) -> Tensor:
    """T^2 KL(teacher || student) of the pooled class maps [B, C, h, w], float [B] (Hinton et al., arXiv 1503.02531)."""
    student = pool_classes(student_map, cell_threshold, pooling=pooling)
    teacher = pool_classes(teacher_map, cell_threshold, pooling=pooling)
    return _kl(student, teacher, temperature)


def distil_masks(student_map: Tensor, teacher_map: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) in each cell of the maps [B, C, h, w], averaged over the cells, float [B]."""
    return _kl(student_map.float(), teacher_map.float(), temperature).flatten(1).mean(1)


def distil_boxes(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    num_classes: int,
    temperature: float,
    size_unit: SizeUnit = "input",
    sure: float = 0.0,
) -> Tensor:
    """Scores, boxes and classes of the teacher's detection map [B, C + 5n, h, w], weighted by its confidence.

    Returns float [B], the sum of three terms.
    score: cross-entropy to the teacher's confidence, weighted by the squared difference, so that the many cells on
    which both agree cost nothing. box: 1 - GIoU. class: T^2 KL. The last two count as much as the teacher is sure
    of the box; all are divided by the sum of its confidences (at least 1).

    Args:
        sure: boxes that the teacher is less sure of than this count in none of the terms.
    """
    student, teacher = (decode_boxes(each, num_classes, size_unit) for each in (student_map, teacher_map))
    quality = teacher.confidence.sigmoid()  # [B, n, h, w]
    difference = (student.confidence.sigmoid() - quality).square()
    score = difference * F.binary_cross_entropy_with_logits(student.confidence, quality, reduction="none")
    box = quality * (1 - generalised_iou(student.boxes, teacher.boxes))
    classes = quality * _kl(student.classes, teacher.classes, temperature)[:, None]
    terms = score + box + classes
    if sure:
        counted = quality >= sure
        terms, quality = terms * counted, quality * counted
    total = terms.flatten(1).sum(1)
    return total / quality.flatten(1).sum(1).clamp(min=1)


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) over dimension 1."""
    log_student, log_teacher = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1) * temperature**2
