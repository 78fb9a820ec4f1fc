"""Did the unified network lose against the single-task one? A paired bootstrap over the images of a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onehead_cli.errors import DataError
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.task import get_task
from onehead_cli.wording import how_many

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

#: Exit codes of a strict check; 0 stands for PASS.
EXIT_FAIL, EXIT_INCONCLUSIVE = 10, 11

#: The 95 % interval, in percent of the resamples.
_INTERVAL = (2.5, 97.5)
#: 57 / 60 - 54 / 60 is a little under 0.05 in floats, and 3 images of 60 must not count as less than 5 %.
_ROUNDING = 1e-9
#: Largest table of resampled counts, in numbers of 8 bytes.
_CHUNK = 5_000_000
#: Of fewer images the resamples are all but the same.
_FEWEST = 5
#: Larger numbers of images are as good as none.
_MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class Drop:
    """How one task fared.

    metric: the task's main score; baseline, unified: its two values.
    limit: the largest drop that passes, as a share of the baseline where `relative` is set.
    diff: unified - baseline; low, high: its 95 % interval. Where less is better, a drop is a rise.
    within_limit: the drop itself is under the limit, whatever the interval says.
    verdict: PASS where the whole interval is above the limit, FAIL where all of it is below.
    reason: why nothing can be concluded, where the interval does not show it.
    images_to_decide: how many images such as these would end an INCONCLUSIVE verdict if `diff` stayed as it is, rounded
        up to two significant digits. Where `diff` is the true one, that many decide in half of all draws, and three
        times as many in nine of ten (fewer over seeds, whose part does not shrink). None where the verdict is decided,
        where there is a `reason`, and where 10 million images would not do, the drop being all but the limit.
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
    images_to_decide: int | None = None


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
    before, after = main_scores([baseline, unified])
    drawn = resampled_diffs([(baseline, unified)], resamples=resamples, seed=seed)
    low, high = (float(bound) for bound in np.percentile(drawn, _INTERVAL))
    return judge(
        baseline.task,
        images=len(baseline),
        baseline=before,
        unified=after,
        low=low,
        high=high,
        limit=limit,
        relative=relative,
    )


def main_scores(results: Sequence[Result]) -> list[float]:
    """The main score of each.

    Args:
        results: at least one, all of one task and on the same images.

    Raises:
        ValueError: results of different tasks or numbers of images.
        DataError: a split without anything to score.
    """
    first, key = results[0], get_task(results[0].task).metric.key
    scores = []
    for result in results:
        if result.task != first.task or len(result) != len(first):
            raise ValueError(
                f"cannot pair {first.task} on {len(first)} images with {result.task} on {len(result)} images"
            )
        score = result.scores()[key]
        if score is None:
            raise DataError(f"{first.task}: nothing in the split is labelled, so its {key} cannot be compared")
        scores.append(score)
    return scores


def resampled_diffs(pairs: Sequence[tuple[Result, Result]], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """The mean over the pairs of unified - baseline, float64 [R], per resample in which all of them can be scored.

    Args:
        pairs: (baseline, unified), at least one, all of one task and on the same images in the same order.
        resamples: how often the images are drawn, the same ones for all pairs.
        seed: of the draw.

    Raises:
        DataError: there are fewer than 2 such resamples.
    """
    first, _ = pairs[0]
    drawn: NDArray[np.float64] = np.concatenate(
        [
            np.mean([unified.resampled(counts) - baseline.resampled(counts) for baseline, unified in pairs], axis=0)
            for counts in _draw(len(first), resamples, seed)
        ]
    )
    finite: NDArray[np.float64] = drawn[np.isfinite(drawn)]
    if finite.size < 2:
        key = get_task(first.task).metric.key
        raise DataError(f"{first.task}: too little of the split is labelled for the interval of its {key}")
    return finite


def interval_of_score(result: Result, *, resamples: int, seed: int) -> tuple[float, float] | tuple[None, None]:
    """The 95 % percentile interval of a network's own main score; None where too little is labelled.

    Args: resamples, seed: as for `check_drop`, which draws the same images.
    """
    drawn = np.concatenate([result.resampled(counts) for counts in _draw(len(result), resamples, seed)])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return None, None
    low, high = (float(bound) for bound in np.percentile(drawn, _INTERVAL))
    return low, high


def judge(
    task: str,
    *,
    images: int,
    baseline: float,
    unified: float,
    low: float,
    high: float,
    limit: float,
    relative: bool,
    seeds_half_width: float = 0,
) -> Drop:
    """The verdict that an interval of unified - baseline gives.

    Args:
        images: of the split.
        baseline, unified: the scores, or their means over seeds.
        low, high: the interval.
        limit, relative: as for `check_drop`.
        seeds_half_width: the part of the interval's half-width that stays whatever the number of images. It and the
            images' part add in quadrature.
    """
    metric = get_task(task).metric
    floor = -limit * baseline if relative else -limit
    diff = unified - baseline
    # Gains: the score's own, and the worst and the best of the interval, in the direction in which more is better.
    gain = metric.sign * diff
    worst, best = sorted((metric.sign * low, metric.sign * high))
    distance = abs(gain - floor)
    verdict: Verdict = "INCONCLUSIVE"
    reason = images_to_decide = None
    if images < _FEWEST:
        reason = f"{how_many(images, 'image')} cannot say how much others would differ"
    elif metric.higher_is_better and baseline == unified == 0:
        reason = f"{metric.label} is 0 for both networks: there was nothing to lose"
    elif worst > floor + _ROUNDING:
        verdict = "PASS"
    elif best < floor - _ROUNDING:
        verdict = "FAIL"
    elif seeds_half_width > distance:
        reason = "more seeds are needed: these differ so much that no number of images would be enough"
    else:
        half_width = gain - worst if gain > floor else best - gain
        images_to_decide = _images_to_decide(images, half_width, distance, seeds_half_width)
    return Drop(
        task=task,
        metric=metric.key,
        baseline=baseline,
        unified=unified,
        limit=limit,
        relative=relative,
        diff=diff,
        low=low,
        high=high,
        within_limit=gain > floor + _ROUNDING,
        verdict=verdict,
        reason=reason,
        images_to_decide=images_to_decide,
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


def _images_to_decide(images: int, half_width: float, distance: float, seeds_half_width: float) -> int | None:
    """The number of images at which the interval just reaches the limit; see `Drop.images_to_decide`.

    The images' part of the half-width shrinks as 1 / sqrt(n), the seeds' part stays:
    n = images * (half_width^2 - seeds_half_width^2) / (distance^2 - seeds_half_width^2).

    Args:
        half_width: of the interval on the side of the limit, now.
        distance: of the difference from the limit.
    """
    room = distance**2 - seeds_half_width**2
    if room <= 0:
        return None
    needed = max(images + 1, images * (half_width**2 - seeds_half_width**2) / room)
    if needed > _MOST_IMAGES:
        return None
    unit = 10.0 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit - _ROUNDING) * int(unit)
