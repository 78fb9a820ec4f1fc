"""Distillation terms against the KL divergence worked out by hand."""

import math

import pytest
import torch

from onehead_cli.losses.distillation import distil_boxes, distil_classes, distil_masks, gate_masks
from onehead_cli.types import DetectionTarget


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
    term = distil_masks(student, teacher, temperature=1)
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
    assert distil_masks(same, same, temperature=2).abs().max().item() < 1e-6
    assert distil_classes(same, same, cell_threshold=0.3, temperature=2).abs().max().item() < 1e-6


def test_an_unsure_teacher_does_not_pull_boxes():
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 2 + 5, 4, 4), torch.randn(1, 2 + 5, 4, 4)
    student[:, 6] = teacher[:, 6] = -20.0
    assert distil_boxes(student, teacher, num_classes=2, temperature=2).item() < 1e-4


def test_a_mask_class_is_forbidden_outside_the_boxes_of_its_class():
    # 4 x 4 cells of 16 px. Label 1 is detection class 0; label 2 is class 1; label 3 the boxes do not know.
    teacher = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[16.0, 16.0, 40.0, 32.0], [0.0, 48.0, 10.0, 64.0], [0.0, 0.0, 0.0, 0.0]]])
    target = DetectionTarget(boxes, torch.tensor([[0, 1, -1]]), torch.zeros(1, 3, dtype=torch.bool))
    gated, _ = gate_masks(teacher, target, shared={1: 0, 2: 1}, image_size=64)
    # The first box touches cells (row 1, columns 1 and 2): its right edge, 40, lies in column 2.
    one, two = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    one[1, 1] = one[1, 2] = True
    two[3, 0] = True
    for label, possible in ((1, one), (2, two)):
        assert torch.equal(gated[0, label][possible], teacher[0, label][possible])
        assert (gated[0].softmax(0)[label][~possible] == 0).all()
    assert torch.equal(gated[:, [0, 3]], teacher[:, [0, 3]])


def test_a_region_to_ignore_forbids_nothing_and_the_term_stays_finite():
    teacher = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0.0, 0.0, 32.0, 32.0]], [[0.0, 0.0, 0.0, 0.0]]])
    target = DetectionTarget(boxes, torch.tensor([[5], [-1]]), torch.tensor([[True], [False]]))
    gated, _ = gate_masks(teacher, target, shared={1: 0, 2: 1}, image_size=32)
    assert torch.equal(gated[0], teacher[0])
    assert torch.equal(gated[1].argmax(0), torch.zeros(2, 2, dtype=torch.int64))  # no box: all background
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    term = distil_masks(student, gated, temperature=2)
    term.sum().backward()
    # All background against a third each: T^2 ln 3.
    assert term[1].item() == pytest.approx(4 * math.log(3), rel=1e-5)
    assert student.grad is not None and student.grad.isfinite().all()


def test_a_gated_cell_counts_as_much_as_the_boxes_leave_of_what_was_believed():
    # Two cells of probabilities background, 1, 2 = (.2, .7, .1) and (.5, .2, .3); no box allows class 1 in
    # either, and boxes do not know class 2.
    believed = torch.tensor([[[[0.2, 0.5]], [[0.7, 0.2]], [[0.1, 0.3]]]])
    target = DetectionTarget(torch.zeros(1, 1, 4), torch.tensor([[-1]]), torch.zeros(1, 1, dtype=torch.bool))
    gated, trust = gate_masks(believed.log(), target, shared={1: 0}, image_size=32)
    torch.testing.assert_close(trust, torch.tensor([[[0.3, 0.8]]]))
    # What is left, to 1: (2/3, 1/3) and (5/8, 3/8). Against a student of a third each, at T = 1, the divergences are
    # ln 3 - H: 1.0986 - .6365 = .4621 and 1.0986 - .6616 = .4370.
    term = distil_masks(torch.zeros(1, 3, 1, 2), gated, temperature=1, trust=trust)
    assert term.item() == pytest.approx((0.3 * 0.4621 + 0.8 * 0.4370) / 2, abs=2e-4)
