"""What one network learns from the scores of another."""

from __future__ import annotations

from torch import Tensor


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) over dimension 1."""
    log_student, log_teacher = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1) * temperature**2
