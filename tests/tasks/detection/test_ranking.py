"""Whether confidence ranks boxes: Spearman's formula by hand, over the candidates of each true box."""

import itertools
import math

import numpy as np
import pytest
import torch

from onehead_cli.tasks.detection.decode import BoxMap, decode_boxes
from onehead_cli.tasks.detection.overlaps import iou
from onehead_cli.tasks.detection.ranking import BoxRanking, rank_boxes, summarise
from onehead_cli.tasks.detection.target import DetectionTarget

MIDDLE = (0.25, 0.25, 0.75, 0.75)


def one_cell(heights, logits):
    """Boxes of one cell round the middle, .5 wide; they overlap the middle quarter by .5 / height."""
    boxes = torch.tensor([[0.25, 0.5 - height / 2, 0.75, 0.5 + height / 2] for height in heights])
    count = len(heights)
    return BoxMap(torch.zeros(1, 2, 1, 1), boxes.view(1, count, 1, 1, 4), torch.tensor(logits).view(1, count, 1, 1))


def target(*boxes, crowd=None):
    truth = torch.tensor(boxes)[None] * 64
    return DetectionTarget(
        truth, torch.zeros(1, len(boxes), dtype=torch.int64), torch.tensor([crowd or [False] * len(boxes)])
    )


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([3.0, 2.0, 1.0, 0.0], 1.0),
        ([0.0, 1.0, 2.0, 3.0], -1.0),
        (
            [2.0, 3.0, 1.0, 0.0],
            1 - 6 * 2 / (4 * 15),
        ),  # ranks 3, 4, 2, 1 against 4, 3, 2, 1: 1 - 6 sum d^2 / n (n^2 - 1)
    ],
)
def test_spearman_by_hand(logits, expected):
    found = rank_boxes(one_cell([0.5, 0.6, 0.7, 0.8], logits), target(MIDDLE), 64)
    assert found.spearmans == [pytest.approx(expected)]
    assert found.top_confidence == pytest.approx(1 / (1 + math.exp(-3)))


def test_what_has_no_ranking_is_left_out():
    equally_sure = one_cell([0.5, 0.6], [1.0, 1.0])
    equally_good = one_cell([0.6, 0.6], [1.0, 2.0])
    assert rank_boxes(equally_sure, target(MIDDLE), 64).spearmans == []
    assert rank_boxes(equally_good, target(MIDDLE), 64).spearmans == []
    ranked = one_cell([0.5, 0.6], [1.0, 0.0])
    assert rank_boxes(ranked, target(MIDDLE, MIDDLE, crowd=[True, False]), 64).spearmans == [pytest.approx(1.0)]
    padded = DetectionTarget(torch.zeros(1, 1, 4), torch.tensor([[-1]]), torch.tensor([[False]]))
    assert rank_boxes(ranked, padded, 64).spearmans == []


def slow_spearman(*pair):
    """Pearson's correlation of the ranks; equal numbers share the mean of theirs."""
    ranks = [[sum(w < v for w in values) + sum(w == v for w in values) / 2 for v in values] for values in pair]
    return np.corrcoef(*ranks)[0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_the_candidates_are_the_boxes_of_the_cells_round_the_centre(seed):
    generator = torch.Generator().manual_seed(seed)
    detection_map = torch.randn(2, 3 + 2 * 5, 4, 4, generator=generator)
    decoded = decode_boxes(detection_map, 3)
    truth = torch.tensor([[[0.3, 0.3, 0.9, 0.8]], [[0.0, 0.0, 0.4, 0.45]]])  # centres in (2, 2) and (0, 0)
    labels, crowd = torch.tensor([[0], [1]]), torch.zeros(2, 1, dtype=torch.bool)
    found = rank_boxes(decoded, DetectionTarget(truth * 64, labels, crowd), 64)
    expected = []
    for image, (rows, columns) in enumerate([((1, 2, 3), (1, 2, 3)), ((0, 1), (0, 1))]):
        at = [(image, n, r, c) for n, r, c in itertools.product(range(2), rows, columns)]
        overlaps = [iou(decoded.boxes[place], truth[image, 0]).item() for place in at]
        expected.append(slow_spearman([decoded.confidence[place].item() for place in at], overlaps))
    assert found.spearmans == pytest.approx(expected)
    assert found.top_confidence == pytest.approx(detection_map[:, [7, 12]].max().sigmoid().item())


def test_the_summary_counts_each_true_box_alike():
    parts = [BoxRanking([1.0, 0.0], 0.25), BoxRanking([-0.4], 0.5), BoxRanking([], 0.125)]
    assert summarise(parts) == {"box_spearman": pytest.approx(0.2), "box_confidence": 0.5}
    assert summarise([]) == {"box_spearman": None, "box_confidence": None}
