"""A student's first weights from its teachers: each task's own layers, and the mean of those that all share.

Teachers that began with the same weights lie in one valley, so that the mean of them is a good network too (Wortsman
et al., model soups, arXiv 2203.05482). The same seed gives teachers the same first weights but for their outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from onehead_cli.errors import CheckpointError
from onehead_cli.network.onehead import OneHead


@torch.no_grad()
def start_from_teachers(student: OneHead, teachers: Mapping[str, OneHead]) -> None:
    """Give a student the necks, outputs and groups of the head of its teachers, and the mean of all else.

    Args:
        teachers: single-task networks with the student's classes, one for each of its tasks.

    Raises:
        CheckpointError: a teacher is missing, or has another backbone or only one of both the skip.
    """
    if lacking := [task for task in student.tasks if task not in teachers]:
        raise CheckpointError(f"student.from_teachers: there is no teacher for {', '.join(lacking)}")
    states = {task: teachers[task].state_dict() for task in student.tasks}
    for task, teacher in teachers.items():
        if teacher.backbone.name != student.backbone.name:
            raise CheckpointError(
                f"student.from_teachers: the teacher for {task} has the backbone {teacher.backbone.name}, "
                f"the student {student.backbone.name}"
            )
        if (teacher.skip is None) != (student.skip is None):
            raise CheckpointError(f"student.from_teachers: only one of student and teacher for {task} has model.skip")
    for name, value in student.state_dict().items():
        part, _, rest = name.partition(".")
        if part in ("necks", "identity"):
            value.copy_(states[rest.partition(".")[0]][name])
        elif value.is_floating_point():
            first, *others = (state[name] for state in states.values())
            # Written so that equal tensors, those of frozen layers, give the same bits.
            value.copy_(first + sum((other - first for other in others), torch.zeros_like(first)) / len(states))
    own = student.head.width
    for layer in ("project", "grouped"):
        for kind in ("weight", "bias"):
            name = f"head.{layer}.{kind}"
            for group, task in enumerate(student.head.tasks):
                rows = slice(group * own, (group + 1) * own)
                student.state_dict()[name][rows] = states[task][name][rows]
