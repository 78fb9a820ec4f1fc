"""The errors of drawn boxes, against cases that are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.tasks.detection.errors import KINDS, box_errors


def detections(*rows):
    """Rows: label, score, x1 y1 x2 y2."""
    return Detections(
        np.array([row[2:] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[1] for row in rows], dtype=np.float64),
        np.array([row[0] for row in rows], dtype=np.int64),
    )


def true(label, x, y, width, height, *, crowd=0):
    return {"category_id": label, "bbox": [x, y, width, height], "iscrowd": crowd}


CASES = {
    "correct": ([(0, 0.9, 0, 0, 10, 10)], {"correct": 1}),
    # 10 x 10 against 10 x 5 of it: IoU .5, which is right.
    "just right": ([(0, 0.9, 0, 0, 10, 5)], {"correct": 1}),
    "duplicate": ([(0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 9)], {"correct": 1, "duplicate": 1}),
    # 10 x 4 of 10 x 10: IoU .4.
    "badly placed": ([(0, 0.9, 0, 0, 10, 4)], {"badly placed": 1, "missed": 1}),
    "wrong class": ([(1, 0.9, 0, 0, 10, 10)], {"wrong class": 1, "missed": 1}),
    "both": ([(1, 0.9, 0, 0, 10, 4)], {"both": 1, "missed": 1}),
    "background": ([(0, 0.9, 50, 50, 60, 60)], {"background": 1, "missed": 1}),
    # 10 x 0.9: IoU .09, which is not near.
    "hardly there": ([(0, 0.9, 0, 0, 10, 0.9)], {"background": 1, "missed": 1}),
    "missed": ([], {"missed": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_by_hand(name):
    boxes, expected = CASES[name]
    errors = box_errors([detections(*boxes)], {1: [true(0, 0, 0, 10, 10)]})
    assert +errors.kinds == expected
    assert expected.keys() <= KINDS.keys()


def test_the_best_box_takes_the_true_one_that_it_overlaps_most():
    """The second box would be right for either; the first leaves it the other one."""
    truth = [true(0, 0, 0, 10, 10), true(0, 0, 0, 10, 8)]
    errors = box_errors([detections((0, 0.9, 0, 0, 10, 8), (0, 0.8, 0, 0, 10, 8))], {1: truth})
    assert +errors.kinds == {"correct": 2}


def test_in_a_crowd_a_box_counts_for_nothing():
    """Half of it inside is enough; of another class, the crowd is none; a true box comes first."""
    truth = {1: [true(0, 0, 0, 100, 100, crowd=1), true(0, 0, 0, 10, 10)]}
    inside, half, other = (0, 0.9, 50, 50, 60, 60), (0, 0.8, 95, 50, 105, 60), (1, 0.7, 50, 50, 60, 60)
    assert +box_errors([detections(inside, half, other)], truth).kinds == {"background": 1, "missed": 1}
    assert +box_errors([detections((0, 0.9, 0, 0, 10, 10))], truth).kinds == {"correct": 1}


def test_precision_recall_and_sizes():
    """Three images: found, missed and wrong, and nothing at all."""
    truth = {
        1: [true(0, 0, 0, 10, 10), true(0, 100, 100, 50, 50)],
        2: [true(1, 0, 0, 200, 200)],
        3: [],
    }
    shown = [detections((0, 0.9, 0, 0, 10, 10)), detections((0, 0.5, 0, 0, 200, 200)), detections((0, 0.4, 0, 0, 9, 9))]
    errors = box_errors(shown, truth)
    assert +errors.kinds == {"correct": 1, "missed": 2, "wrong class": 1, "background": 1}
    assert errors.precision == pytest.approx(1 / 3) and errors.recall == pytest.approx(1 / 3)
    assert list(errors.recall_by_size().values()) == [1.0, 0.0, 0.0]
    nothing = box_errors([detections()], {1: []})
    assert nothing.precision is None and nothing.recall is None
    assert list(nothing.recall_by_size().values()) == [None, None, None]
