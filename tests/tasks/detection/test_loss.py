"""What detection is taught, key by key: hand-made numbers on maps of one cell, and the assignment one box at a time."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from teaching import AS_0_1_0

from onehead_cli.config.sections import DetectionConfig
from onehead_cli.tasks.detection.decode import decode_boxes
from onehead_cli.tasks.detection.loss import Teaching, assign, best_overlap, detection_loss, distil_boxes
from onehead_cli.tasks.detection.overlaps import iou
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.detection.yolov1 import yolov1_loss

S = 64
LN2 = math.log(2)
SIZES = {"num_classes": 2, "image_size": S}


def one_cell(*boxes):
    """A 1 x 1 map of two classes; a box in the middle per (width, height, confidence logit)."""
    values = [0.0, 0.0]
    for width, height, confidence in boxes:
        values += [0.0, 0.0, math.log(width), math.log(height), confidence]
    return torch.tensor(values).view(1, -1, 1, 1)


def target(*boxes):
    """Boxes of class 0, in pixels."""
    count = max(1, len(boxes))
    wanted = DetectionTarget(torch.zeros(1, count, 4), torch.full((1, count), -1), torch.zeros(1, count).bool())
    for index, box in enumerate(boxes):
        wanted.boxes[0, index], wanted.labels[0, index] = torch.tensor(box), 0
    return wanted


def loss_of(seen, truth, **changes):
    """What these boxes cost, taught as in 0.1.0 but for the changes."""
    return detection_loss(seen, truth, teaching=replace(AS_0_1_0, **changes), **SIZES)


MIDDLE = (16.0, 16.0, 48.0, 48.0)


def test_the_defaults_are_those_of_the_config():
    assert dataclasses.asdict(Teaching()) == DetectionConfig().model_dump(include=set(Teaching.__annotations__))


def test_what_0_1_0_gave():
    generator = torch.Generator().manual_seed(11)
    maps, teacher = (torch.randn(4, 5 + 2 * 5, 8, 8, generator=generator) for _ in range(2))
    corner = torch.rand(4, 6, 2, generator=generator) * 90
    boxes = torch.cat([corner, corner + 3 + torch.rand(4, 6, 2, generator=generator) * 35], -1)
    labels = torch.randint(-1, 5, (4, 6), generator=generator)
    crowd = (torch.rand(4, 6, generator=generator) < 0.2) & (labels >= 0)
    truth, sizes = DetectionTarget(boxes, labels, crowd), {"num_classes": 5, "image_size": 128}
    found = [
        detection_loss(maps, truth, teaching=AS_0_1_0, **sizes),
        detection_loss(maps, replace(truth, labelled=(0, 3)), teaching=AS_0_1_0, **sizes),
        yolov1_loss(maps, truth, **sizes),
        distil_boxes(maps, teacher, num_classes=5, temperature=2.0),
    ]
    before = [
        [15.974002, 20.580215, 16.06325, 15.379991],
        [8.528758, 9.855135, 8.822228, 8.434325],
        [49.793877, 32.264145, 50.790661, 42.175743],
        [1.817062, 1.902212, 1.809114, 1.938241],
    ]
    for loss, expected in zip(found, before, strict=True):
        assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_an_unassigned_box_that_overlaps_a_true_one_is_no_negative():
    # The first box is the true one; the second, .5 x .6, overlaps it by 5/6. k = int(1 + 5/6) = 1, so the first is
    # assigned: q = 1, (1/2 - 1)^2 ln 2, and no loss of the box. The second costs (1/2)^2 ln 2 as a negative.
    seen, truth = one_cell((0.5, 0.5, 0.0), (0.5, 0.6, 0.0)), target(MIDDLE)
    for ignore_iou, negatives in ((1.0, 1), (0.84, 1), (0.83, 0)):
        loss = loss_of(seen, truth, ignore_iou=ignore_iou)
        assert loss.item() == pytest.approx(0.25 * LN2 * (1 + negatives) + LN2, abs=1e-5), ignore_iou


def test_a_box_that_overlaps_a_region_to_ignore_alone_is_a_negative():
    # The region holds no centre of a cell: (16, 16) of the one cell's (32, 32).
    crowd = DetectionTarget(torch.tensor([[[0.0, 0, 20, 20]]]), torch.tensor([[0]]), torch.tensor([[True]]))
    seen = one_cell((1.0, 1.0, 0.0))
    ignored = loss_of(seen, crowd, ignore_iou=0.01)
    assert ignored.item() == loss_of(seen, crowd).item() == pytest.approx(0.25 * LN2)


def test_the_best_overlap_is_that_of_the_slow_search():
    generator = torch.Generator().manual_seed(0)
    boxes = decode_boxes(torch.randn(2, 3 + 2 * 5, 4, 5, generator=generator), 3).boxes
    corner, side = torch.rand(2, 3, 2, generator=generator) * 0.7, torch.rand(2, 3, 2, generator=generator) * 0.3
    truth, wanted = torch.cat([corner, corner + side], -1), torch.tensor([[True, False, True], [False, False, False]])
    found = best_overlap(boxes, truth, wanted)
    assert not found[1].any()
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).tolist():
        n, r, c = place
        expected = max(iou(boxes[0, n, r, c], truth[0, i]).item() for i in (0, 2))
        assert found[0, n, r, c].item() == pytest.approx(expected, abs=1e-6)


def test_varifocal_by_hand():
    # The true box reaches down to the edge: IoU and GIoU 2/3, p = 1/2. A positive weighs q, a negative .75 p^2.
    teaching = {"confidence": "varifocal"}
    seen = one_cell((0.5, 0.5, 0.0))
    positive = loss_of(seen, target((16.0, 16.0, 48.0, 64.0)), **teaching)
    assert positive.item() == pytest.approx(2 / 3 * LN2 + 2 / 3 + LN2, abs=1e-5)
    negative = loss_of(seen, target(), **teaching)
    assert negative.item() == pytest.approx(0.75 * 0.25 * LN2)


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_the_gradients_of_varifocal_by_hand(logit):
    # A positive's weight is a number: q (p - q). A negative's is .75 p^2, whose slope counts too:
    # .75 p^2 (p + 2 (1 - p) B), B = -ln(1 - p) being the cross-entropy.
    p, q = 1 / (1 + math.exp(-logit)), 2 / 3
    negative = 0.75 * p**2 * (p - 2 * (1 - p) * math.log(1 - p))
    for truth, expected in ((target((16.0, 16.0, 48.0, 64.0)), q * (p - q)), (target(), negative)):
        seen = one_cell((0.5, 0.5, logit)).requires_grad_()
        loss_of(seen, truth, confidence="varifocal").sum().backward()
        assert seen.grad is not None and seen.grad[0, -1].item() == pytest.approx(expected, rel=1e-5)


def test_confidence_decides_between_boxes_that_fit_nearly_alike():
    # The second box overlaps by 5/6, which costs 3 ln 1.2 = .547 more; half of the difference of the log confidences,
    # ln sigmoid(l) - ln sigmoid(-l) = l, makes up for it from l = 1.094 on.
    truth = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    for logit, cost, chosen in ((1.0, 0.5, 0), (1.2, 0.5, 1), (1.2, 0.0, 0), (9.0, 0.0, 0)):
        decoded = decode_boxes(one_cell((0.5, 0.5, -logit), (0.5, 0.6, logit)), 2)
        found = assign(decoded, truth, torch.tensor([[0]]), torch.tensor([[True]]), confidence_cost=cost)
        assert found.box.tolist() == [chosen], (logit, cost)


def test_no_true_box_goes_without():
    # Two equal true boxes: both claim the first predicted box, and the second true box is left with none.
    both = target(MIDDLE, MIDDLE)
    truth, wanted = both.boxes / S, torch.ones(1, 2, dtype=torch.bool)
    decoded = decode_boxes(one_cell((0.5, 0.5, 0.0), (0.5, 0.6, 0.0)), 2)
    plain = assign(decoded, truth, both.labels, wanted)
    assert (plain.truth.tolist(), plain.box.tolist()) == ([0], [0])
    served = assign(decoded, truth, both.labels, wanted, every_box=True)
    assert (served.truth.tolist(), served.box.tolist()) == ([0, 1], [0, 1])
    # With one predicted box there is none to give.
    decoded = decode_boxes(one_cell((0.5, 0.5, 0.0)), 2)
    assert assign(decoded, truth, both.labels, wanted, every_box=True).truth.tolist() == [0]


def test_a_tiny_true_box_makes_its_cell_a_region_to_ignore():
    # 4 x 4 cells of 16 px. The box, 6 x 30 px round (21, 37), is in cell (row 2, column 1), and holds no centre of one.
    seen = torch.zeros(1, 2 + 5, 4, 4)
    truth, empty = target((18.0, 22.0, 24.0, 52.0)), target()
    everywhere = loss_of(seen, empty)
    assert everywhere.item() == pytest.approx(16 * 0.25 * LN2)
    # As a region it is 16 x 30 px, from (13, 22) to (29, 52): of the centres at 8, 24, 40, 56 it holds (24, 24) and
    # (24, 40).
    ignored = loss_of(seen, truth, smallest=0.5)
    assert ignored.item() == pytest.approx(14 * 0.25 * LN2)
    # 6 px are not below 6 px: the box is wanted.
    wanted = loss_of(seen, truth, smallest=6 / 16)
    assert wanted.item() == loss_of(seen, truth).item() > everywhere.item()


@pytest.mark.parametrize(("x", "y"), [(1.0, 1.0), (16.0, 40.0), (31.9, 63.5), (24.0, 24.0)])
def test_however_it_lies_a_tiny_box_is_ignored_where_it_would_have_been_wanted(x, y):
    seen = torch.zeros(1, 2 + 5, 4, 4)
    truth = target((x - 0.5, y - 0.5, x + 0.5, y + 0.5))
    seen.requires_grad_()
    loss_of(seen, truth, smallest=0.5).sum().backward()
    assert seen.grad is not None and not seen.grad[0, :, int(y // 16), int(x // 16)].any()


def test_padding_is_no_region():
    seen = torch.zeros(1, 2 + 5, 4, 4)
    plain = loss_of(seen, target())
    assert loss_of(seen, target(), smallest=0.5).item() == plain.item()


def test_sizes_in_cells_teach_what_sizes_of_the_input_teach():
    # The same boxes on a map of 5 x 4 cells: the logit of a width is larger by ln 5, that of a height by ln 4.
    generator = torch.Generator().manual_seed(4)
    shares, other = (torch.randn(2, 2 + 2 * 5, 4, 5, generator=generator) for _ in range(2))
    truth = DetectionTarget(
        torch.tensor([[[4.0, 4, 30, 40], [20, 20, 60, 60]], [[10.0, 5, 50, 20], [0, 0, 0, 0]]]),
        torch.tensor([[0, 1], [1, -1]]),
        torch.zeros(2, 2, dtype=torch.bool),
    )

    def in_cells(maps):
        counted = maps.clone()
        counted[:, [4, 9]] += math.log(5)
        counted[:, [5, 10]] += math.log(4)
        return counted

    cells = in_cells(shares)
    torch.testing.assert_close(
        loss_of(cells, truth, size_unit="cells"),
        loss_of(shares, truth),
    )
    torch.testing.assert_close(
        yolov1_loss(cells, truth, size_unit="cells", **SIZES), yolov1_loss(shares, truth, **SIZES)
    )
    torch.testing.assert_close(
        distil_boxes(cells, in_cells(other), num_classes=2, temperature=2.0, size_unit="cells"),
        distil_boxes(shares, other, num_classes=2, temperature=2.0),
    )


def test_boxes_that_the_teacher_is_unsure_of_are_not_distilled():
    # Two boxes per cell; the teacher is sure of the first (3/4) and not of the second (1/5). The student says 1/2 of
    # both. Its boxes, .5 wide and high, lie within the teacher's of twice that: GIoU 1/4.
    student = one_cell((0.5, 0.5, 0.0), (0.5, 0.5, 0.0))
    teacher = one_cell((1.0, 1.0, math.log(3)), (1.0, 1.0, -math.log(4)))
    first, second = (0.25**2 * LN2 + 0.75 * 0.75, 0.75), (0.3**2 * LN2 + 0.2 * 0.75, 0.2)
    distil = {"num_classes": 2, "temperature": 2.0}
    # All are divided by the sum of the confidences, or by 1 where that is less.
    assert (0.75 + 0.2) < 1
    every = distil_boxes(student, teacher, **distil)
    assert every.item() == pytest.approx(first[0] + second[0], rel=1e-5)
    assert distil_boxes(student, teacher, sure=0.3, **distil).item() == pytest.approx(first[0], rel=1e-5)
    assert distil_boxes(student, teacher, sure=0.8, **distil).item() == 0
    # Of two cells like this one the sum of the sure confidences is 1.5.
    two = distil_boxes(student.expand(1, -1, 1, 2), teacher.expand(1, -1, 1, 2), sure=0.3, **distil)
    assert two.item() == pytest.approx(2 * first[0] / 1.5, rel=1e-5)
