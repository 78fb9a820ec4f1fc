"""The sections of verdicts: targets met or missed, and the drop check of each seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from ablation import BASE

from onehead_cli.checkpoint.networks import STUDENT
from onehead_cli.evaluation.drop_check import judge
from onehead_cli.evaluation.over_seeds import half_width_of_seeds
from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task
from report.data import BASELINE, FULL, POOLED, TEST, UNIFIED, BySeed, Document, Results, mean, minus, shown
from report.text import SCORE_LABELS, Lines, listed, table_head

_PERSON = "person"
#: The config of the recipe in which classification starts from nothing.
_WITHOUT_CLOSED_FORM = "without-closed-form.yaml"


@dataclass(frozen=True)
class Goal:
    """What the mean over the seeds is to reach: at least the floor, and better the target; None where none was set."""

    name: str
    task: str
    read: Callable[[Results], BySeed]
    floor: float | None
    target: float | None = None
    of_one_seed: bool = False


def _score(report: str, task: str) -> Callable[[Results], BySeed]:
    return lambda results: results.score(FULL, report, UNIFIED, task)


def _frequent(report: str) -> Callable[[Results], BySeed]:
    return lambda results: results.frequent(FULL, UNIFIED, report)


def _person_lead(results: Results) -> BySeed:
    return minus(results.class_ap(_PERSON), results.class_ap_specialist(_PERSON))


def _shown(what: str) -> Callable[[Results], BySeed]:
    return lambda results: results.shown_boxes(TEST, what)


def _lead_over_baselines(task: str) -> Callable[[Results], BySeed]:
    """Over the better of the two lengths, where a seed has both."""

    def read(results: Results) -> BySeed:
        long = results.lead(FULL, POOLED, results.long_baseline, task)
        return {s: min(gap, long.get(s, gap)) for s, gap in results.difference(FULL, POOLED, task).items()}

    return read


def _lead_over_specialist(task: str) -> Callable[[Results], BySeed]:
    return lambda results: results.lead(FULL, POOLED, results.specialist, task)


def _ssdlite(results: Results) -> BySeed:
    return results.specialist(TEST, "det")


def _frequent_lead(results: Results) -> BySeed:
    return minus(results.frequent(FULL, UNIFIED, POOLED), results.frequent_specialist(POOLED))


def _without_closed_form(results: Results) -> BySeed:
    docs = results.others.get(_WITHOUT_CLOSED_FORM, {})
    return {seed: doc["evaluation"][POOLED][UNIFIED]["top1"] for seed, doc in docs.items()}


GOALS = (
    Goal("Top-1, pooled", "cls", _score(POOLED, "cls"), 0.98, 1.0),
    Goal("Top-1, pooled, without the closed form, one seed", "cls", _without_closed_form, 0.95, of_one_seed=True),
    Goal("mIoU, pooled", "seg", _score(POOLED, "seg"), 0.53, 0.6),
    Goal("mIoU, test", "seg", _score(TEST, "seg"), 0.465),
    Goal("mAP, pooled", "det", _score(POOLED, "det"), 0.105, 0.15),
    Goal("mAP of classes with 5 boxes and more, pooled", "det", _frequent(POOLED), 0.075, 0.12),
    Goal("mAP of classes with 5 boxes and more, test", "det", _frequent(TEST), 0.055),
    Goal("AP of person, pooled", "det", lambda results: results.class_ap(_PERSON), 0.085),
    Goal("AP of person minus SSDLite's", "det", _person_lead, None, 0.0, of_one_seed=True),
    Goal("precision of the boxes shown, test", "det", _shown("precision"), 0.45, 0.6),
    Goal("recall of the boxes shown, test", "det", _shown("recall"), 0.25, 0.35),
    *(Goal(f"{SCORE_LABELS[t]} minus its baselines'", t, _lead_over_baselines(t), -0.01, 0.0) for t in TASKS),
    *(
        Goal(f"{SCORE_LABELS[t]} minus the specialist's", t, _lead_over_specialist(t), 0.0, of_one_seed=True)
        for t in TASKS
    ),
    Goal("mAP of classes with 5 boxes and more minus the specialist's", "det", _frequent_lead, 0.0, of_one_seed=True),
    Goal("mAP of SSDLite itself, test, to count as a baseline", "det", _ssdlite, 0.07, of_one_seed=True),
)


def goals(results: Results) -> Lines:
    lines = [
        "## Floors and targets",
        "",
        "Of the unified network, full. Floors and targets were set from what 0.1.0 reached, before this recipe was",
        "trained. Its baselines: the better of the two lengths, where a seed has both.",
        "",
        "| score | reached | floor | target | seeds |",
        "|---|---|---|---|---|",
    ]
    missed: dict[str, None] = {}
    for goal in GOALS:
        found = goal.read(results)
        centre = mean(found.values())
        if centre is not None and any(least is not None and centre < least for least in (goal.floor, goal.target)):
            missed[goal.task] = None
        form = "+.4f" if " minus " in goal.name else ".4f"
        verdict = partial(_verdict, centre, final=goal.of_one_seed or set(results.wanted) <= found.keys())
        lines.append(
            f"| {goal.name} | {'–' if centre is None else shown(found, form)} | {verdict(goal.floor)} "
            f"| {verdict(goal.target)} | {listed(sorted(found)) or 'none'} |"
        )
    return lines + _tried(results, missed)


def _tried(results: Results, tasks: Iterable[str]) -> Lines:
    """The ablations of what was missed."""
    labels = {task: SCORE_LABELS[task] for task in tasks} | ({STUDENT: "The unified network"} if tasks else {})
    names = {t: dict.fromkeys(row["name"] for row in results.comparison if row["network"] == t) for t in labels}
    tried = {network: [name for name in names[network] if name != BASE] for network in names}
    found = [f"- {labels[network]}: {listed(those)}." for network, those in tried.items() if those]
    if not found:
        return []
    return [
        "",
        "Tried for what was missed, in networks of one task and in the unified one ([figures](#ablation-on-val)); what",
        "else was tried with the unified network is in [Recipes](recipes.md#ingredients):",
        "",
        *found,
    ]


def _verdict(reached: float | None, least: float | None, *, final: bool) -> str:
    if least is None:
        return "–"
    if reached is None:
        return f"{least:g}: not measured"
    margin = round(reached - least, 9)
    so_far = "" if final else " so far"
    return f"{least:g}: met{so_far}" if margin >= 0 else f"{least:g}: **missed{so_far} by {-margin:.4f}**"


def drops(results: Results) -> Lines:
    documents = results.finals[FULL]
    lines = [
        "## Drop check, full, pooled",
        "",
        "The difference, its 95 % interval from paired resamples of the images, and the verdict",
        "([how it is read](evaluation.md)):",
        f"PASS where the whole interval lies above -{_drop_limit(results):g}, on a scale of 0 to 1. That says little",
        "of a score that is itself not far above the limit.",
    ]
    if len(documents) > 1:
        lines += [
            "",
            "The verdict that counts is the one over the seeds. Its interval adds, in quadrature, the spread of the",
            "seeds (Student's t) and the mean half-width of their intervals, as wide as the images' part can be.",
        ]
    lines += ["", *table_head("seed")]
    for seed, document in documents.items():
        cells = []
        for task in TASKS:
            drop = document["evaluation"][POOLED]["drop"][task]
            if drop["diff"] is None:
                cells.append("–")
            else:
                cells.append(f"{drop['diff']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}] {drop['verdict']}")
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    if len(documents) > 1:
        cells = [_over_seeds(task, [doc["evaluation"][POOLED] for doc in documents.values()]) for task in TASKS]
        lines.append(f"| over {len(documents)} seeds | {' | '.join(cells)} |")
    return lines


def _over_seeds(task: str, evaluations: Sequence[Document]) -> str:
    """The mean difference, its interval and the one verdict, as in `evaluation.over_seeds`.

    There the images' part is the deviation of the mean over resamples that all seeds share; here its upper bound, the
    mean of the seeds' own.
    """
    drops = [evaluation["drop"][task] for evaluation in evaluations]
    if any(drop["diff"] is None for drop in drops):
        return "–"
    metric, diffs = get_task(task).metric.key, [drop["diff"] for drop in drops]
    seeds_half = half_width_of_seeds(diffs)
    half = math.hypot(seeds_half, statistics.fmean((drop["high"] - drop["low"]) / 2 for drop in drops))
    baseline, unified = (statistics.fmean(each[who][metric] for each in evaluations) for who in (BASELINE, UNIFIED))
    found = judge(
        task,
        images=evaluations[0]["pictures"][task],
        baseline=baseline,
        unified=unified,
        low=unified - baseline - half,
        high=unified - baseline + half,
        limit=evaluations[0]["drop_limit"],
        relative=False,
        seeds_half_width=seeds_half,
    )
    return f"{found.diff:+.4f} [{found.low:+.4f}, {found.high:+.4f}] {found.verdict}"


def _drop_limit(results: Results) -> float:
    return float(next(iter(results.finals[FULL].values()))["evaluation"][POOLED]["drop_limit"])
