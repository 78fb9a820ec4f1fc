"""The numbers behind the diagrams of a result, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onehead_cli.tasks.classification.scores import ClassificationResult
from onehead_cli.tasks.figures import CALIBRATION_ERROR, reliability, shares_of_rows
from onehead_cli.tasks.task import get_task


def test_reliability_by_hand():
    """Bins of a tenth: .92 and .98 with one right of two, .55 right; |.95 - .5| x 2/3 + |.55 - 1| x 1/3 = .45."""
    points, error = reliability(np.array([0.92, 0.98, 0.55]), np.array([True, False, True]))
    assert points == [pytest.approx((0.55, 1.0)), pytest.approx((0.95, 0.5))]
    assert error == pytest.approx(0.45)
    assert reliability(np.zeros(0), np.zeros(0, dtype=bool)) == ([], None)
    # 1 itself is in the last bin.
    assert reliability(np.array([1.0]), np.array([True])) == ([(1.0, 1.0)], 0.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_the_calibration_error_is_at_least_the_whole_of_it(pairs):
    """By the triangle inequality, the mean distance of the bins is at least that of all images as one bin."""
    confidence, right = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    _, error = reliability(confidence, right)
    assert abs(confidence.mean() - right.mean()) - 1e-9 <= error <= 1


def test_shares_of_rows():
    matrix = shares_of_rows(np.array([[3, 1], [0, 0]]), ["a", "b"], title="t", note="n")
    assert matrix.values == [[0.75, 0.25], [None, None]] and matrix.rows == ["a", "b"] == matrix.columns


def test_of_many_classes_the_largest_confusions_are_shown():
    names = [f"class {number}" for number in range(41)]
    counts = np.diag(np.full(41, 8))
    counts[3, 5], counts[7, 2] = 24, 8
    bars = shares_of_rows(counts, names, title="t", note="n")
    assert dict(bars.values) == {"class 3 as class 5": 0.75, "class 7 as class 2": 0.5}


def test_the_figures_of_classification():
    """Two images of a, one taken for b; probabilities are the softmax, whatever constant the logits have."""
    logits = np.log(np.array([[0.75, 0.25], [0.375, 0.625]])) + 7
    result = ClassificationResult(logits, np.array([0, 0]), ["a", "b"])
    np.testing.assert_allclose(result.probabilities, [[0.75, 0.25], [0.375, 0.625]])
    confusion, points = get_task("cls").figures(result, {})
    assert confusion.values == [[0.5, 0.5], [None, None]]
    assert points.series["images"] == [pytest.approx((0.625, 0.0)), pytest.approx((0.75, 1.0))]
    assert points.summary[CALIBRATION_ERROR] == pytest.approx((0.625 + 0.25) / 2)
