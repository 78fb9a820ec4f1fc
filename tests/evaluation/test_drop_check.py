from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onehead_cli.errors import DataError
from onehead_cli.evaluation.drop_check import Drop, check_drop, exit_code
from onehead_cli.evaluation.report import drop_table
from onehead_cli.tasks.classification.scores import ClassificationResult
from onehead_cli.tasks.detection.average_precision import DetectionResult
from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.segmentation.scores import SegmentationResult


def _classified(right: NDArray[np.bool_]) -> ClassificationResult:
    """Two classes; image i is right where right[i]."""
    return ClassificationResult(np.stack([right, ~right], axis=1).astype(float), np.zeros(len(right), int), ["a", "b"])


def _share(right: int, of: int) -> ClassificationResult:
    return _classified(np.arange(of) < right)


def _simulated_detections(seed: int, *, count: int, found: int) -> DetectionResult:
    truth_rng, rng = np.random.default_rng(0), np.random.default_rng(seed)
    images: list[dict[str, Any]] = [{"id": number + 1} for number in range(count)]
    annotations: list[dict[str, Any]] = []
    detections = []
    for image in images:
        corners, sizes = truth_rng.uniform(0, 400, (7, 2)), truth_rng.uniform(20, 150, (7, 2))
        labels = truth_rng.integers(0, 10, 7)
        for corner, size, label in zip(corners, sizes, labels, strict=True):
            box = [*corner.tolist(), *size.tolist()]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": int(label), "bbox": box}
            )
        chosen = rng.integers(0, 7, found)
        boxes = np.concatenate([corners, corners + sizes], axis=1)[chosen] + rng.uniform(-10, 10, (found, 4))
        detections.append(Detections(boxes, np.sort(rng.random(found))[::-1], labels[chosen]))
    truth = {"images": images, "annotations": annotations, "categories": []}
    return DetectionResult(truth, detections, list(range(10)), [str(index) for index in range(10)])


def test_identical_networks_pass_with_an_interval_of_nothing() -> None:
    matrices = np.random.default_rng(0).integers(1, 9, (20, 3, 3))
    results: list[Result] = [
        _share(15, 20),
        SegmentationResult(matrices, list("abc")),
        _simulated_detections(1, count=10, found=20),
    ]
    for result in results:
        drop = check_drop(result, result, seed=0)
        assert (drop.diff, drop.low, drop.high, drop.verdict, drop.within_limit) == (0, 0, 0, "PASS", True)


def test_fault_89_nothing_against_nothing() -> None:
    """If both networks score 0, there was nothing to lose: INCONCLUSIVE, with that as the reason in the report."""
    nothing = _share(0, 20)
    drop = check_drop(nothing, nothing, seed=0)
    assert (drop.diff, drop.low, drop.high, drop.verdict) == (0, 0, 0, "INCONCLUSIVE")
    assert drop.reason == "Top-1 is 0 for both networks: there was nothing to lose"
    assert f"Classification: {drop.reason}." in drop_table([drop])
    assert exit_code([drop], complete=True, strict=True) == 11
    # One that is right once has something to lose, and one that gained from nothing lost nothing.
    assert check_drop(_share(1, 20), _share(1, 20), seed=0).verdict == "PASS"
    gained = check_drop(nothing, _share(10, 20), seed=0)
    assert gained.verdict == "PASS" and gained.reason is None


def test_interval_by_hand() -> None:
    # 400 images: 40 only the baseline has right, 20 only the unified network, so diff = -20 / 400. The difference
    # of an image has variance 60 / 400 - 0.05 ** 2 = 0.1475, so their mean deviates by sqrt(0.1475 / 400) = 0.0192.
    baseline, unified = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    baseline[:340] = True
    unified[40:360] = True
    drop = check_drop(_classified(baseline), _classified(unified), resamples=4000, seed=1)
    assert drop.diff == pytest.approx(-0.05)
    assert drop.low == pytest.approx(-0.05 - 1.96 * 0.0192, abs=0.004)
    assert drop.high == pytest.approx(-0.05 + 1.96 * 0.0192, abs=0.004)
    assert drop.verdict == "INCONCLUSIVE"
    assert (drop.task, drop.metric, drop.baseline, drop.unified) == ("cls", "top1", 0.85, 0.8)


def test_the_draw_is_paired() -> None:
    # The unified network is right wherever the baseline is, and on one image in ten more: no resample shows a drop.
    baseline, unified = np.arange(200) % 10 < 4, np.arange(200) % 10 < 5
    drop = check_drop(_classified(baseline), _classified(unified), seed=0)
    assert drop.low > 0 and drop.verdict == "PASS"


def test_same_seed_same_interval() -> None:
    baseline, unified = _share(45, 60), _share(44, 60)
    assert check_drop(baseline, unified, seed=3) == check_drop(baseline, unified, seed=3)


def test_a_clear_drop_fails() -> None:
    drop = check_drop(_share(190, 200), _share(120, 200), seed=0)
    assert drop.verdict == "FAIL" and not drop.within_limit and drop.high < -0.05


