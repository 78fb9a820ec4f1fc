"""The sections of the ablation: the scores of each recipe on val, and what is decided of each ingredient."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation import read_plan
from common import FREQUENT, FREQUENT_MAP

from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task
from report.data import Document, Results
from report.text import SCORE_LABELS, Lines, listed

#: Of what detection is judged by beside its main score.
_LABELS = {FREQUENT_MAP: f"mAP {FREQUENT}+", "ap_person": "AP of person", "map50": "AP50"}

_PLANS = Path(__file__).parent.parent
#: The rule of `outcome`: seeds, mean rise, and mean fall of another task.
_FEWEST_SEEDS, _PAYS, _FALLS = 2, 0.01, 0.005


def table(results: Results) -> Lines:
    """One table per plan."""
    lines = ["## Ablation, on val"]
    for plan in dict.fromkeys(map(_plan, results.comparison)):
        lines += ["", *_table_of(results, plan)]
    return lines if results.comparison else [*lines, "", "No ablation is finished yet."]


def _table_of(results: Results, plan: str) -> Lines:
    rows = [row for row in results.comparison if _plan(row) == plan]
    student = any(row["network"] == "all" for row in rows)
    networks = "`cls`, `seg` and `det` are networks of one task" + (", `all` is the unified one" if student else "")
    lines = [
        f"By `benchmarks/ablation.py benchmarks/{plan}`. {networks}. Difference: paired by seed,",
        "against the recipe named, of the same network."
        + (" Minus teacher: against the network of that task alone with the same settings." if student else "")
        + f" {_what_base_is(results, plan, student=student)}",
        f"mAP {FREQUENT}+: over the classes with {FREQUENT} boxes and more.",
        "",
    ]
    heads = ["network", "recipe", "its settings beside the base's", "against", "score", "mean", "difference"]
    heads += ["minus teacher", "seeds"] if student else ["seeds"]
    lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for before, row in zip([None, *rows], rows, strict=False):
        recipe = _recipe_cells(results, row)
        if before and _recipe(before) == _recipe(row):
            recipe = "| | | | " if before["against"] == row["against"] else f"| | | | {row['against']} "
        over = f"| {_with_deviation(row['minus_teacher'], None, '+.4f')} " if student else ""
        lines.append(
            f"{recipe}| {_metric_label(row)} | {_with_deviation(row['mean'], row['deviation'])} "
            f"| {_with_deviation(row['difference'], row['difference_deviation'], '+.4f')} {over}"
            f"| {listed(row['seeds'])} |"
        )
    found = {(row["network"], row["name"]) for row in rows}
    planned = [(recipe.network, recipe.name) for recipe in read_plan(_PLANS / plan).recipes]
    if not_run := [f"{network} {name}" for network, name in planned if (network, name) not in found]:
        lines += ["", f"Planned and not run: {listed(not_run)}."]
    return lines


def outcomes(results: Results) -> Lines:
    """What was decided of each ingredient."""
    lines = ["## What each ingredient is worth", ""]
    tried: dict[tuple[str, str, str, str], list[Document]] = {}
    for row in results.comparison:
        if row["difference"] is not None:
            tried.setdefault((*_recipe(row), row["against"]), []).append(row)
    if not tried:
        return [*lines, "No ablation is finished yet."]
    lines += [
        f"It pays where all seeds, of at least {_FEWEST_SEEDS}, rise, by a mean of {_PAYS:g} or more in Top-1, mIoU or",
        f"mAP {FREQUENT}+ (mAP where that was not kept), and no other of these falls by more than {_FALLS:g}. It is",
        "open where one seed rose and no other was trained. In networks of one task, what an ingredient does to the",
        "other tasks is not measured. Where a recipe takes an ingredient away, that ingredient is meant, and its worth",
        "is the loss without it.",
        "",
        "| network | ingredient | beside | worth | seeds | outcome |",
        "|---|---|---|---|---|---|",
    ]
    for (_, network, name, against), rows in tried.items():
        worth = ", ".join(f"{value:+.4f} {_metric_label(row)}" for row, value in zip(rows, _worth(rows), strict=True))
        what = f"what '{name}' takes away" if rows[0]["removes"] else name
        note = f"; {rows[0]['note']}" if rows[0]["note"] else ""
        seeds = listed(sorted({seed for row in rows for seed in _gains(row)}))
        lines.append(f"| {network} | {what} | {against} | {worth} | {seeds} | {outcome(rows)}{note} |")
    return lines


def outcome(rows: Sequence[Document]) -> str:
    """`pays`, `does not pay` or `open`, of the rows of one recipe in the comparison."""
    by_metric = {row["metric"]: list(_gains(row).values()) for row in rows}
    detected = FREQUENT_MAP if FREQUENT_MAP in by_metric else "map"
    judged = [gains for metric, gains in by_metric.items() if metric in ("top1", "miou", detected)]
    rising = [gains for gains in judged if min(gains) > 0]
    if not rising or any(statistics.fmean(gains) < -_FALLS for gains in judged):
        return "does not pay"
    if any(len(gains) < _FEWEST_SEEDS for gains in judged):
        return "open"
    return "pays" if any(statistics.fmean(gains) >= _PAYS for gains in rising) else "does not pay"


def _gains(row: Document) -> dict[int, float]:
    """What an ingredient adds to a score, by seed; 0.1.0, with one seed, kept the mean alone."""
    gains = row.get("gains", {row["seeds"][0]: row["difference"]})
    return {int(seed): -gain if row["removes"] else gain for seed, gain in gains.items()}


def _worth(rows: Sequence[Document]) -> list[float]:
    """What an ingredient adds to each score."""
    return [statistics.fmean(_gains(row).values()) for row in rows]


def _recipe(row: Document) -> tuple[str, str, str]:
    return _plan(row), row["network"], row["name"]


def _recipe_cells(results: Results, row: Document) -> str:
    changes = _changes(results, row)
    differs = ", ".join(f"`{key}: {_yaml(value)}`" for key, value in changes.items()) or "–"
    return f"| {row['network']} | {row['name']} | {differs} | {row['against'] or '–'} "


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plan(document: Document) -> str:
    """The file of the plan that a run or a row belongs to; 0.1.0 had one plan and did not name it."""
    return str(document.get("plan", "ablation.yaml"))


def _what_base_is(results: Results, plan: str, *, student: bool) -> str:
    for run in results.runs:
        if run["name"] == "base" and _plan(run) == plan:
            config, base = run["config"], read_plan(_PLANS / plan).base.resolve().relative_to(_PLANS.resolve().parent)
            unified = f", {config['student']['epochs']} for the unified one" if student else ""
            return (
                f"The base (`{base.as_posix()}`): {config['data']['image_size']} px, "
                f"{config['model']['frozen_stages']} frozen stages, {config['teacher']['epochs']} epochs for a network "
                f"of one task{unified}."
            )
    return ""


def _changes(results: Results, row: Document) -> Mapping[str, Any]:
    for run in results.runs:
        if _recipe(run) == _recipe(row):
            return dict(run["set"])
    return {}


def _metric_label(row: Document) -> str:
    labels = {get_task(task).metric.key: SCORE_LABELS[task] for task in TASKS} | _LABELS
    return labels[row["metric"]]


def _with_deviation(value: float | None, spread: float | None, form: str = ".4f") -> str:
    if value is None:
        return "–"
    return format(value, form) + (f" ± {spread:.4f}" if spread is not None else "")
