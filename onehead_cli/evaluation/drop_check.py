"""Did the unified network lose against the single-task one? A paired bootstrap over the images of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onehead_cli.errors import DataError
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.task import get_task

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

#: Exit codes of a strict check; 0 stands for PASS.
EXIT_FAIL, EXIT_INCONCLUSIVE = 10, 11

#: The 95 % interval, in percent of the resamples.
_INTERVAL = (2.5, 97.5)
#: 57 / 60 - 54 / 60 is a little under 0.05 in floats, and 3 images of 60 must not count as less than 5 %.
_ROUNDING = 1e-9
#: Largest table of resampled counts, in numbers of 8 bytes.
_CHUNK = 5_000_000


@dataclass(frozen=True)
class Drop:
    """How one task fared.

    metric: the task's main score; baseline, unified: its two values.
    limit: the largest drop that passes, as a share of the baseline where `relative` is set.
    diff: unified - baseline; low, high: its 95 % interval. Where less is better, a drop is a rise.
    within_limit: the drop itself is under the limit, whatever the interval says.
    verdict: PASS where the whole interval is above the limit, FAIL where all of it is below.
    reason: why nothing can be concluded, where the interval does not show it.
    """

    task: str
    metric: str
    baseline: float
    unified: float
    limit: float
    relative: bool
    diff: float
    low: float
    high: float
    within_limit: bool
    verdict: Verdict
    reason: str | None = None


def check_drop(
    baseline: Result, unified: Result, *, limit: float = 0.05, relative: bool = False, resamples: int = 1000, seed: int
) -> Drop:
    """Judge the drop of a task's main score with a paired percentile bootstrap.

    Images are drawn with replacement, the same ones for both networks (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 13.3). A resample in which nothing can be scored is left out. Where both scores are the
    worst there are, nothing was lost because there was nothing to lose: INCONCLUSIVE.

    Args:
        baseline: the single-task network's result.
        unified: the unified network's result on the same images in the same order.
        limit: largest drop that passes, in units of the score.
        relative: take `limit` as a share of the baseline's score; at a score of 0 no drop can then pass.
        resamples: how often the images are drawn.
        seed: of the draw.

    Raises:
        ValueError: results of different tasks or numbers of images.
        DataError: a split without anything to score.
    """
    if baseline.task != unified.task or len(baseline) != len(unified):
        raise ValueError(
            f"cannot pair {baseline.task} on {len(baseline)} images with {unified.task} on {len(unified)} images"
        )
    metric = get_task(baseline.task).metric
    before, after = baseline.scores()[metric.key], unified.scores()[metric.key]
    if before is None or after is None:
        raise DataError(f"{baseline.task}: the split has nothing labelled, so its {metric.key} cannot be compared")
    drawn = np.concatenate(
        [unified.resampled(counts) - baseline.resampled(counts) for counts in _draw(len(baseline), resamples, seed)]
    )
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        raise DataError(f"{baseline.task}: too little of the split is labelled for the interval of its {metric.key}")
    low, high = (float(bound) for bound in np.percentile(drawn, _INTERVAL))
    floor = -limit * before if relative else -limit
    diff = after - before
    # Gains: the worst and the best of the interval, in the direction in which more is better.
    worst, best = sorted((metric.sign * low, metric.sign * high))
    verdict: Verdict = "INCONCLUSIVE"
    reason = None
    if metric.higher_is_better and before == after == 0:
        reason = f"{metric.label} is 0 for both networks: there was nothing to lose"
    elif worst > floor + _ROUNDING:
        verdict = "PASS"
    elif best < floor - _ROUNDING:
        verdict = "FAIL"
    return Drop(
        task=baseline.task,
        metric=metric.key,
        baseline=before,
        unified=after,
        limit=limit,
        relative=relative,
        diff=diff,
        low=low,
        high=high,
        within_limit=metric.sign * diff > floor + _ROUNDING,
        verdict=verdict,
        reason=reason,
    )


def exit_code(drops: Iterable[Drop], *, complete: bool, strict: bool) -> int:
    """The exit code of a check: with `strict` 10 for any FAIL, else 11 for any INCONCLUSIVE; else 0.

    Args: complete: False where a task could not be compared, which is inconclusive.
    """
    verdicts = {drop.verdict for drop in drops}
    if strict and "FAIL" in verdicts:
        return EXIT_FAIL
    if strict and ("INCONCLUSIVE" in verdicts or not complete):
        return EXIT_INCONCLUSIVE
    return 0


def _draw(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Tables [R, n] of how often each image is drawn, `resamples` rows in all."""
    rng, share = np.random.default_rng(seed), np.full(images, 1 / images)
    rows = max(1, _CHUNK // images)
    for start in range(0, resamples, rows):
        yield rng.multinomial(images, share, size=min(rows, resamples - start))
