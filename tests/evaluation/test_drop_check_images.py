"""How many images would decide an open verdict."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from per_image import PerImage

from onehead_cli.evaluation.drop_check import Drop, _draw, check_drop, judge
from onehead_cli.tasks.task import Metric


def _judge(diff: float, low: float, high: float, *, images: int = 100, **options: Any) -> Drop:
    values: dict[str, Any] = {"limit": 0.05, "relative": False} | options
    return judge("cls", images=images, baseline=0.5, unified=0.5 + diff, low=low, high=high, **values)


@pytest.mark.parametrize(
    ("diff", "low", "high", "images"),
    [
        (-0.02, -0.08, 0.04, 400),  # 0.06 towards the limit, which is 0.03 away: 100 * 2 ** 2
        (-0.02, -0.08, -0.01, 400),  # the other side says nothing
        (-0.07, -0.09, -0.01, 900),  # beyond the limit, 0.02 away: 100 * 3 ** 2
        (0.05, -0.051, 0.09, 110),  # 100 * 1.01 ** 2 = 102.01, rounded up
        (-0.05, -0.08, 0.04, None),  # at the limit
        (-0.0499, -0.09, 0.04, None),  # 100 * 401 ** 2 = 16 million
        (-0.049, -0.109, 0.04, 360_000),  # 100 * 60 ** 2
        (0.0, -0.04, 0.04, None),  # PASS
        (-0.1, -0.14, -0.06, None),  # FAIL
    ],
)
def test_by_hand(diff: float, low: float, high: float, images: int | None) -> None:
    drop = _judge(diff, low, high)
    assert drop.images_to_decide == images and drop.reason is None


def test_the_part_of_the_seeds_stays() -> None:
    # The half-width is 0.06 and 0.02 of it the seeds': 100 * (0.06 ** 2 - 0.02 ** 2) / (0.03 ** 2 - 0.02 ** 2) = 640.
    assert _judge(-0.02, -0.08, 0.04, seeds_half_width=0.02).images_to_decide == 640
    drop = _judge(-0.02, -0.08, 0.04, seeds_half_width=0.031)
    assert drop.images_to_decide is None and drop.reason is not None and "more seeds are needed" in drop.reason
    assert _judge(0.0, -0.04, 0.04, seeds_half_width=0.04).reason is None  # PASS


def test_where_less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("rmse", "RMSE", higher_is_better=False, unit="m")
    monkeypatch.setattr("onehead_cli.evaluation.drop_check.get_task", lambda _: SimpleNamespace(metric=metric))
    assert _judge(0.02, -0.04, 0.08).images_to_decide == 400
    assert _judge(0.07, 0.01, 0.09).images_to_decide == 900


def test_the_number_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the number n that is asked for, the limit is 1.96 standard errors from the true difference. With m images it
    is 1.96 * sqrt(m / n), and the verdict is decided where the estimate is less than 1.96 * (sqrt(m / n) - 1) of them
    off towards the limit: 50 % of the time at n, Phi(1.435) = 92 % at 3 n, Phi(-0.828) = 20 % at n / 3. Of 400 draws
    these shares deviate by 2.5, 1.4 and 2 %; the draws of the bootstrap move them by about as much again."""
    # The draw takes most of the time, and depends on the seed alone.
    cached = functools.cache(lambda *of: [table.astype(float) for table in _draw(*of)])
    monkeypatch.setattr("onehead_cli.evaluation.drop_check._draw", cached)
    rng, size = np.random.default_rng(0), 20_000
    # Sorted, so that every hundredth image shows what all of them do.
    diffs = np.sort(0.42 * rng.standard_normal(size))
    diffs += -0.02 - diffs.mean()

    def check(diffs: NDArray[np.float64], seed: int) -> Drop:
        return check_drop(PerImage(np.full(len(diffs), 0.5)), PerImage(0.5 + diffs), seed=seed)

    pilot = check(diffs[50::100], 0)
    assert len(diffs[50::100]) == 200 and pilot.verdict == "INCONCLUSIVE" and pilot.images_to_decide is not None
    # (1.96 * 0.42 / 0.03) ** 2 = 753; the interval deviates by 4 % and so its square by 8 %.
    assert 640 <= pilot.images_to_decide <= 880

    def decided(images: int) -> float:
        verdicts = [check(diffs[rng.integers(size, size=images)], draw % 5).verdict for draw in range(400)]
        return 1 - verdicts.count("INCONCLUSIVE") / len(verdicts)

    third, whole, threefold = (decided(round(factor * pilot.images_to_decide)) for factor in (1 / 3, 1, 3))
    assert third <= 0.27 and 0.42 <= whole <= 0.6 and threefold >= 0.88
