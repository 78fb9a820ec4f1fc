"""DetectionResult against pycocotools run on its own, and against numbers worked out by hand."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onehead_cli.tasks.detection.average_precision import DetectionResult, best_f1_thresholds
from onehead_cli.tasks.detection.decode import Detections


def _detections(*boxes: tuple[float, float, float, float, float, int]) -> Detections:
    """From (x1, y1, x2, y2, score, label)."""
    table = np.array(boxes, dtype=np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def _truth(*images: list[tuple[int, list[float]]]) -> dict[str, Any]:
    """From lists of (category id, x y w h); neither iscrowd nor area."""
    annotations = [
        {"image_id": number, "category_id": category, "bbox": box}
        for number, boxes in enumerate(images)
        for category, box in boxes
    ]
    return {
        "images": [{"id": number} for number in range(len(images))],
        "annotations": [{"id": number, **a} for number, a in enumerate(annotations)],
        "categories": [],
    }


def _simulated(
    seed: int, *, images: int = 12, category_ids: tuple[int, ...] = (7, 3, 90), found: int = 30, ties: bool = False
) -> tuple[dict[str, Any], list[Detections]]:
    """Crowded images with jittered, misnamed and stray boxes; ids neither sorted nor dense; some images empty."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, images, replace=False).tolist()
    annotations: list[dict[str, Any]] = []
    detections = []
    for image_id in image_ids:
        count = int(rng.integers(0, 7))
        boxes = np.concatenate([rng.uniform(0, 200, (count, 2)), rng.uniform(5, 120, (count, 2))], axis=1)
        categories = rng.choice(category_ids, count)
        for box, category in zip(boxes, categories, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(category),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * 0.7),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        rows = []
        for _ in range(found if rng.random() < 0.9 else 0):
            label = int(rng.integers(len(category_ids)))
            x, y = rng.uniform(0, 200, 2)
            box = np.array([x, y, x + 30, y + 30])
            if count and rng.random() < 0.8:
                chosen = int(rng.integers(count))
                box = corners[chosen] + rng.normal(0, 6, 4)
                label = category_ids.index(int(categories[chosen])) if rng.random() < 0.8 else label
            score = rng.integers(1, 6) / 5 if ties else rng.random()
            rows.append((*np.concatenate([np.minimum(box[:2], box[2:] - 1), box[2:]]).tolist(), score, label))
        rows.sort(key=lambda row: -row[4])
        detections.append(_detections(*rows))
    truth = {
        "images": [{"id": image_id, "width": 320, "height": 320} for image_id in image_ids],
        "annotations": annotations,
        "categories": [{"id": category, "name": str(category)} for category in sorted(category_ids)],
    }
    return truth, detections


