"""The sections of scores: final tables, targets, the reference, conversions of labels, ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onehead_cli.types import MAIN_METRIC, TASKS, Task
from report.data import (
    BASELINE,
    FULL,
    PLAIN,
    POOLED,
    TEST,
    UNIFIED,
    VAL,
    BySeed,
    Document,
    Results,
    mean,
    minus,
    shown,
)
from report.text import SCORE_LABELS, Lines, listed, picture, table_head

SPECIALISTS = {Task.CLS: "linear classifier", Task.SEG: "LR-ASPP", Task.DET: "SSDLite"}
REPORT_LABELS = {POOLED: "val and test pooled", VAL: "val", TEST: "test"}
#: What the pooled mean of all seeds is to reach.
TARGETS = {Task.CLS: 0.98, Task.SEG: 0.60, Task.DET: 0.15}
#: What the reference publishes of its own test split.
REFERENCE = {
    "quick": {
        BASELINE: {Task.CLS: 0.8667, Task.SEG: 0.3984, Task.DET: 0.0039},
        UNIFIED: {Task.CLS: 0.8500, Task.SEG: 0.3873, Task.DET: 0.0448},
    },
    "long": {
        BASELINE: {Task.CLS: 0.9167, Task.SEG: 0.4618, Task.DET: 0.0331},
        UNIFIED: {Task.CLS: 0.9000, Task.SEG: 0.4155, Task.DET: 0.0551},
    },
}
#: The keys that turn the conversions of labels on.
CONVERSIONS = ("teacher.boxes_from_masks", "student.boxes_from_masks", "distill.gate_masks")
_CAPTION = (
    "the conversions on synthetic pictures. Boxes read out of true masks, dashed where doubtful and so ignored; and a "
    "map made by hand from a true mask and noise, standing for a teacher's, before and after the true boxes (drawn) "
    "strike the classes that cannot be there."
)


def final_tables(results: Results) -> Lines:
    lines = ["## Final scores"]
    for report in (POOLED, VAL, TEST):
        rows: list[tuple[str, Callable[[Task], BySeed], str]] = []
        for recipe in (FULL, PLAIN):
            if results.finals[recipe]:
                rows += [
                    (f"unified, {recipe}", _score_of(results, recipe, report, UNIFIED), ".4f"),
                    (f"baselines, {recipe}", _score_of(results, recipe, report, BASELINE), ".4f"),
                    (f"unified minus baselines, {recipe}", _difference_of(results, recipe, report), "+.4f"),
                ]
        rows += [
            ("specialists", lambda task, report=report: results.specialist(report, task), ".4f"),
            ("unified, full, minus specialists", lambda task, report=report: _lead(results, report, task), "+.4f"),
            (
                "ImageNet classifier, untouched",
                lambda task, report=report: results.imagenet(report) if task is Task.CLS else {},
                ".4f",
            ),
        ]
        lines += ["", f"### {REPORT_LABELS[report].capitalize()}", "", *table_head("", "seeds")]
        for name, read, form in rows:
            found = {task: read(task) for task in TASKS}
            # Where the tasks have different seeds, those of each; a task without any has a dash already.
            seeds = dict.fromkeys(listed(values) for values in found.values() if values)
            lines.append(f"| {name} | {_cells(found.__getitem__, form)} | {listed(seeds, ' / ') or 'none'} |")
        if report == POOLED:
            lines.append(f"| target | {' | '.join(f'{TARGETS[task]:.4f}' for task in TASKS)} | |")
    stages = next(iter(results.finals[FULL].values()))["config"]["model"].get("frozen_stages", 0)
    frozen = f" All their layers learn, where ours keep the first {stages} stages as they are." if stages else ""
    specialists = ", ".join(f"{name} ({task})" for task, name in SPECIALISTS.items())
    lines += [
        "",
        f"Specialists: {specialists}, on the same backbone, weights, pictures and epochs as the baselines, from the "
        f"labels of their own task alone.{frozen}",
        "",
        *_targets(results),
        "",
        *_drops(results),
    ]
    return lines


def _targets(results: Results) -> Lines:
    lines = ["### Targets, on val and test pooled", "", "| target | reached | | seeds |", "|---|---|---|---|"]
    for task in TASKS:
        found = results.score(FULL, POOLED, UNIFIED, task)
        lines.append(_target_row(f"unified {SCORE_LABELS[task]} at least {TARGETS[task]:.2f}", found, TARGETS[task]))
    for task in TASKS:
        found = results.difference(FULL, POOLED, task)
        lines.append(_target_row(f"unified minus its baseline in {SCORE_LABELS[task]} at least 0", found, 0, "+.4f"))
    for task in TASKS:
        found = _lead(results, POOLED, task)
        name = f"unified minus the specialist in {SCORE_LABELS[task]} above 0"
        lines.append(_target_row(name, found, 0, "+.4f", above=True))
    return lines


def _target_row(name: str, found: BySeed, least: float, form: str = ".4f", *, above: bool = False) -> str:
    centre = mean(found.values())
    if centre is None:
        return f"| {name} | – | not measured | none |"
    margin = round(centre - least, 9)
    met = margin > 0 if above else margin >= 0
    verdict = f"met, by {margin:.4f}" if met else f"**missed by {-margin:.4f}**"
    return f"| {name} | {shown(found, form)} | {verdict} | {listed(sorted(found))} |"


def _drops(results: Results) -> Lines:
    lines = [
        "### Drop check of each seed, full, pooled",
        "",
        "The difference, its 95 % interval from paired resamples of the pictures, and the verdict (README, evaluate).",
        "",
        *table_head("seed"),
    ]
    for seed, document in results.finals[FULL].items():
        cells = []
        for task in TASKS:
            drop = document["evaluation"][POOLED]["drop"][task.value]
            if drop["diff"] is None:
                cells.append("–")
            else:
                cells.append(f"{drop['diff']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}] {drop['verdict']}")
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return lines


def beside_the_reference(results: Results) -> Lines:
    lines = [
        "## Beside the reference, on test alone",
        "",
        "The reference's scores are those it publishes of its own test split. Its draw of the pictures and its",
        "settings are not these: a row is to be read against the other rows of the same system.",
        "",
        *table_head(""),
    ]
    for schedule, scores in REFERENCE.items():
        for who in (BASELINE, UNIFIED):
            lines.append(f"| reference, {schedule}, {who} | {' | '.join(f'{scores[who][t]:.4f}' for t in TASKS)} |")
        gaps = [f"{scores[UNIFIED][task] - scores[BASELINE][task]:+.4f}" for task in TASKS]
        lines.append(f"| reference, {schedule}, unified minus baseline | {' | '.join(gaps)} |")
    for who in (BASELINE, UNIFIED):
        lines.append(f"| onehead, full, {who} | {_cells(_score_of(results, FULL, TEST, who))} |")
    lines.append(f"| onehead, full, unified minus baseline | {_cells(_difference_of(results, FULL, TEST), '+.4f')} |")
    best = {task: max(scores[UNIFIED][task] for scores in REFERENCE.values()) for task in TASKS}
    over = {task: {s: v - best[task] for s, v in results.score(FULL, TEST, UNIFIED, task).items()} for task in TASKS}
    lines.append(f"| onehead, full, unified minus the reference's best unified | {_cells(over.__getitem__, '+.4f')} |")
    return lines


def conversions(results: Results, pictures: Path) -> Lines:
    lines = [
        "## Conversions of labels, with and without",
        "",
        "Boxes for masks and masks for boxes: detection also learns from boxes read out of the segmentation pictures'",
        "masks, and on detection pictures the true boxes strike classes from the segmentation teacher's mask. The",
        "detection baseline gets the first too (`teacher.boxes_from_masks`); the second is about distillation.",
    ]
    config = next(iter(results.finals[FULL].values()))["config"]
    on = [key for key in CONVERSIONS if config[key.split(".")[0]][key.split(".")[1]]]
    lines += [
        "",
        f"On in the full recipe: {', '.join(f'`{key}`' for key in on) or 'none, so both recipes are the same'}.",
    ]
    if not results.finals[PLAIN]:
        return [
            *lines,
            "",
            "No seed of the plain recipe is finished yet.",
            *picture(pictures, "conversions.png", _CAPTION),
        ]
    for report in (POOLED, VAL, TEST):
        lines += [
            "",
            f"### {REPORT_LABELS[report].capitalize()}",
            "",
            "| network | score | with | without | with minus without | seeds |",
            "|---|---|---|---|---|---|",
        ]
        for who in (UNIFIED, BASELINE):
            for task in TASKS:
                given, without = (results.score(recipe, report, who, task) for recipe in (FULL, PLAIN))
                gain = minus(given, without)
                with_, bare = ({seed: values[seed] for seed in gain} for values in (given, without))
                lines.append(
                    f"| {who} | {SCORE_LABELS[task]} | {shown(with_)} | {shown(bare)} | {shown(gain, '+.4f')} "
                    f"| {listed(sorted(gain)) or 'none'} |"
                )
    shared = [
        task.value
        for task in TASKS
        if all(doc["networks"][task.value].get("copied_from") for doc in results.finals[PLAIN].values())
    ]
    if shared:
        lines += [
            "",
            f"The baselines of {' and '.join(shared)} are the same networks in both: no conversion reaches them.",
        ]
    return lines + picture(pictures, "conversions.png", _CAPTION)


def ablation(results: Results) -> Lines:
    lines = ["## Ablation, on val", ""]
    if not results.comparison:
        return [*lines, "No ablation is finished yet."]
    lines += [
        "By `benchmarks/ablation.py`. Difference: paired by seed, against the recipe named, of the same network; minus",
        "teacher: against the single-task network of the same settings.",
        "",
        "| network | recipe | its settings beside the base's | score | mean | against | difference | minus teacher "
        "| seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results.comparison:
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
    lines = ["## Tried, and did not pay", ""]
    means = {(row["network"], row["metric"], row["name"]): row["mean"] for row in results.comparison}
    tried = [row for row in results.comparison if row["difference"] is not None]
    lost = [row for row in tried if row["difference"] <= 0]
    if not lost:
        return [*lines, "Nothing: every row of the ablation gained." if tried else "No ablation is finished yet."]
    lines += [f"Differences above that are not positive, {len(lost)} of {len(tried)}:", ""]
    for row in sorted(lost, key=lambda row: row["difference"]):
        before = means[row["network"], row["metric"], row["against"]]
        change = _with_deviation(row["difference"], row["difference_deviation"], "+.4f")
        lines.append(
            f"- {row['network']}, {row['name']}: {change} {_metric_label(row)} "
            f"({row['mean']:.4f}, {row['against']} {before:.4f}; seeds {listed(row['seeds'])})"
        )
    return lines


def _score_of(results: Results, recipe: str, report: str, who: str) -> Callable[[Task], BySeed]:
    return lambda task: results.score(recipe, report, who, task)


def _difference_of(results: Results, recipe: str, report: str) -> Callable[[Task], BySeed]:
    return lambda task: results.difference(recipe, report, task)


def _lead(results: Results, report: str, task: Task) -> BySeed:
    return minus(results.score(FULL, report, UNIFIED, task), results.specialist(report, task))


def _cells(read: Callable[[Task], BySeed], form: str = ".4f") -> str:
    return " | ".join(shown(read(task), form) for task in TASKS)


def _changes(results: Results, row: Document) -> Mapping[str, Any]:
    for run in results.runs:
        if (run["network"], run["name"]) == (row["network"], row["name"]):
            return dict(run["set"])
    return {}


def _metric_label(row: Document) -> str:
    return next(SCORE_LABELS[task] for task in TASKS if MAIN_METRIC[task] == row["metric"])


def _with_deviation(value: float | None, spread: float | None, form: str = ".4f") -> str:
    if value is None:
        return "–"
    return format(value, form) + (f" ± {spread:.4f}" if spread is not None else "")
