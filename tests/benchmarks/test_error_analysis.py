"""What a network gets wrong, by hand and against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest

#: With `make bench-quick`.
pytestmark = pytest.mark.benchmark


def _found(*rows):
    """(box, score, label) of each detection."""
    from onehead_cli.tasks.detection.decode import Detections

    boxes = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4)
    return Detections(boxes, np.array([row[1] for row in rows]), np.array([row[2] for row in rows], dtype=np.int64))


def _truth(*rows):
    """(box, label, crowd, area) of each true box."""
    from report.error_analysis import TrueBoxes

    return TrueBoxes(
        boxes=np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        crowd=np.array([row[2] for row in rows], dtype=bool),
        areas=np.array([row[3] for row in rows], dtype=np.float64),
    )


def test_each_kind_of_error_by_hand():
    from report.error_analysis import DetectionErrors

    truth = _truth(
        ([0, 0, 10, 10], 0, False, 100),  # small: found
        ([100, 0, 140, 40], 1, False, 1600),  # medium: only found as class 0
        ([200, 0, 300, 100], 0, False, 9216),  # large, just: missed, the box is poor
        ([0, 200, 100, 300], 0, True, 9000),  # a crowd region, which is nothing to find
    )
    found = _found(
        ([0, 0, 10, 10], 0.6, 0),  # the same overlap class, but a lower score than the next: a duplicate
        ([0, 0, 10, 9], 0.9, 0),  # IoU .9: correct
        ([100, 0, 140, 40], 0.8, 0),  # wrong class
        ([200, 0, 300, 30], 0.7, 0),  # IoU .3: poor
        ([200, 0, 300, 30], 0.7, 1),  # no true box of class 1 there, and IoU .3 with one of class 0: background
        ([10, 210, 30, 230], 0.5, 0),  # wholly within the crowd: ignored
        ([400, 400, 410, 410], 0.5, 1),  # background
    )
    errors = DetectionErrors(["cat", "dog"])
    errors.add(found, truth)
    errors.add(_found(), _truth(([0, 0, 50, 50], 1, False, 1024.0)))  # 32 x 32 and not below: medium
    said = errors.document()
    cat, dog = said["classes"]
    assert cat == {
        "name": "cat",
        "true": 2,
        "missed": 1,
        "correct": 1,
        "duplicate": 1,
        "wrong class": 1,
        "poor box": 1,
        "background": 0,
    }
    assert (dog["true"], dog["missed"], dog["background"]) == (2, 2, 2)
    assert said["sizes"] == [
        {"name": "small", "true": 1, "missed": 0},
        {"name": "medium", "true": 2, "missed": 2},
        {"name": "large", "true": 1, "missed": 1},
    ]
    assert said["false_positives"] == {"duplicate": 1, "wrong class": 1, "poor box": 1, "background": 2}
    assert said["wrong_class_pairs"] == [{"true": "dog", "given": "cat", "count": 1}]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_missed_is_what_pycocotools_does_not_match(seed):
    from report.error_analysis import CORRECT, match

    from onehead_cli.tasks.detection.average_precision import DetectionResult

    rng = np.random.default_rng(seed)

    def boxes(n):
        corner, side = rng.uniform(0, 60, (n, 2)), rng.uniform(10, 40, (n, 2))
        return np.concatenate([corner, corner + side], axis=1)

    true, labels = boxes(12), rng.integers(0, 2, 12)
    # Some near the true ones, some anywhere.
    given = np.concatenate([true.repeat(2, 0) + rng.uniform(-6, 6, (24, 4)), boxes(16)])[rng.permutation(40)]
    given_labels = rng.integers(0, 2, 40)
    truth = _truth(*[(box, label, index > 9, 1.0) for index, (box, label) in enumerate(zip(true, labels, strict=True))])
    found = _found(*[(box, 1 - i / 100, label) for i, (box, label) in enumerate(zip(given, given_labels, strict=True))])
    kinds, hit, _ = match(found, truth)
    annotations = [
        {"image_id": 1, "category_id": label + 1, "bbox": [x, y, u - x, v - y], "iscrowd": int(crowd)}
        for (x, y, u, v), label, crowd in zip(true.tolist(), labels.tolist(), truth.crowd, strict=True)
    ]
    result = DetectionResult({"images": [{"id": 1}], "annotations": annotations}, [found], [1, 2], ["a", "b"])
    assert hit.sum() > 0
    for label, matches in enumerate(result._matches):
        assert int(matches.correct[0].sum()) == int(hit[labels == label].sum())
        of_label = [kind for kind, given_label in zip(kinds, given_labels, strict=True) if given_label == label]
        assert of_label.count(CORRECT) == int(matches.correct[0].sum())
        assert of_label.count("ignored") == int(matches.ignored[0].sum())


def test_confusions_by_hand():
    from report.error_analysis import confusion_pairs

    matrix = np.array([[8, 2, 0], [5, 5, 0], [0, 1, 0]])
    assert confusion_pairs(matrix, ["a", "b", "c"]) == [
        {"true": "b", "given": "a", "count": 5, "share": 0.5},
        {"true": "a", "given": "b", "count": 2, "share": 0.2},
        {"true": "c", "given": "b", "count": 1, "share": 1.0},
    ]
