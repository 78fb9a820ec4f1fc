"""What teaches confidence, by numbers worked out by hand and against slow twins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_task_losses import S, one_cell_map, slow_assign, target

from onehead_cli.datasets.priors import kmeans_priors, spread_priors
from onehead_cli.decode import decode_boxes
from onehead_cli.evaluation.box_ranking import rank_boxes, summarise
from onehead_cli.losses.boxes import iou
from onehead_cli.losses.detection import Teaching, assign, best_overlap, detection_loss
from onehead_cli.losses.distillation import distil_boxes

LN2 = math.log(2)
#: Of the one cell's box and this true one: intersection .25, union .375.
TWO_THIRDS = (0.25, 0.25, 0.75, 1.0)


def loss(detection_map, truth, **taught):
    return detection_loss(detection_map, truth, num_classes=2, image_size=S, teaching=Teaching(**taught)).item()


def two_box_map(*, second=(0.5, 0.75), confidence=(0.0, 0.0)):
    """One cell, both boxes in its middle: the first .5 x .5, the second as given."""
    first = [0.0, 0.0, math.log(0.5), math.log(0.5), confidence[0]]
    other = [0.0, 0.0, math.log(second[0]), math.log(second[1]), confidence[1]]
    return torch.tensor([0.0, 0.0, *first, *other]).view(1, -1, 1, 1)


def test_varifocal_weighs_a_positive_by_its_overlap():
    # Confidence p = 1/2, so the cross-entropy is ln 2 whatever the overlap; the box adds 2 (1 - 2/3), the class ln 2.
    expected = 2 / 3 * LN2 + 2 / 3 + LN2
    assert loss(one_cell_map(), target(TWO_THIRDS), confidence="varifocal") == pytest.approx(expected)


def test_varifocal_weighs_a_negative_by_three_quarters_of_its_squared_confidence():
    for logit in (0.0, 1.0, -3.0):
        p = 1 / (1 + math.exp(-logit))
        found = loss(one_cell_map(confidence=logit), target(), confidence="varifocal")
        assert found == pytest.approx(0.75 * p**2 * -math.log(1 - p))


def test_an_unassigned_box_with_a_large_overlap_is_no_negative():
    # The first box is the true one and is assigned: p = 1/2, quality 1. The second overlaps it by .25 / .375.
    truth = target((0.25, 0.25, 0.75, 0.75))
    assigned, other = 0.25 * LN2 + LN2, 0.25 * LN2
    assert loss(two_box_map(), truth) == pytest.approx(assigned + other, abs=1e-6)
    assert loss(two_box_map(), truth, ignore_iou=0.5) == pytest.approx(assigned, abs=1e-6)
    assert loss(two_box_map(), truth, ignore_iou=0.7) == pytest.approx(assigned + other, abs=1e-6)


def test_an_overlap_with_a_crowd_or_with_padding_ignores_nothing():
    boxes = decode_boxes(one_cell_map(), 2).boxes
    truth = target(TWO_THIRDS, TWO_THIRDS, crowd=[True, False])
    wanted = (truth.labels >= 0) & ~truth.crowd
    assert best_overlap(boxes, truth.boxes / S, wanted).item() == pytest.approx(2 / 3)
    assert best_overlap(boxes, truth.boxes / S, torch.zeros_like(wanted)).item() == 0


def test_confidence_decides_between_boxes_that_overlap_alike():
    # IoU 2/3 for both with this true box; 3 log IoU and the class cost the same, so only confidence can choose.
    truth = torch.tensor([[[0.25, 0.125, 0.75, 0.875]]])
    seen = decode_boxes(two_box_map(second=(0.5, 0.5), confidence=(-1.0, 2.0)), 2)
    labels, wanted = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool)
    assert assign(seen, truth, labels, wanted).box.tolist() == [0]
    assert assign(seen, truth, labels, wanted, confidence_cost=0.5).box.tolist() == [1]


@pytest.mark.parametrize("seed", range(6))
def test_assignment_with_confidence_equals_the_slow_one(seed):
    generator = torch.Generator().manual_seed(seed)
    detection_map = torch.randn(1, 3 + 2 * 5, 4, 5, generator=generator)
    detection_map[:, [5, 6, 10, 11]] -= 1
    decoded = decode_boxes(detection_map, 3)
    corner, size = torch.rand(6, 2, generator=generator) * 0.7, torch.rand(6, 2, generator=generator) * 0.3 + 0.02
    boxes, labels = torch.cat([corner, corner + size], 1), torch.randint(3, (6,), generator=generator)
    wanted = torch.ones(1, 6, dtype=torch.bool)
    found = assign(decoded, boxes[None], labels[None], wanted, confidence_cost=0.5)
    pairs = zip(*(t.tolist() for t in (found.box, found.row, found.column, found.truth)), strict=True)
    slow = slow_assign(decoded, boxes, labels.tolist(), confidence_cost=0.5)
    assert {((b, r, c), g) for b, r, c, g in pairs} == slow

    served = assign(decoded, boxes[None], labels[None], wanted, confidence_cost=0.5, every_box=True)
    places = list(zip(served.box.tolist(), served.row.tolist(), served.column.tolist(), strict=True))
    assert set(served.truth.tolist()) == set(range(6)) and len(set(places)) == len(places)
    assert slow <= set(zip(places, served.truth.tolist(), strict=True))


def test_the_loser_of_a_cell_gets_its_other_box():
    twice = torch.tensor([[[0.25, 0.25, 0.75, 0.75]] * 2])
    seen, labels = decode_boxes(two_box_map(second=(0.1, 0.1)), 2), torch.zeros(1, 2, dtype=torch.int64)
    wanted = torch.ones(1, 2, dtype=torch.bool)
    assert assign(seen, twice, labels, wanted).truth.tolist() == [0]
    served = assign(seen, twice, labels, wanted, every_box=True)
    assert (served.truth.tolist(), served.box.tolist()) == ([0, 1], [0, 1])
    thrice = torch.cat([twice, twice[:, :1]], 1)
    labels, wanted = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    assert assign(seen, thrice, labels, wanted, every_box=True).truth.tolist() == [0, 1]  # there is no third box


def test_a_box_under_the_smallest_is_a_region_to_ignore():
    truth = target((0.4, 0.4, 0.6, 0.9))  # .2 of the only cell; the cell's centre lies in it
    assert loss(one_cell_map(), truth, smallest=0.25) == 0
    assert loss(one_cell_map(), truth, smallest=0.19) == loss(one_cell_map(), truth) > 0


def test_sizes_in_cells_are_sizes_in_the_input_times_its_cells():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2 + 10, 4, 8, generator=generator)
    shifted = maps.clone()
    for box in range(2):
        shifted[:, 2 + 5 * box + 2] += math.log(8)
        shifted[:, 2 + 5 * box + 3] += math.log(4)
    torch.testing.assert_close(decode_boxes(shifted, 2, "cells").boxes, decode_boxes(maps, 2).boxes)
    wild = decode_boxes(torch.full((1, 7, 4, 8), 50.0), 2, "cells").boxes
    assert wild.isfinite().all() and (wild[..., 2] - wild[..., 0]).max() < 3.1


def test_only_boxes_that_the_teacher_is_sure_of_are_distilled():
    # Two boxes of one cell, classes alike. Teacher's confidences .9 and .2, student's .5: with the bar at .3 the
    # second counts in no term. score: (.5 - .9)^2 x BCE = .16 ln 2; box: .9 (1 - GIoU), 0 for equal boxes.
    sure, unsure = math.log(9), math.log(0.25)
    teacher, student = two_box_map(confidence=(sure, unsure)), two_box_map(second=(0.1, 0.1))
    found = distil_boxes(student, teacher, num_classes=2, temperature=1.0, sure=0.3)
    assert found.item() == pytest.approx(0.16 * LN2, abs=1e-6)
    assert distil_boxes(student, teacher, num_classes=2, temperature=1.0).item() > 0.2


sides = st.floats(0.01, 1.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(sides, sides), min_size=2, max_size=30), st.integers(1, 4), st.randoms())
def test_priors_do_not_depend_on_the_order_of_the_boxes_and_lie_among_them(boxes, count, random):
    priors = kmeans_priors(np.array(boxes), count)
    assert len(priors) == count
    areas = [width * height for width, height in priors]
    assert areas == sorted(areas)
    if len(boxes) >= count:
        low, high = np.min(boxes, axis=0) - 1e-9, np.max(boxes, axis=0) + 1e-9
        assert all((low <= prior).all() and (prior <= high).all() for prior in np.array(priors))


def test_priors_of_two_heaps_are_their_means():
    rng = np.random.default_rng(0)
    small, large = rng.uniform(0.05, 0.1, (20, 2)), rng.uniform(0.5, 0.6, (30, 2))
    found = kmeans_priors(rng.permutation(np.concatenate([small, large])), 2)
    np.testing.assert_allclose(found, [small.mean(0), large.mean(0)])
    np.testing.assert_allclose(spread_priors(2), [(0.12, 0.12), (0.6, 0.6)])
    assert kmeans_priors(small[:1], 2) == spread_priors(2)


def test_ranking_equals_spearman_over_the_nine_cells():
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(1, 2 + 10, 5, 5, generator=generator)
    truth = target((0.4, 0.4, 0.7, 0.8), (0.0, 0.0, 0.1, 0.1), crowd=[False, True])
    decoded = decode_boxes(maps, 2)
    ranking = rank_boxes(decoded, truth, S)
    confidences, overlaps = [], []
    for row in (2, 3, 1):  # the centre (.55, .6) lies in row 3, column 2 of five
        for column in (1, 2, 3):
            for box in range(2):
                confidences.append(decoded.confidence[0, box, row + 1, column].item())
                overlaps.append(iou(decoded.boxes[0, box, row + 1, column], truth.boxes[0, 0] / S).item())
    assert ranking.spearmans == [pytest.approx(stats.spearmanr(confidences, overlaps).statistic, abs=1e-6)]
    assert ranking.top_confidence == pytest.approx(decoded.confidence.sigmoid().max().item())
    assert summarise([]) == {"box_spearman": None, "box_confidence": None}
    both = summarise([ranking, ranking])
    assert both["box_spearman"] == pytest.approx(ranking.spearmans[0])