def _pycocotools(truth: dict[str, Any], detections: list[Detections], category_ids: tuple[int, ...]) -> COCOeval:
    """Plain pycocotools with all its defaults, as its demo runs it."""
    results = [
        {"image_id": image["id"], "category_id": category_ids[label], "bbox": [a, b, c - a, d - b], "score": score}
        for image, one in zip(truth["images"], detections, strict=True)
        for (a, b, c, d), score, label in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _repeat(
    truth: dict[str, Any], detections: list[Detections], counts: list[int]
) -> tuple[dict[str, Any], list[Detections]]:
    """Each image as often as its count says, with new ids in the order of the old ones."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    repeated: list[Detections] = []
    rows = zip(truth["images"], detections, counts, strict=True)
    for image, one, count in sorted(rows, key=lambda row: row[0]["id"]):
        for _ in range(count):
            number = len(images) + 1
            images.append({**image, "id": number})
            repeated.append(one)
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append({**annotation, "id": len(annotations) + 1, "image_id": number})
    return {**truth, "images": images, "annotations": annotations}, repeated


CATEGORIES = (7, 3, 90)
NAMES = ["seven", "three", "ninety"]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct scores", "equal scores"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools(seed: int, ties: bool) -> None:
    truth, detections = _simulated(seed, ties=ties)
    reference = _pycocotools(truth, detections, CATEGORIES)
    result = DetectionResult(truth, detections, CATEGORIES, NAMES)
    assert result.scores()["map"] == pytest.approx(reference.stats[0], abs=1e-12)
    assert result.scores()["map50"] == pytest.approx(reference.stats[1], abs=1e-12)
    assert result.resampled(np.ones((1, len(result)), dtype=int))[0] == pytest.approx(reference.stats[0], abs=1e-12)
    rows = result.per_class()
    for place, category in enumerate(sorted(CATEGORIES)):
        precision = reference.eval["precision"][:, :, place, 0, 2]
        row = rows[CATEGORIES.index(category)]
        truly = sum(a["category_id"] == category and not a["iscrowd"] for a in truth["annotations"])
        assert row["count"] == truly
        assert row["ap"] == pytest.approx(precision.mean(), abs=1e-12)
        assert row["ap50"] == pytest.approx(precision[0].mean(), abs=1e-12)


def test_more_than_a_hundred_detections_of_a_class() -> None:
    truth, detections = _simulated(3, images=3, category_ids=(1,), found=250)
    reference = _pycocotools(truth, detections, (1,))
    result = DetectionResult(truth, detections, [1], ["one"])
    assert result.scores()["map"] == pytest.approx(reference.stats[0], abs=1e-12)
    assert result.resampled(np.ones((1, 3), dtype=int))[0] == pytest.approx(reference.stats[0], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_resampled_equals_pycocotools_on_repeated_images(seed: int) -> None:
    truth, detections = _simulated(seed)
    result = DetectionResult(truth, detections, CATEGORIES, NAMES)
    n = len(result)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=3)
    for row, resampled in zip(counts, result.resampled(counts), strict=True):
        reference = _pycocotools(*_repeat(truth, detections, row.tolist()), CATEGORIES)
        assert resampled == pytest.approx(reference.stats[0], abs=1e-12)


def test_resampled_with_scores_that_all_images_share() -> None:
    truth, detections = _simulated(1, images=30)
    for one in detections:
        one.scores[:] = np.arange(len(one.scores), 0, -1) / 50
    result = DetectionResult(truth, detections, CATEGORIES, NAMES)
    counts = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=3)
    for row, resampled in zip(counts, result.resampled(counts), strict=True):
        reference = _pycocotools(*_repeat(truth, detections, row.tolist()), CATEGORIES)
        assert resampled == pytest.approx(reference.stats[0], abs=1e-12)


def test_resampled_with_equal_scores_within_a_image() -> None:
    # The copies of an image are sorted as a b a b, one image of weight 2 as a a b b: close, not equal.
    truth, detections = _simulated(1, images=30)
    for one in detections:
        one.scores[:] = one.scores.round(2)
    result = DetectionResult(truth, detections, CATEGORIES, NAMES)
    counts = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=3)
    for row, resampled in zip(counts, result.resampled(counts), strict=True):
        reference = _pycocotools(*_repeat(truth, detections, row.tolist()), CATEGORIES)
        assert resampled == pytest.approx(reference.stats[0], abs=5e-3)


def test_many_resamples_are_the_same_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, detections = _simulated(0)
    result = DetectionResult(truth, detections, CATEGORIES, NAMES)
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=40)
    whole = result.resampled(counts)
    monkeypatch.setattr("onehead_cli.tasks.detection.average_precision._CHUNK", 1000)
    np.testing.assert_array_equal(result.resampled(counts), whole)


def test_average_precision_by_hand() -> None:
    # One class, two true boxes; by score: right (image 0), wrong (image 1), right (image 1), all exact.
    truth = _truth([(1, [0, 0, 10, 10])], [(1, [20, 20, 10, 10])])
    detections = [
        _detections((0, 0, 10, 10, 0.9, 0)),
        _detections((60, 60, 70, 70, 0.8, 0), (20, 20, 30, 30, 0.7, 0)),
    ]
    result = DetectionResult(truth, detections, [1], ["a"])
    # Precision 1 at the 51 recall steps up to .50, 2/3 at the 50 above.
    both = (51 + 50 * 2 / 3) / 101
    assert result.scores() == {"map": pytest.approx(both), "map50": pytest.approx(both)}
    # Image 0 alone: 1. Image 1 twice: wrong, wrong, right, right, so 1/2 everywhere.
    counts = np.array([[1, 1], [2, 0], [0, 2]])
    np.testing.assert_allclose(result.resampled(counts), [both, 1.0, 0.5], rtol=1e-12)


def test_overlap_decides_the_threshold_by_hand() -> None:
    # Shifted by 2 of 10: overlap 80 / 120, so right at .50 .55 .60 .65 and wrong at the six above.
    result = DetectionResult(_truth([(1, [0, 0, 10, 10])]), [_detections((2, 0, 12, 10, 0.9, 0))], [1], ["a"])
    assert result.scores() == {"map": pytest.approx(0.4), "map50": pytest.approx(1.0)}


def test_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = _truth([(1, [0, 0, 100, 100]), (1, [200, 200, 10, 10])], [(1, [0, 0, 10, 10])])
    truth["annotations"][0]["iscrowd"] = 1
    # Two boxes inside the crowd, better than the right one.
    detections = [
        _detections((0, 0, 50, 50, 0.9, 0), (50, 50, 99, 99, 0.8, 0), (200, 200, 210, 210, 0.7, 0)),
        _detections((0, 0, 10, 10, 0.6, 0)),
    ]
    result = DetectionResult(truth, detections, [1], ["a"])
    assert result.scores()["map"] == pytest.approx(1.0)
    assert result.per_class()[0]["count"] == 2
    np.testing.assert_allclose(result.resampled(np.array([[1, 1], [2, 0], [0, 2]])), 1.0)


def test_no_detections_score_zero() -> None:
    truth = _truth([(1, [0, 0, 10, 10])], [])
    result = DetectionResult(truth, [_detections(), _detections()], [1, 2], ["a", "b"])
    assert result.scores() == {"map": 0.0, "map50": 0.0}
    assert result.per_class() == [
        {"name": "a", "count": 1, "ap": 0.0, "ap50": 0.0},
        {"name": "b", "count": 0, "ap": None, "ap50": None},
    ]
    assert result.resampled(np.array([[1, 1]])).tolist() == [0.0]
    # A resample of the empty image alone has nothing to score.
    assert np.isnan(result.resampled(np.array([[0, 2]]))[0])


def test_no_truth_has_no_score() -> None:
    result = DetectionResult(_truth([]), [_detections((0, 0, 1, 1, 0.5, 0))], [1], ["a"])
    assert result.scores() == {"map": None, "map50": None}


def test_a_class_absent_from_the_truth_is_left_out_of_the_mean() -> None:
    truth = _truth([(1, [0, 0, 10, 10])])
    detections = [_detections((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.95, 1))]
    result = DetectionResult(truth, detections, [1, 2], ["a", "b"])
    assert result.scores()["map"] == pytest.approx(1.0)
    assert result.resampled(np.array([[1]]))[0] == pytest.approx(1.0)


def test_categories_that_are_not_asked_for_are_left_out() -> None:
    truth = _truth([(1, [0, 0, 10, 10]), (55, [20, 20, 10, 10])])
    result = DetectionResult(truth, [_detections((0, 0, 10, 10, 0.9, 0))], [1], ["a"])
    assert result.scores()["map"] == pytest.approx(1.0)


def test_an_annotation_with_id_zero_can_be_matched() -> None:
    # pycocotools takes id 0 for "no match"; _truth numbers from 0.
    truth = _truth([(1, [0, 0, 10, 10])])
    assert truth["annotations"][0]["id"] == 0
    result = DetectionResult(truth, [_detections((0, 0, 10, 10, 0.9, 0))], [1], ["a"])
    assert result.scores()["map"] == pytest.approx(1.0)


def test_nothing_given_is_changed_or_printed(capsys: pytest.CaptureFixture[str]) -> None:
    truth, detections = _simulated(0)
    before = copy.deepcopy(truth), copy.deepcopy(detections)
    DetectionResult(truth, detections, CATEGORIES, NAMES).resampled(np.ones((2, 12), dtype=int))
    assert truth == before[0]
    for one, old in zip(detections, before[1], strict=True):
        assert (one.boxes == old.boxes).all() and (one.scores == old.scores).all() and (one.labels == old.labels).all()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("images", "ids", "names"), [(2, [1], ["a"]), (1, [1], ["a", "b"]), (1, [1, 1], ["a", "b"])])
def test_misfits_are_refused(images: int, ids: list[int], names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"detections|category"):
        DetectionResult(_truth([]), [_detections()] * images, ids, names)


def test_best_f1_thresholds_by_hand() -> None:
    boxes = [(1, [float(20 * k), 0.0, 10.0, 10.0]) for k in range(4)]
    truth = _truth([*boxes, (1, [0, 200, 100, 100])])
    truth["annotations"][4]["iscrowd"] = 1
    detections = [
        _detections(
            (0, 210, 50, 250, 0.95, 0),  # in the crowd: not counted
            (0, 0, 10, 10, 0.9, 0),  # right: F1 2/5
            (400, 0, 410, 10, 0.8, 0),  # wrong: 2/6
            (20, 0, 30, 10, 0.7, 0),  # right: 4/7
            (40, 0, 50, 10, 0.6, 0),  # right: 6/8
            (500, 0, 510, 10, 0.6, 0),  # wrong, same score: 6/9
            (600, 0, 610, 10, 0.5, 0),  # wrong: 6/10
            (60, 0, 70, 10, 0.4, 0),  # right: 8/11, the best that a threshold can reach
            (700, 0, 710, 10, 0.3, 0),  # wrong: 8/12
        )
    ]
    result = DetectionResult(truth, detections, [1, 2], ["a", "b"])
    assert best_f1_thresholds(result) == [0.4, 0.3]
    assert best_f1_thresholds(result, default=0.25)[1] == 0.25


def test_best_f1_threshold_without_a_right_box_is_the_default() -> None:
    truth = _truth([(1, [0, 0, 10, 10])])
    wrong = DetectionResult(truth, [_detections((50, 50, 60, 60, 0.9, 0))], [1], ["a"])
    none = DetectionResult(truth, [_detections()], [1], ["a"])
    assert best_f1_thresholds(wrong) == best_f1_thresholds(none) == [0.3]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_images_does_not_matter(seed: int) -> None:
    truth, detections = _simulated(seed, images=6, found=12)
    order = np.random.default_rng(seed).permutation(6)
    shuffled = {**truth, "images": [truth["images"][i] for i in order]}
    first = DetectionResult(truth, detections, CATEGORIES, NAMES)
    second = DetectionResult(shuffled, [detections[i] for i in order], CATEGORIES, NAMES)
    assert first.scores() == second.scores()
    counts = np.random.default_rng(seed).multinomial(6, np.full(6, 1 / 6), size=4)
    np.testing.assert_allclose(first.resampled(counts), second.resampled(counts[:, order]), atol=1e-14)
    score = first.scores()["map"]
    assert score is None or 0 <= score <= 1
