from __future__ import annotations

import functools
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from per_image import PerImage

from onehead_cli.errors import DataError
from onehead_cli.evaluation.drop_check import _draw, check_drop, exit_code
from onehead_cli.evaluation.over_seeds import SeedsDrop, check_drop_over_seeds

#: What is simulated: the standard deviations of a seed, of an image and of an image in a seed. Of 100 images an image's
#: own counts a tenth in the mean.
SPREADS = {"seeds": (1.0, 1.0, 1.0), "images": (0.0, 10.0, 0.01), "neither": (0.5, 5.0, 0.5)}
TRUTH = -0.02


def _pairs(diffs: NDArray[np.float64], *, baseline: float = 0.5) -> Any:
    """Results whose differences are diffs [k, n]."""
    return [(PerImage(np.full(len(row), baseline)), PerImage(baseline + row)) for row in diffs]


def _lost(*lost: range, images: int = 100) -> NDArray[np.float64]:
    """Of each seed, the images that only the baseline has right, as differences [k, images]."""
    diffs = np.zeros((len(lost), images))
    for row, indices in zip(diffs, lost, strict=True):
        row[indices] = -1
    return diffs


def test_two_seeds_by_hand() -> None:
    # 2 and 4 images of 100 lost: the differences -0.02 and -0.04 deviate by s = 0.02 / sqrt(2), so that
    # t * s / sqrt(2) = 12.7062 * 0.01 = 0.127062. They are different images, so the mean over the seeds is -0.5 for 6
    # images: variance 0.06 * 0.25 - 0.03 ** 2 = 0.0141, s_img = sqrt(0.0141 / 100) = 0.011874, times 1.96 is 0.023274.
    # sqrt(0.127062 ** 2 + 0.023274 ** 2) = 0.12918.
    drop = check_drop_over_seeds(_pairs(_lost(range(2), range(2, 6))), resamples=4000, seed=0)
    assert (drop.task, drop.metric, drop.limit, drop.relative) == ("cls", "top1", 0.05, False)
    assert drop.baselines == (0.5, 0.5) and drop.unifieds == pytest.approx((0.48, 0.46))
    assert drop.diffs == pytest.approx((-0.02, -0.04))
    assert (drop.baseline, drop.unified, drop.diff) == pytest.approx((0.5, 0.47, -0.03))
    assert (drop.baseline_sd, drop.unified_sd, drop.diff_sd) == pytest.approx((0, 0.0141421, 0.0141421), abs=1e-6)
    assert (drop.low, drop.high) == pytest.approx((-0.15918, 0.09918), abs=2e-4)
    # The seeds alone are 0.127 wide, the limit is 0.02 away.
    assert drop.verdict == "INCONCLUSIVE" and drop.within_limit and drop.images_to_decide is None
    assert drop.reason is not None and "more seeds are needed" in drop.reason


def test_seeds_that_agree_leave_the_images_part() -> None:
    # 3 of 100 lost by both, the same ones: variance 0.03 - 0.03 ** 2 = 0.0291, so 1.96 * sqrt(0.0291 / 100) = 0.03344.
    drop = check_drop_over_seeds(_pairs(_lost(range(3), range(3))), resamples=4000, seed=0)
    assert (drop.low, drop.high) == pytest.approx((-0.06344, 0.00344), abs=0.0015)
    # The limit is 0.02 away: 100 * (0.03344 / 0.02) ** 2 = 280 images, give or take the draw, which is 2 * 1.1 %.
    assert drop.verdict == "INCONCLUSIVE" and drop.reason is None
    assert drop.images_to_decide is not None and 260 <= drop.images_to_decide <= 310


def test_verdicts() -> None:
    rng = np.random.default_rng(0)
    seeds = 0.001 * rng.standard_normal((5, 1))
    noise = 0.03 * rng.standard_normal((5, 200))

    def drop(diff: float, **options: Any) -> SeedsDrop:
        return check_drop_over_seeds(_pairs(diff + seeds + noise), seed=0, **options)

    assert [drop(diff).verdict for diff in (0.0, -0.05, -0.1)] == ["PASS", "INCONCLUSIVE", "FAIL"]
    assert [drop(diff).within_limit for diff in (0.0, -0.1)] == [True, False]
    assert exit_code([drop(0.0), drop(-0.1)], complete=True, strict=True) == 10
    # The mean baseline is 0.5, so that 6 % of it are 0.03.
    assert drop(-0.04, limit=0.06).verdict == "PASS"
    assert drop(-0.04, limit=0.06, relative=True).verdict == "FAIL"
    assert json.loads(json.dumps(asdict(drop(0.0))))["diffs"] == list(drop(0.0).diffs)


