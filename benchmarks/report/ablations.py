"""The sections of the ablation: what each ingredient is worth on val, and which did not pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common import FREQUENT

from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task
from report.data import Document, Results
from report.text import SCORE_LABELS, Lines, listed

#: Of what detection is judged by beside its main score.
_LABELS = {"map_frequent": f"mAP {FREQUENT}+", "ap_person": "AP of person", "map50": "AP50"}


def table(results: Results) -> Lines:
    """One table per plan."""
    lines = ["## Ablation, on val"]
    for plan in dict.fromkeys(map(_plan, results.comparison)):
        lines += ["", *_table_of(results, plan)]
    return lines if results.comparison else [*lines, "", "No ablation is finished yet."]


def _table_of(results: Results, plan: str) -> Lines:
    lines = [
        f"By `benchmarks/ablation.py benchmarks/{plan}`. Network: cls, seg and det are networks of one task, all",
        "the unified one. Difference: paired by seed, against the recipe named, of the same network; minus teacher:",
        f"against the network of that task alone with the same settings. {_length_of_base(results, plan)}",
        f"mAP {FREQUENT}+: over the classes with {FREQUENT} boxes and more.",
        "",
        "| network | recipe | its settings beside the base's | score | mean | against | difference | minus teacher "
        "| seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in results.comparison if _plan(row) == plan):
        changes = _changes(results, row)
        differs = ", ".join(f"`{key}: {value}`" for key, value in changes.items()) or "–"
        lines.append(
            f"| {row['network']} | {row['name']} | {differs} | {_metric_label(row)} "
            f"| {_with_deviation(row['mean'], row['deviation'])} | {row['against'] or '–'} "
            f"| {_with_deviation(row['difference'], row['difference_deviation'], '+.4f')} "
            f"| {_with_deviation(row['minus_teacher'], None, '+.4f')} | {listed(row['seeds'])} |"
        )
    return lines


def did_not_pay(results: Results) -> Lines:
    """The ingredients whose largest loss on a task is no smaller than their largest gain on another."""
    lines = ["## Tried, and did not pay", ""]
    tried: dict[tuple[str, str, str], list[Document]] = {}
    for row in results.comparison:
        if row["difference"] is not None:
            tried.setdefault((_plan(row), row["network"], row["name"]), []).append(row)
    lost = {key: rows for key, rows in tried.items() if max(_worth(rows)) <= -min(_worth(rows))}
    if not lost:
        return [*lines, "Nothing: every row of the ablation paid." if tried else "No ablation is finished yet."]
    lines += [
        f"Of {len(tried)} recipes above these {len(lost)} gained on no task more than they lost on another. Where a",
        "recipe takes an ingredient away, that ingredient is meant, and its worth is the loss without it.",
        "",
    ]
    for (_, network, name), rows in lost.items():
        worth = ", ".join(f"{value:+.4f} {_metric_label(row)}" for row, value in zip(rows, _worth(rows), strict=True))
        what = f"what '{name}' takes away" if rows[0]["removes"] else name
        note = f"; {rows[0]['note']}" if rows[0]["note"] else ""
        lines.append(
            f"- {network}, {what}: worth {worth} beside {rows[0]['against']} (seeds {listed(rows[0]['seeds'])}){note}"
        )
    return lines


def _worth(rows: Sequence[Document]) -> list[float]:
    """What an ingredient adds to each score."""
    return [-row["difference"] if row["removes"] else row["difference"] for row in rows]


def _plan(document: Document) -> str:
    """The file of the plan that a run or a row belongs to; 0.1.0 had one plan and did not name it."""
    return str(document.get("plan", "ablation.yaml"))


def _length_of_base(results: Results, plan: str) -> str:
    for run in results.runs:
        if run["name"] == "base" and _plan(run) == plan:
            config, base = run["config"], run.get("base", "ablation-base.yaml")
            return (
                f"The base (`benchmarks/{base}`) is short: {config['teacher']['epochs']} epochs for a "
                f"network of one task, {config['student']['epochs']} for the unified one."
            )
    return ""


def _changes(results: Results, row: Document) -> Mapping[str, Any]:
    for run in results.runs:
        if (_plan(run), run["network"], run["name"]) == (_plan(row), row["network"], row["name"]):
            return dict(run["set"])
    return {}


def _metric_label(row: Document) -> str:
    labels = {get_task(task).metric.key: SCORE_LABELS[task] for task in TASKS} | _LABELS
    return labels[row["metric"]]


def _with_deviation(value: float | None, spread: float | None, form: str = ".4f") -> str:
    if value is None:
        return "–"
    return format(value, form) + (f" ± {spread:.4f}" if spread is not None else "")
