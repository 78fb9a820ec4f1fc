"""The sections of scores: final tables, the reference, conversions of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from common import FREQUENT, frequent_map

from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task
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
    minus,
    shown,
)
from report.text import SCORE_LABELS, Lines, listed, picture, table_head, teacher_epochs

SPECIALISTS = {"cls": "linear classifier", "seg": "LR-ASPP", "det": "SSDLite"}
REPORT_LABELS = {POOLED: "val and test pooled", VAL: "val", TEST: "test"}
#: What the reference publishes of its own test split.
REFERENCE = {
    "quick": {
        BASELINE: {"cls": 0.8667, "seg": 0.3984, "det": 0.0039},
        UNIFIED: {"cls": 0.8500, "seg": 0.3873, "det": 0.0448},
    },
    "long": {
        BASELINE: {"cls": 0.9167, "seg": 0.4618, "det": 0.0331},
        UNIFIED: {"cls": 0.9000, "seg": 0.4155, "det": 0.0551},
    },
}
#: The keys that turn the conversions of labels on.
CONVERSIONS = ("teacher.boxes_from_masks", "student.boxes_from_masks")
_CONVERSION = (
    "Boxes for masks: detection also learns from boxes read out of the segmentation images' masks, and its baseline",
    "does so too (`teacher.boxes_from_masks`).",
)
_CAPTION = "the conversion on synthetic images: boxes read out of true masks, dashed where doubtful and so ignored."
#: The same in 0.1.0, which had one more: masks for boxes, off in both recipes.
_CONVERSIONS_0_1_0 = (
    "Boxes for masks and masks for boxes: detection also learns from boxes read out of the segmentation images'",
    "masks, and on detection images the true boxes strike classes from the segmentation teacher's mask. The",
    "detection baseline gets the first too (`teacher.boxes_from_masks`); the second is about distillation.",
)
_CAPTION_0_1_0 = (
    "the conversions on synthetic images. Boxes read out of true masks, dashed where doubtful and so ignored; and a "
    "map made by hand from a true mask and noise, standing for a teacher's, before and after the true boxes (drawn) "
    "strike the classes that cannot be there."
)


def final_tables(results: Results) -> Lines:
    lines = ["## Final scores"]
    for report in (POOLED, VAL, TEST):
        rows: list[tuple[str, Callable[[str], BySeed], str]] = []
        for recipe in (FULL, PLAIN):
            if results.finals[recipe]:
                rows += [
                    (f"unified, {recipe}", _score_of(results, recipe, report, UNIFIED), ".4f"),
                    (f"baselines, {recipe}", _score_of(results, recipe, report, BASELINE), ".4f"),
                    (f"unified minus baselines, {recipe}", _difference_of(results, recipe, report), "+.4f"),
                ]
        rows += [
            ("long baselines, full", lambda task, report=report: results.long_baseline(report, task), ".4f"),
            ("unified minus long baselines, full", partial(results.lead, FULL, report, results.long_baseline), "+.4f"),
            ("specialists", lambda task, report=report: results.specialist(report, task), ".4f"),
            ("unified, full, minus specialists", partial(results.lead, FULL, report, results.specialist), "+.4f"),
        ]
        if results.finals[PLAIN]:
            rows.append(
                ("unified, plain, minus specialists", partial(results.lead, PLAIN, report, results.specialist), "+.4f")
            )
        rows += [
            (
                "ImageNet classifier, untouched",
                lambda task, report=report: results.imagenet(report) if task == "cls" else {},
                ".4f",
            ),
        ]
        lines += ["", f"### {REPORT_LABELS[report].capitalize()}", "", *table_head("", "seeds")]
        for name, read, form in rows:
            found = {task: read(task) for task in TASKS}
            if not any(found.values()):
                continue  # not measured, or of no seed in common
            # Where the tasks have different seeds, those of each; a task without any has a dash already.
            seeds = dict.fromkeys(listed(values) for values in found.values() if values)
            lines.append(f"| {name} | {_cells(found.__getitem__, form)} | {listed(seeds, ' / ')} |")
    return [
        *lines,
        "",
        *_rows_explained(results),
        "",
        *_frequent(results),
        *_intervals(results),
        *_on_train(results),
        *_others(results),
    ]


def _rows_explained(results: Results) -> Lines:
    """What the rows of the final tables are, and what a reader must know before believing them."""
    config = next(iter(results.finals[FULL].values()))["config"]
    teacher, student = teacher_epochs(config), config["student"]["epochs"]
    stages = config["model"].get("frozen_stages", 0)
    frozen = f" All their layers learn, where ours keep the first {stages} stages as they are." if stages else ""
    specialists = ", ".join(f"{name} ({task})" for task, name in SPECIALISTS.items())
    start = (
        f"The student starts from the mean of its teachers' weights: it has learned for their {teacher} and for "
        f"{student} of its own. "
        if config["student"].get("from_teachers")
        else ""
    )
    long = any(results.long_baselines.values())
    lines = [
        "- Unified: the student, one network for the three tasks. Baselines: its three teachers, one network per task, "
        f"{teacher} each. {start}".rstrip()
        + (f" Long baselines: the same as the baselines, for {teacher_epochs(config, student)}." if long else ""),
    ]
    if any(results.specialists.values()):
        lines.append(
            f"- Specialists: {specialists}, {_how_specialists_learn(results)}, from the "
            f"labels of their own task alone: no boxes from masks, no classifier of ImageNet.{frozen} Full has the "
            "conversions of labels, so that plain is the row to hold against them like for like."
        )
    lines.append("- Pooled, a score is computed once over the images of both splits; it need not lie between theirs.")
    if config["model"].get("imagenet_classes"):
        lines.append(
            "- Classification starts as the backbone's own ImageNet classifier, written into the network in closed "
            "form: the untouched classifier of the tables is what it begins with."
        )
    if results.imagenet(POOLED):
        lines.append(
            "- Imagenette is a part of ImageNet: the backbone's weights have most likely learned from these very "
            "images, those of val and test too. Top-1 is high for that reason, and the untouched classifier shows "
            "what no training at all reaches."
        )
    return lines


def _how_specialists_learn(results: Results) -> str:
    """As their papers do; 0.1.0's as our teachers do."""
    learned = {
        task: doc["training"] for task in TASKS for doc in results.specialists[task].values() if "training" in doc
    }
    if not learned:
        return "on the same backbone, weights, images and epochs as the baselines"
    ways = "; ".join(f"{task} {way['epochs']} epochs, {way['views']}" for task, way in learned.items())
    return f"on the same backbone, weights, images and size as the baselines, trained as their papers do ({ways})"


