from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onehead_cli.errors import OneheadError
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.classification.reader import ClassificationReader
from onehead_cli.tasks.classification.scores import ClassificationResult

# Seven classes; the true one is the best, the fifth best, the sixth best, the seventh best.
LOGITS = np.array(
    [
        [9, 0, 0, 0, 0, 0, 0],
        [5, 9, 8, 7, 6, 0, 0],
        [1, 9, 8, 7, 6, 5, 0],
        [9, 8, 7, 6, 5, 4, 3],
    ],
    dtype=np.float32,
)
LABELS = np.array([0, 0, 0, 6])
NAMES = list("abcdefg")


def test_scores_by_hand() -> None:
    result = ClassificationResult(LOGITS, LABELS, NAMES)
    assert len(result) == 4
    assert result.scores() == {"top1": 0.25, "top5": 0.5}


def test_confusion_and_rows_by_hand() -> None:
    result = ClassificationResult(LOGITS, LABELS, NAMES)
    expected = np.zeros((7, 7), dtype=int)
    expected[0, 0], expected[0, 1], expected[6, 0] = 1, 2, 1
    assert (result.confusion == expected).all()
    rows = {row["name"]: row for row in result.per_class()}
    assert rows["a"] == {"name": "a", "count": 3, "top1": pytest.approx(1 / 3), "precision": 0.5}
    # b was predicted and is in no image; g is in one and was never predicted.
    assert rows["b"] == {"name": "b", "count": 0, "top1": None, "precision": None}
    assert rows["g"] == {"name": "g", "count": 1, "top1": 0.0, "precision": None}


def test_top5_of_three_classes_is_always_right() -> None:
    result = ClassificationResult(np.array([[3.0, 2, 1]]), np.array([2]), ["a", "b", "c"])
    assert result.scores() == {"top1": 0.0, "top5": 1.0}


def test_resampled_by_hand() -> None:
    counts = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 4, 0, 0], [3, 1, 0, 0]])
    result = ClassificationResult(LOGITS, LABELS, NAMES)
    np.testing.assert_allclose(result.resampled(counts), [0.25, 1.0, 0.0, 0.75], rtol=1e-15)


def test_no_images_have_no_score() -> None:
    assert ClassificationResult(np.zeros((0, 3)), np.zeros(0, dtype=int), ["a", "b", "c"]).scores()["top1"] is None


def test_a_logit_that_is_not_finite_is_no_prediction() -> None:
    with pytest.raises(OneheadError, match="1 of 2 images"):
        ClassificationResult(np.array([[np.nan, 0.0], [1.0, 0.0]]), np.array([0, 0]), ["a", "b"])


@pytest.mark.parametrize(("rows", "labels"), [(2, [0]), (1, [2]), (1, [-1])])
def test_misfits_are_refused(rows: int, labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"fit|outside"):
        ClassificationResult(np.zeros((rows, 2)), np.array(labels), ["a", "b"])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 8))
def test_properties(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.integers(0, 4, (n, classes)).astype(float), rng.integers(0, classes, n)
    names = [str(index) for index in range(classes)]
    result = ClassificationResult(logits, labels, names)
    scores = result.scores()
    top1, top5 = scores["top1"], scores["top5"]
    assert top1 is not None and top5 is not None and 0 <= top1 <= top5 <= 1
    assert top1 == pytest.approx(np.trace(result.confusion) / n, abs=1e-15)
    assert result.resampled(np.ones((1, n), dtype=int))[0] == pytest.approx(top1, abs=1e-15)
    order = rng.permutation(n)
    assert ClassificationResult(logits[order], labels[order], names).scores() == pytest.approx(scores)
    # Brute force: the images repeated.
    counts = rng.multinomial(n, np.full(n, 1 / n))
    repeated = ClassificationResult(np.repeat(logits, counts, 0), np.repeat(labels, counts), names)
    assert result.resampled(counts[None])[0] == pytest.approx(repeated.scores()["top1"], abs=1e-15)


def test_soft_pooling_has_no_high_threshold():
    # Three cells of softmax .73 are wrong, one of .92 is right: only a high threshold makes the right class win.
    maps = torch.tensor([[[1.0, 1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 2.5]]])[None]  # [1, 2, 1, 4]
    found = {}
    for pooling in ("gate", "soft"):
        found[pooling] = ClassificationReader(["a", "b"], 0.0, pooling).best_threshold(maps, [1])
    assert pool_classes(maps, 0.9, pooling="soft").argmax(1).item() == 1
    assert found == {"gate": 0.75, "soft": 0.0}
