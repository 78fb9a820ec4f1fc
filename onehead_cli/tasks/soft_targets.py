"""What one network learns from the scores of another."""

from __future__ import annotations

from torch import Tensor


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) over dimension 1."""
    log_student, log_teacher = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1) * temperature**2


def distil_cells(student_map: Tensor, teacher_map: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) in each cell of the maps [B, C, h, w], averaged over the cells, float [B]."""
    return kl(student_map.float(), teacher_map.float(), temperature).flatten(1).mean(1)