def _frequent(results: Results) -> Lines:
    """mAP without the classes of a box or two."""
    finals = [(recipe, who) for recipe in (FULL, PLAIN) for who in (UNIFIED, BASELINE) if results.finals[recipe]]
    rows: list[tuple[str, Callable[[str], BySeed]]] = [
        (f"{who if who == UNIFIED else 'baseline'}, {recipe}", partial(results.frequent, recipe, who))
        for recipe, who in finals
    ]
    if results.long_baselines["det"]:
        rows.append(("long baseline, full", results.frequent_long_baseline))
    if results.specialists["det"]:
        rows.append(("specialist", results.frequent_specialist))
    first = next(iter(results.finals[FULL].values()))["evaluation"]
    counts = {report: [row["count"] for row in first[report]["per_class"]["det"][UNIFIED]] for report in REPORT_LABELS}
    heads = [
        f"{REPORT_LABELS[report]} ({sum(count >= FREQUENT for count in found)} of {len(found)} classes)"
        for report, found in counts.items()
    ]
    lines = [
        f"### mAP of the classes with {FREQUENT} boxes and more",
        "",
        "A class counts as much with one box as with hundreds, and by that one box its AP can change from 0 to 1.",
        "Without such classes:",
        "",
        f"| | {' | '.join(heads)} | seeds |",
        "|---|---|---|---|---|",
    ]
    for name, read in rows:
        values = [read(report) for report in REPORT_LABELS]
        seeds = listed(next((found for found in values if found), {}))
        lines.append(f"| {name} | {' | '.join(shown(found) for found in values)} | {seeds or 'none'} |")
    most = max(results.per_class(POOLED, UNIFIED, "det")[0], key=lambda row: row["count"])
    ours, theirs = (
        [row["ap"] for rows in tables for row in rows if row["name"] == most["name"] and row["ap"] is not None]
        for tables in (
            results.per_class(POOLED, UNIFIED, "det"),
            [doc["per_class"].get(POOLED, []) for doc in results.specialists["det"].values()],
        )
    )
    specialist = f", {shown(theirs)} of {SPECIALISTS['det']}" if theirs else ""
    lines += [
        "",
        f"The class with the most boxes, {most['name']} ({most['count']} pooled): AP {shown(ours)} of the unified "
        f"network{specialist}.",
    ]
    return lines


