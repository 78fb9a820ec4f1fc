"""Distillation terms against the KL divergence worked out by hand."""

import math

import pytest
import torch

from onehead_cli.tasks.classification.loss import distil_classes
from onehead_cli.tasks.detection.loss import distil_boxes
from onehead_cli.tasks.soft_targets import distil_cells


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def soft(logits, temperature):
    e = [math.exp(v / temperature) for v in logits]
    return [v / sum(e) for v in e]


def test_class_term_by_hand():
    student, teacher = [1.0, 0.0], [0.0, 3.0]
    term = distil_classes(
        torch.tensor(student).view(1, 2, 1, 1), torch.tensor(teacher).view(1, 2, 1, 1), cell_threshold=0, temperature=2
    )
    assert term.item() == pytest.approx(4 * kl(soft(teacher, 2), soft(student, 2)), rel=1e-5)


def test_mask_term_is_the_mean_over_the_cells():
    student = torch.zeros(1, 2, 1, 2)
    teacher = torch.zeros(1, 2, 1, 2)
    teacher[0, 0, 0, 1] = 2.0
    term = distil_cells(student, teacher, temperature=1)
    assert term.item() == pytest.approx(kl(soft([2, 0], 1), [0.5, 0.5]) / 2, rel=1e-5)


def test_box_term_by_hand():
    # Same classes and box; the teacher is sure (sigmoid(2)), the student is not (sigmoid(0)).
    student = torch.tensor([0.0, 0.0, 0, 0, math.log(0.5), math.log(0.5), 0.0]).view(1, -1, 1, 1)
    teacher = student.clone()
    teacher[0, 6] = 2.0
    q = 1 / (1 + math.exp(-2))
    cross = math.log(2)  # of probability 1/2 to any target
    assert distil_boxes(student, teacher, num_classes=2, temperature=2).item() == pytest.approx(
        (0.5 - q) ** 2 * cross, rel=1e-5
    )
    # Another size: IoU and GIoU are 1/4 (the boxes lie within each other).
    teacher[0, 4:6] = 0.0
    assert distil_boxes(student, teacher, num_classes=2, temperature=2).item() == pytest.approx(
        (0.5 - q) ** 2 * cross + q * 0.75, rel=1e-5
    )


def test_a_student_that_says_the_same_pays_nothing_but_entropy():
    torch.manual_seed(0)
    same = torch.randn(2, 3 + 10, 4, 4)
    assert distil_boxes(same, same, num_classes=3, temperature=2).abs().max().item() < 1e-5
    assert distil_cells(same, same, temperature=2).abs().max().item() < 1e-6
    assert distil_classes(same, same, cell_threshold=0.3, temperature=2).abs().max().item() < 1e-6


def test_an_unsure_teacher_does_not_pull_boxes():
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 2 + 5, 4, 4), torch.randn(1, 2 + 5, 4, 4)
    student[:, 6] = teacher[:, 6] = -20.0
    assert distil_boxes(student, teacher, num_classes=2, temperature=2).item() < 1e-4
