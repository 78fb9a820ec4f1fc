"""What the student learns from the teachers, a term a task; each is a mean over pictures like the task losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.decode import decode_boxes, pool_classes
from onehead_cli.losses.boxes import generalised_iou
from onehead_cli.types import DetectionTarget

#: The logit of a class that cannot be: far below any other, yet finite, as 0 times infinity is not a number.
_IMPOSSIBLE = -1e4


def distil_classes(student_map: Tensor, teacher_map: Tensor, *, cell_threshold: float, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the pooled class maps [B, C, h, w], float [B] (Hinton et al., arXiv 1503.02531)."""
    student, teacher = pool_classes(student_map, cell_threshold), pool_classes(teacher_map, cell_threshold)
    return _kl(student, teacher, temperature)


def distil_masks(
    student_map: Tensor, teacher_map: Tensor, *, temperature: float, trust: Tensor | None = None
) -> Tensor:
    """T^2 KL(teacher || student) in each cell of the maps [B, C, h, w], averaged over the cells, float [B].

    Args:
        trust: how much each cell counts, float [B, h, w] in 0..1; None for 1.
    """
    cells = _kl(student_map.float(), teacher_map.float(), temperature)
    return (cells if trust is None else cells * trust).flatten(1).mean(1)


def gate_masks(
    teacher_map: Tensor, target: DetectionTarget, *, shared: Mapping[int, int], image_size: int
) -> tuple[Tensor, Tensor]:
    """Forbid a mask class wherever the true boxes say that it cannot be.

    A cell that no box of a class touches, nor a region to ignore, cannot hold that class (after Le and Pham,
    arXiv 2411.17536). Classes that the boxes do not know are left as they are, and so is the background.

    Returns:
        The gated logits, float [B, C, h, w], and how far to trust each cell, float [B, h, w]: the probability that is
        left of the teacher's there. Where it was sure of what cannot be, the rest is noise that the gate would blow up.

    Args:
        teacher_map: a segmentation teacher's logits on detection pictures.
        target: their true boxes, in pixels of the input.
        shared: mask label -> detection class.
        image_size: S, the side of the input in pixels.
    """
    h, w = teacher_map.shape[-2:]
    device = teacher_map.device
    left = torch.arange(w, device=device) * image_size / w
    top = (torch.arange(h, device=device) * image_size / h)[:, None]
    x1, y1, x2, y2 = (target.boxes.to(device)[..., i, None, None] for i in range(4))  # [B, M, 1, 1]
    touched = (x1 < left + image_size / w) & (x2 > left) & (y1 < top + image_size / h) & (y2 > top)  # [B, M, h, w]
    gated = teacher_map.float().clone()
    for label, index in shared.items():
        allows = (target.labels == index) | (target.crowd & (target.labels >= 0))  # [B, M]
        possible = (touched & allows.to(device)[..., None, None]).any(1)
        gated[:, label].masked_fill_(~possible, _IMPOSSIBLE)
    return gated, (teacher_map.float().softmax(1) * (gated > _IMPOSSIBLE)).sum(1)


def distil_boxes(student_map: Tensor, teacher_map: Tensor, *, num_classes: int, temperature: float) -> Tensor:
    """Scores, boxes and classes of the teacher's detection map [B, C + 5n, h, w], weighted by its confidence.

    Returns float [B], the sum of three terms.
    score: cross-entropy to the teacher's confidence, weighted by the squared difference, so that the many cells on
    which both agree cost nothing. box: 1 - GIoU. class: T^2 KL. The last two count as much as the teacher is sure
    of the box; all are divided by the sum of its confidences (at least 1).
    """
    student, teacher = decode_boxes(student_map, num_classes), decode_boxes(teacher_map, num_classes)
    quality = teacher.confidence.sigmoid()  # [B, n, h, w]
    difference = (student.confidence.sigmoid() - quality).square()
    score = difference * F.binary_cross_entropy_with_logits(student.confidence, quality, reduction="none")
    box = quality * (1 - generalised_iou(student.boxes, teacher.boxes))
    classes = quality * _kl(student.classes, teacher.classes, temperature)[:, None]
    total = (score + box + classes).flatten(1).sum(1)
    return total / quality.flatten(1).sum(1).clamp(min=1)


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) over dimension 1."""
    log_student, log_teacher = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1) * temperature**2