def _intervals(results: Results) -> Lines:
    documents = {seed: doc["evaluation"][POOLED] for seed, doc in results.finals[FULL].items()}
    if not all("intervals" in each for each in documents.values()):
        return []
    lines = [
        "",
        "### The unified network's scores with their intervals, val and test pooled",
        "",
        "95 % of the scores of resampled images lie between the two figures; the score itself need not lie in their",
        "middle.",
        "",
        *table_head("seed"),
    ]
    for seed, each in documents.items():
        cells = []
        for task in TASKS:
            low, high = each["intervals"][task]
            score = each[UNIFIED][get_task(task).metric.key]
            cells.append("–" if low is None else f"{score:.4f} [{low:.4f}, {high:.4f}]")
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return lines


def _on_train(results: Results) -> Lines:
    reads = {who: partial(results.on_train, who) for who in (UNIFIED, BASELINE)}
    if not all(read(task) for read in reads.values() for task in TASKS):
        return []
    lines = ["", "### On the images that they learned from", "", "Whole and unchanged, as val and test are read.", ""]
    lines += table_head("")
    return lines + [f"| {who}, full | {_cells(read)} |" for who, read in reads.items()]


def _others(results: Results) -> Lines:
    """What other configs than the page's reach: their full recipe."""
    if not results.others:
        return []
    lines = ["", "### Other configs, val and test pooled", "", *table_head("", f"mAP {FREQUENT}+", "minutes", "seeds")]
    for name, docs in sorted(results.others.items()):
        minutes = {seed: sum(each["seconds"] for each in doc["networks"].values()) / 60 for seed, doc in docs.items()}
        for who in (UNIFIED, BASELINE):
            found = {task: _pooled(docs, who, task) for task in TASKS}
            rows = {s: frequent_map(d["evaluation"][POOLED]["per_class"]["det"][who]) for s, d in docs.items()}
            often = {seed: value for seed, value in rows.items() if value is not None}
            time = shown(minutes, ".0f") if who == UNIFIED else ""
            lines.append(
                f"| {who}, `{name}` | {_cells(found.__getitem__)} | {shown(often)} | {time} | {listed(sorted(docs))} |"
            )
    return [*lines, "", "Minutes: of the four trainings of a seed, one thread."]


def _pooled(docs: Mapping[int, Document], who: str, task: str) -> BySeed:
    metric = get_task(task).metric.key
    return {seed: doc["evaluation"][POOLED][who][metric] for seed, doc in docs.items()}


def beside_the_reference(results: Results) -> Lines:
    lines = [
        "## Beside the reference, on test alone",
        "",
        "The reference's scores are those it publishes of its own test split. Its draw of the images and its",
        "settings are not these, so compare a row only with the other rows of its own system.",
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
    config = next(iter(results.finals[FULL].values()))["config"]
    old = "gate_masks" in config["distill"]
    caption = _CAPTION_0_1_0 if old else _CAPTION
    lines = ["## Conversions of labels, with and without", "", *(_CONVERSIONS_0_1_0 if old else _CONVERSION)]
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
            *picture(pictures, "conversions.png", caption),
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
        task
        for task in TASKS
        if all(doc["networks"][task].get("copied_from") for doc in results.finals[PLAIN].values())
    ]
    if shared:
        lines += [
            "",
            f"The baselines of {' and '.join(shared)} are the same networks in both: no conversion reaches them.",
        ]
    return lines + picture(pictures, "conversions.png", caption)


def _score_of(results: Results, recipe: str, report: str, who: str) -> Callable[[str], BySeed]:
    return lambda task: results.score(recipe, report, who, task)


def _difference_of(results: Results, recipe: str, report: str) -> Callable[[str], BySeed]:
    return lambda task: results.difference(recipe, report, task)


def _cells(read: Callable[[str], BySeed], form: str = ".4f") -> str:
    return " | ".join(shown(read(task), form) for task in TASKS)
