"""The sections of verdicts: targets met or missed, and the drop check of each seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from onehead_cli.registry import TASKS
from report.data import FULL, POOLED, UNIFIED, BySeed, Results, mean, shown
from report.text import SCORE_LABELS, Lines, listed, table_head

#: What the pooled mean of all seeds is to reach.
TARGETS = {"cls": 0.98, "seg": 0.60, "det": 0.15}


def targets(results: Results) -> Lines:
    lines = ["## Targets, on val and test pooled", "", "| target | reached | | seeds |", "|---|---|---|---|"]
    for task in TASKS:
        found = results.score(FULL, POOLED, UNIFIED, task)
        name = f"unified {SCORE_LABELS[task]} at least {TARGETS[task]:.2f}"
        lines.append(_target_row(name, found, TARGETS[task], wanted=results.wanted))
    leads = {
        "its baseline in {} at least 0": partial(results.difference, FULL, POOLED),
        "its long baseline in {} at least 0": partial(results.lead, FULL, POOLED, results.long_baseline),
        "the specialist in {} above 0": partial(results.lead, FULL, POOLED, results.specialist),
    }
    for text, read in leads.items():
        for task in TASKS:
            name = f"unified minus {text.format(SCORE_LABELS[task])}"
            row = _target_row(name, read(task), 0, "+.4f", above="above" in text, wanted=results.wanted)
            lines.append(row)
    return lines


def _target_row(
    name: str, found: BySeed, least: float, form: str = ".4f", *, above: bool = False, wanted: Sequence[int]
) -> str:
    centre = mean(found.values())
    if centre is None:
        return f"| {name} | – | not measured | none |"
    margin = round(centre - least, 9)
    met = margin > 0 if above else margin >= 0
    so_far = "" if set(wanted) <= found.keys() else " so far"
    verdict = f"met{so_far}, by {margin:.4f}" if met else f"**missed{so_far} by {-margin:.4f}**"
    return f"| {name} | {shown(found, form)} | {verdict} | {listed(sorted(found))} |"


def drops(results: Results) -> Lines:
    lines = [
        "## Drop check of each seed, full, pooled",
        "",
        "The difference, its 95 % interval from paired resamples of the images, and the verdict",
        "([how it is read](evaluation.md)):",
        f"PASS where the drop is at most {_drop_limit(results):g} of the score's whole scale, which says little of a",
        "score that is itself not far above that.",
        "",
        *table_head("seed"),
    ]
    for seed, document in results.finals[FULL].items():
        cells = []
        for task in TASKS:
            drop = document["evaluation"][POOLED]["drop"][task]
            if drop["diff"] is None:
                cells.append("–")
            else:
                cells.append(f"{drop['diff']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}] {drop['verdict']}")
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return lines


def _drop_limit(results: Results) -> float:
    return float(next(iter(results.finals[FULL].values()))["evaluation"][POOLED]["drop_limit"])