def test_nothing_against_nothing() -> None:
    drop = check_drop_over_seeds(_pairs(np.zeros((3, 20)), baseline=0.0), seed=0)
    assert (drop.low, drop.high, drop.verdict) == (0, 0, "INCONCLUSIVE")
    assert drop.reason == "Top-1 is 0 for both networks: there was nothing to lose"


def test_images_are_drawn_once_for_all_seeds() -> None:
    # What one seed loses on an image the other wins: the mean over the seeds is 0 in every resample, and only their
    # standard deviation is left.
    one = np.where(np.arange(100) < 10, 1.0, 0.0)
    drop = check_drop_over_seeds(_pairs(np.stack([one, -one])), seed=0)
    assert drop.high == pytest.approx(12.7062 * np.std([0.1, -0.1], ddof=1) / np.sqrt(2), abs=1e-4)


def test_what_cannot_be_judged() -> None:
    one, other = _pairs(np.zeros((2, 5)))
    (longer,) = _pairs(np.zeros((1, 6)))
    for pairs, message in [([], "not 0"), ([one], "not 1"), ([one, other, longer], "cannot pair cls on 5 images")]:
        with pytest.raises(ValueError, match=message):
            check_drop_over_seeds(pairs, seed=0)
    with pytest.raises(DataError, match="is labelled"):
        check_drop_over_seeds(_pairs(np.zeros((2, 0))), seed=0)


def _nested_bootstrap(
    diffs: NDArray[np.float64], counts: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The percentile interval of the mean when seeds are drawn and then images; counts [R, n]."""
    k, n = diffs.shape
    seeds = rng.multinomial(k, np.full(k, 1 / k), size=len(counts))
    return np.percentile((counts @ diffs.T * seeds).sum(axis=1) / (k * n), (2.5, 97.5))


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("dominating", SPREADS)
def test_the_interval_covers_the_true_difference(k: int, dominating: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 1500 repetitions an interval of 95 % covers the truth in 95 % of them, with a deviation of 0.6 %."""

    def tables(images: int, resamples: int, seed: int) -> list[NDArray[np.float64]]:
        return [table.astype(float) for table in _draw(images, resamples, seed)]

    # The draw takes most of the time, and depends on the seed alone.
    cached = functools.cache(tables)
    monkeypatch.setattr("onehead_cli.evaluation.drop_check._draw", cached)
    of_seed, of_image, of_both = SPREADS[dominating]
    rng, n, resamples, repetitions = np.random.default_rng(0), 100, 400, 1500
    covered = nested = 0
    for repetition in range(repetitions):
        diffs = (
            TRUTH
            + of_seed * rng.standard_normal((k, 1))
            + of_image * rng.standard_normal(n)
            + of_both * rng.standard_normal((k, n))
        )
        drop = check_drop_over_seeds(_pairs(diffs), resamples=resamples, seed=repetition % 10)
        covered += drop.low <= TRUTH <= drop.high
        low, high = _nested_bootstrap(diffs, cached(n, resamples, repetition % 10)[0], rng)
        nested += low <= TRUTH <= high
    assert covered >= 0.93 * repetitions
    if dominating != "neither":  # there it is known to be wide
        assert covered <= 0.97 * repetitions
    if dominating == "seeds":  # about 63, 76 and 86 % of the time for 2, 3 and 5 seeds
        assert nested <= 0.9 * repetitions


def test_the_seeds_add_to_what_the_images_say() -> None:
    diffs = 0.1 * np.random.default_rng(0).standard_normal((3, 200)) + np.array([[0.0], [0.01], [0.03]])
    (one, *_) = pairs = _pairs(diffs)
    alone, together = check_drop(*one, seed=0), check_drop_over_seeds(pairs, seed=0)
    assert together.high - together.low > alone.high - alone.low
