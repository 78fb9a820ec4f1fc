"""The sections behind the scores: tables per class, errors, curves, predictions, time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from onehead_cli.registry import TASKS
from onehead_cli.wording import readable
from report.data import BASELINE, FULL, PLAIN, POOLED, UNIFIED, Document, Results, mean, shown
from report.error_analysis import NEAR
from report.plots import plot_losses, plot_scores, plot_weights
from report.text import Lines, count_text, listed, picture, share_text

#: Rows of a list of confusions.
_MOST = 10


def per_class(results: Results) -> Lines:
    lines = ["## Per class, on val and test pooled", "", "The full recipe."]
    columns = {
        "cls": ("images", {"top1": "Top-1", "precision": "precision"}),
        "seg": ("pixels", {"iou": "IoU"}),
        "det": ("boxes", {"ap": "AP", "ap50": "AP50"}),
    }
    for task, (count, scores) in columns.items():
        tables = {who: results.per_class(POOLED, who, task) for who in (UNIFIED, BASELINE)}
        special = [doc["per_class"][POOLED] for doc in results.specialists[task].values() if POOLED in doc["per_class"]]
        if special:
            tables["specialist"] = special
        header = [f"{who} {label}" for label in scores.values() for who in tables]
        lines += [
            "",
            f"### {task}",
            "",
            f"| class | {count} | {' | '.join(header)} |",
            "|---|" + "---|" * (len(header) + 1),
        ]
        for index, first in enumerate(tables[UNIFIED][0]):
            cells = [
                shown([rows[index][key] for rows in seeds if rows[index][key] is not None], ".3f")
                for key in scores
                for seeds in tables.values()
            ]
            lines.append(f"| {readable(str(first['name']))} | {first['count']} | {' | '.join(cells)} |")
    return lines


def errors(results: Results) -> Lines:
    documents = [doc["errors"] for doc in results.finals[FULL].values()]
    seeds = listed(results.finals[FULL])
    lines = [
        "## What the unified network gets wrong",
        "",
        f"The full recipe on val and test pooled; counts are means of seeds {seeds}.",
        "",
        "### Classes confused in classification",
        "",
        *_pairs([doc["cls"] for doc in documents], "images"),
        "",
        "### Classes confused in segmentation",
        "",
        *_pairs([doc["seg"] for doc in documents], "pixels"),
        "",
        f"### IoU per class, the {_MOST} lowest",
        "",
        *_lowest_ious(results),
        "",
        *_box_errors([doc["det"] for doc in documents]),
    ]
    return lines


def _pairs(seeds: Sequence[Sequence[Document]], unit: str) -> Lines:
    """The most frequent confusions; one that a seed does not list counts as none there."""
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for pairs in seeds:
        for pair in pairs:
            total = totals[pair["true"], pair["given"]]
            total[0] += pair["count"] / len(seeds)
            total[1] += pair["share"] / len(seeds)
    if not totals:
        return ["None."]
    lines = [f"| true | taken for | {unit} | of the true {unit} |", "|---|---|---|---|"]
    for (true, given), (count, share) in sorted(totals.items(), key=lambda item: -item[1][0])[:_MOST]:
        lines.append(f"| {readable(true)} | {readable(given)} | {count_text(count)} | {share:.1%} |")
    return lines


def _lowest_ious(results: Results) -> Lines:
    tables = results.per_class(POOLED, UNIFIED, "seg")
    found = [
        (mean(values), row["name"], values)
        for index, row in enumerate(tables[0])
        if (values := [rows[index]["iou"] for rows in tables if rows[index]["iou"] is not None])
    ]
    lines = ["| class | IoU |", "|---|---|"]
    return lines + [
        f"| {name} | {shown(values, '.3f')} |" for _, name, values in sorted(found, key=lambda e: e[0])[:_MOST]
    ]


def _box_errors(seeds: Sequence[Document]) -> Lines:
    iou, kinds = seeds[0]["iou"], list(seeds[0]["false_positives"])
    classes = _mean_rows([doc["classes"] for doc in seeds])
    sizes = _mean_rows([doc["sizes"] for doc in seeds])
    true, missed = sum(row["true"] for row in classes), sum(row["missed"] for row in classes)
    wrong = {kind: mean(doc["false_positives"][kind] for doc in seeds) or 0.0 for kind in kinds}
    correct, false = mean(doc["correct"] for doc in seeds) or 0.0, sum(wrong.values())
    given = correct + false
    lines = [
        f"### Boxes, at IoU {iou:g} and the scores from which `predict` shows them",
        "",
        f"Of {count_text(true)} true boxes {count_text(missed)} are missed ({share_text(missed, true)}); of "
        f"{count_text(given)} boxes found {count_text(false)} are wrong ({share_text(false, given)}).",
        "",
        "| size (COCO) | true | missed | share |",
        "|---|---|---|---|",
        *(f"| {row['name']} | {_missed(row)} |" for row in sizes),
        "",
        "| wrong box | count | of the wrong ones |",
        "|---|---|---|",
        *(f"| {kind} | {count_text(count)} | {share_text(count, false)} |" for kind, count in wrong.items()),
        "",
        f"| class | shown from | true | missed | share | {' | '.join(kinds)} |",
        "|---|---|---|---|---|" + "---|" * len(kinds),
    ]
    for row in sorted(classes, key=lambda row: -row["missed"]):
        cells = " | ".join(count_text(row[kind]) for kind in kinds)
        least = shown([doc["thresholds"][row["name"]] for doc in seeds], ".2f")
        lines.append(f"| {row['name']} | {least} | {_missed(row)} | {cells} |")
    lines += [
        "",
        "Duplicate: of a true box that was found already. Wrong class: on a true box of another class. Poor box: an "
        f"overlap of {NEAR:g} to {iou:g} with a true box of its class. Background: none of these.",
    ]
    pairs: dict[tuple[str, str], float] = defaultdict(float)
    for doc in seeds:
        for pair in doc["wrong_class_pairs"]:
            pairs[pair["true"], pair["given"]] += pair["count"] / len(seeds)
    if pairs:
        most = sorted(pairs.items(), key=lambda item: -item[1])[:_MOST]
        named = ", ".join(f"{given} on {true} ({count_text(count)})" for (true, given), count in most)
        lines += ["", f"Wrong classes, the most frequent: {named}."]
    return lines


def _missed(row: Document) -> str:
    return f"{count_text(row['true'])} | {count_text(row['missed'])} | {share_text(row['missed'], row['true'])}"


def _mean_rows(tables: Sequence[Sequence[Document]]) -> list[Document]:
    """Rows of the same names, each number the mean over the tables."""
    return [
        {key: rows[0][key] if key == "name" else mean(row[key] for row in rows) for key in rows[0]}
        for rows in zip(*tables, strict=True)
    ]


def curves(results: Results, pictures: Path) -> Lines:
    plot_scores(results, pictures / "val.png")
    plot_losses(results, pictures / "losses.png")
    plot_weights(results, pictures / "weights.png")
    lines = [
        "## Curves",
        *picture(
            pictures,
            "val.png",
            "val per epoch, the full recipe; thin lines are seeds, dots the epochs kept, figures the last epoch.",
        ),
    ]
    lines += picture(pictures, "losses.png", "the student's losses, mean over the steps of an epoch.")
    lines += ["", "## How the task weights moved", ""]
    for task in TASKS:
        runs = [
            [epoch["weights"][task] for epoch in doc["networks"]["all"]["epochs"] if epoch["weights"]]
            for doc in results.finals[FULL].values()
        ]
        every = [weight for run in runs for weight in run]
        if every:
            lines.append(
                f"- {task}: from {shown([run[0] for run in runs], '.3f')} in the first epoch to "
                f"{shown([run[-1] for run in runs], '.3f')} in the last; between {min(every):.3f} and {max(every):.3f}."
            )
    return lines + picture(
        pictures, "weights.png", "the weights of the three task losses, mean over the steps of an epoch."
    )


def sheet(pictures: Path) -> Lines:
    caption = (
        "predictions of the first seed's unified network on test images, drawn without the photographs, which may not "
        "be passed on: for each task the two best, two middling and two worst images by their score."
    )
    return ["## Predictions on test", *picture(pictures, "predictions.png", caption)]


def time_and_machine(results: Results) -> Lines:
    lines = [
        "## Time and machine",
        "",
        "| network | parameters | minutes | seeds | processor | threads | precision | torch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    total = 0.0
    rows: dict[str, list[Document]] = {}
    for recipe in (FULL, PLAIN):
        for network in (*TASKS, "all"):
            trained = [doc["networks"][network] | {"seed": seed} for seed, doc in results.finals[recipe].items()]
            rows[f"{'student' if network == 'all' else f'teacher {network}'}, {recipe}"] = [
                network for network in trained if not network.get("copied_from")
            ]
    for kind, compared in (("long baseline", results.long_baselines), ("specialist", results.specialists)):
        rows |= {f"{kind} {task}": list(docs.values()) for task, docs in compared.items()}
    for name, documents in rows.items():
        if not documents:
            continue
        total += sum(doc["seconds"] for doc in documents)
        facts = [
            listed(dict.fromkeys(doc[key] for doc in documents))
            for key in ("processor", "threads", "precision", "torch")
        ]
        lines.append(
            f"| {name} | {documents[0]['parameters']:,} | {shown([doc['seconds'] / 60 for doc in documents], '.1f')} "
            f"| {listed(doc['seed'] for doc in documents)} | {' | '.join(facts)} |"
        )
    student, teachers = (
        [sum(doc["networks"][name]["parameters"] for name in names) for doc in results.finals[FULL].values()]
        for names in (["all"], list(TASKS))
    )
    lines += [
        "",
        f"Together {total / 3600:.1f} hours of training, with the evaluations on val (a specialist's on test too), "
        "added up over networks of which several may have run at once. The student has "
        f"{student[0] / teachers[0]:.2f} of the three teachers' parameters. Where a processor has no bf16, `auto` "
        "takes fp32, and scores of few images move: the model card has both for the student that is shipped.",
    ]
    return lines
