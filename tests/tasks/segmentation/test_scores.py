from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onehead_cli.tasks.segmentation.scores import SegmentationResult, confusion_matrix

PREDICTED = np.array([[0, 0, 1], [1, 2, 2]], dtype=np.uint8)
LABEL = np.array([[0, 1, 1], [255, 0, 255]], dtype=np.uint8)


def _slow_ious(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], classes: int) -> list[float | None]:
    """IoU a class from pixel sets, over all images, without a confusion matrix."""
    ious: list[float | None] = []
    for c in range(classes):
        both = sum(int(((p == c) & (t == c)).sum()) for p, t in pairs)
        either = sum(int((((p == c) | (t == c)) & (t != 255)).sum()) for p, t in pairs)
        present = any((t == c).any() for _, t in pairs)
        ious.append(both / either if present else None)
    return ious


def test_confusion_matrix_by_hand() -> None:
    expected = [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    matrix = confusion_matrix(PREDICTED, LABEL, 3)
    assert matrix.dtype == np.int64 and matrix.tolist() == expected


def test_scores_by_hand() -> None:
    result = SegmentationResult(confusion_matrix(PREDICTED, LABEL, 3)[None], ["a", "b", "c"])
    # a: 1 of 3, b: 1 of 2; c has no true pixel: its one wrong pixel counts against a only.
    assert result.scores() == {"miou": pytest.approx((1 / 3 + 1 / 2) / 2), "pixel_accuracy": 0.5}
    assert result.per_class() == [
        {"name": "a", "count": 2, "iou": pytest.approx(1 / 3)},
        {"name": "b", "count": 2, "iou": 0.5},
        {"name": "c", "count": 0, "iou": None},
    ]


def test_a_label_of_all_void_counts_nothing() -> None:
    void = np.full((4, 5), 255, dtype=np.uint8)
    matrix = confusion_matrix(np.zeros((4, 5), dtype=np.uint8), void, 2)
    assert matrix.sum() == 0
    result = SegmentationResult(matrix[None], ["a", "b"])
    assert result.scores() == {"miou": None, "pixel_accuracy": None}
    assert [row["iou"] for row in result.per_class()] == [None, None]
    assert np.isnan(result.resampled(np.array([[1]]))[0])


def test_a_class_absent_from_a_resample_is_left_out_of_its_mean() -> None:
    # Image 0: a only, right. Image 1: b only, half of it right.
    matrices = np.array([[[4, 0], [0, 0]], [[0, 0], [2, 2]]])
    result = SegmentationResult(matrices, ["a", "b"])
    # Together: a 4 of 6, b 2 of 4. Image 0 twice: a 1, b absent. Image 1 twice: a absent, b 4 of 8.
    expected = [(4 / 6 + 2 / 4) / 2, 1.0, 0.5]
    np.testing.assert_allclose(result.resampled(np.array([[1, 1], [2, 0], [0, 2]])), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("predicted", "label"),
    [([[0, 0]], [[0]]), ([[0]], [[3]]), ([[3]], [[0]])],
    ids=["size", "label too high", "prediction too high"],
)
def test_misfits_are_refused(predicted: list[list[int]], label: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"label|outside"):
        confusion_matrix(np.array(predicted, dtype=np.uint8), np.array(label, dtype=np.uint8), 3)


def test_matrices_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="fit"):
        SegmentationResult(np.zeros((2, 3, 3), dtype=np.int64), ["a", "b"])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))
def test_properties(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        shape = rng.integers(1, 8, 2)
        label = rng.integers(0, classes + 1, shape).astype(np.uint8)
        label[label == classes] = 255
        pairs.append((rng.integers(0, classes, shape).astype(np.uint8), label))
    names = [str(index) for index in range(classes)]
    matrices = np.stack([confusion_matrix(p, t, classes) for p, t in pairs])
    result = SegmentationResult(matrices, names)
    ious = _slow_ious(pairs, classes)
    assert [row["iou"] for row in result.per_class()] == pytest.approx(ious)
    present = [iou for iou in ious if iou is not None]
    miou = result.scores()["miou"]
    if not present:
        assert miou is None
        return
    assert miou is not None and 0 <= miou <= 1 and miou == pytest.approx(np.mean(present))
    assert result.resampled(np.ones((1, n), dtype=int))[0] == pytest.approx(miou, abs=1e-14)
    order = rng.permutation(n)
    assert SegmentationResult(matrices[order], names).scores() == pytest.approx(result.scores())
    counts = rng.multinomial(n, np.full(n, 1 / n))
    repeated = SegmentationResult(np.repeat(matrices, counts, axis=0), names).scores()["miou"]
    resampled = result.resampled(counts[None])[0]
    assert np.isnan(resampled) if repeated is None else resampled == pytest.approx(repeated, abs=1e-14)