@pytest.mark.parametrize("right", [57, 51, 42, 30, 12])
def test_a_drop_of_exactly_the_limit_is_not_within_it(right: int) -> None:
    # 3 images of 60 are 0.05, whichever way the floats are rounded.
    drop = check_drop(_share(right, 60), _share(right - 3, 60), seed=0)
    assert not drop.within_limit
    assert check_drop(_share(right, 60), _share(right - 2, 60), seed=0).within_limit


def test_the_verdict_depends_on_the_interval_only() -> None:
    # 2 images of 60 lost, by different images: the point is within the limit, the interval is not.
    drop = check_drop(_classified(np.arange(60) < 40), _classified(np.arange(60) >= 22), seed=0)
    assert drop.within_limit and drop.verdict == "INCONCLUSIVE"


def test_relative_limit() -> None:
    # 0.5 -> 0.48 is 0.02 absolute and 4 % of the baseline; 0.5 -> 0.47 is 0.03 and 6 %.
    near, far = _share(480, 1000), _share(470, 1000)
    baseline = _share(500, 1000)
    assert check_drop(baseline, near, relative=True, seed=0).within_limit
    assert not check_drop(baseline, far, relative=True, seed=0).within_limit
    assert check_drop(baseline, far, seed=0).within_limit


def test_a_baseline_of_zero_proves_nothing_relatively() -> None:
    drop = check_drop(_share(0, 20), _share(0, 20), relative=True, seed=0)
    assert drop.verdict == "INCONCLUSIVE" and not drop.within_limit


def test_resamples_without_truth_are_left_out() -> None:
    # One of five images has labelled pixels: some resamples miss it.
    matrices = np.zeros((5, 2, 2), dtype=np.int64)
    matrices[0] = [[3, 1], [1, 3]]
    result = SegmentationResult(matrices, ["a", "b"])
    assert np.isnan(result.resampled(np.array([[0, 2, 1, 1, 1]])))[0]
    drop = check_drop(result, result, seed=0)
    assert (drop.low, drop.high, drop.verdict) == (0, 0, "PASS")


def test_nothing_labelled_is_an_error() -> None:
    empty = SegmentationResult(np.zeros((3, 2, 2), dtype=np.int64), ["a", "b"])
    with pytest.raises(DataError, match="is labelled"):
        check_drop(empty, empty, seed=0)


def test_results_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        check_drop(_share(1, 2), _share(1, 3), seed=0)
    with pytest.raises(ValueError, match="cannot pair"):
        check_drop(_share(1, 2), SegmentationResult(np.ones((2, 2, 2), dtype=np.int64), ["a", "b"]), seed=0)


def test_steps_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, unified = _share(45, 60), _share(41, 60)
    whole = check_drop(baseline, unified, seed=5)
    monkeypatch.setattr("onehead_cli.evaluation.drop_check._CHUNK", 6000)
    assert check_drop(baseline, unified, seed=5) == whole


def test_the_interval_covers_the_true_difference() -> None:
    # Both networks are right on 80 % of all images there are, independently: the true difference is 0. In 400 samples
    # of 100 images a 95 % interval should cover it about 380 times, with a deviation of 4.4 = sqrt(400 * .05 * .95);
    # the percentile interval is known to be a little short.
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        baseline, unified = rng.random((2, 100)) < 0.8
        drop = check_drop(_classified(baseline), _classified(unified), resamples=200, seed=seed)
        covered += drop.low <= 0 <= drop.high
    assert 362 <= covered <= 394


def test_a_thousand_resamples_of_120_images_are_quick() -> None:
    baseline = _simulated_detections(1, count=120, found=100)
    unified = _simulated_detections(2, count=120, found=100)
    start = time.process_time()
    drop = check_drop(baseline, unified, seed=0)
    assert time.process_time() - start < 20
    assert drop.low < drop.diff < drop.high


def test_exit_codes() -> None:
    passed = check_drop(_share(5, 10), _share(5, 10), seed=0)
    failed, open_ = replace(passed, verdict="FAIL"), replace(passed, verdict="INCONCLUSIVE")
    cases: list[tuple[list[Drop], int]] = [
        ([passed, passed], 0),
        ([passed, open_], 11),
        ([open_, failed, passed], 10),
        ([], 0),
    ]
    for drops, code in cases:
        assert exit_code(drops, complete=True, strict=True) == code
        assert exit_code(drops, complete=False, strict=False) == 0


@pytest.mark.parametrize(("images", "verdict"), [(1, "INCONCLUSIVE"), (4, "INCONCLUSIVE"), (5, "PASS")])
def test_a_handful_of_images_decides_nothing(images, verdict):
    """However equal the two are: the resamples of one image are all the same, which says nothing of others."""
    result = ClassificationResult(np.eye(2)[[0] * images], np.zeros(images, dtype=int), ["a", "b"])
    drop = check_drop(result, result, seed=0)
    assert drop.verdict == verdict and drop.low == drop.high == 0
    assert (drop.reason is None) == (verdict == "PASS")
