"""The files of an evaluation: one JSON document, tables per class, and the drop table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onehead_cli.errors import OneheadError
from onehead_cli.files.atomic import write_atomically
from onehead_cli.registry import TASKS
from onehead_cli.tasks.reader import Row
from onehead_cli.tasks.task import get_task

if TYPE_CHECKING:
    from onehead_cli.evaluation.drop_check import Drop


MODELS = ("baseline", "unified")
PAGE = "report.html"
#: What an earlier report may have left; other files of like names are the user's own.
_EARLIER = (
    *(f"per_class_{task}.{suffix}" for task in TASKS for suffix in ("json", "csv", "md")),
    *(f"{curve}_{model}.csv" for curve in ("precision_recall", *(f"confusion_{t}" for t in TASKS)) for model in MODELS),
    "drop_check.md",
    PAGE,
)

_ABSENT = "–"


def write_report(
    folder: Path,
    document: Mapping[str, Any],
    *,
    per_class: Mapping[str, Mapping[str, Sequence[Row] | None]],
    drops: Sequence[Drop],
    curves: Mapping[str, Sequence[Sequence[Any]]],
    page: str | None = None,
) -> list[Path]:
    """Write evaluate.json, per_class_{task}.{json,csv,md}, the curves, drop_check.md and report.html; each whole or not
    at all.

    Files of an earlier report that this one does not have are removed.

    Args:
        folder: made where it is missing.
        document: what evaluate.json holds; a NaN or infinite number is written as null.
        per_class: task -> {"baseline": rows, "unified": rows}, None for a network that was not evaluated; a task
            without rows gets no files.
        drops: one per task that was compared; without any there is no drop_check.md.
        curves: file name -> the rows of a CSV.
        page: report.html, if it is wanted.

    Returns:
        The files, in the order of writing.

    Raises:
        OneheadError: a file cannot be written.
    """
    files = {"evaluate.json": _json(document)}
    for task, tables in per_class.items():
        present = {model: rows for model in MODELS if (rows := tables.get(model))}
        if present:
            files[f"per_class_{task}.json"] = _json({"task": task, **{model: present.get(model) for model in MODELS}})
            files[f"per_class_{task}.csv"] = _class_csv(present)
            files[f"per_class_{task}.md"] = _class_markdown(task, present)
    files |= {name: _csv(rows) for name, rows in curves.items()}
    if drops:
        notes = [_skipped_note(document.get("skipped", {})), imagenet_sentence(document.get("imagenet_classes", {}))]
        files["drop_check.md"] = drop_table(drops) + "".join(f"\n{note}\n" for note in notes if note)
    if page is not None:
        files[PAGE] = page
    for name, text in files.items():
        _write(folder / name, text)
    # What an earlier evaluation of other tasks left would pass for a part of this one.
    for name in _EARLIER:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in files]


def limit_in_words(drops: Sequence[Drop]) -> str:
    """The largest drop that passes: in percent, or as a plain number where scores have other units."""
    units = {get_task(drop.task).metric.unit for drop in drops}
    return f"{100 * drops[0].limit:g}%" if units <= {""} or drops[0].relative else f"{drops[0].limit:g}"


def drop_table(drops: Sequence[Drop]) -> str:
    """The drop check of at least one task as a Markdown table, with a line that says how it is read."""
    limit = limit_in_words(drops)
    header = ["Task", "Metric", "Baseline", "Unified", "Diff.", f"<{limit} drop?", "95% interval", "Verdict"]
    body = [
        [
            get_task(drop.task).title,
            get_task(drop.task).metric.label,
            _cell(drop.baseline),
            _cell(drop.unified),
            _signed(drop.diff),
            "yes" if drop.within_limit else "NO",
            f"[{_signed(drop.low)}, {_signed(drop.high)}]",
            drop.verdict,
        ]
        for drop in drops
    ]
    of_what = "of the baseline's score" if drops[0].relative else "absolute"
    note = (
        f"Diff. = unified - baseline; the limit is {limit}, {of_what}. The interval is a paired bootstrap over the "
        "images: PASS where all of it loses less than the limit, FAIL where all of it loses more, else INCONCLUSIVE."
    )
    reasons = [f"{get_task(drop.task).title}: {drop.reason}." for drop in drops if drop.reason is not None]
    return _markdown_table(header, body, left={0, 1, 5, 7}) + "".join(f"\n{line}\n" for line in [note, *reasons])


def _skipped_note(skipped: Mapping[str, Mapping[str, int]]) -> str:
    """Names the tasks and splits of which images were left out; empty where there are none."""
    counts = [f"{n} of {task} {split}" for task, splits in skipped.items() for split, n in splits.items() if n]
    return f"Images left out because they cannot be used: {', '.join(counts)}." if counts else ""


def imagenet_sentence(began: Mapping[str, bool]) -> str:
    """Says of which networks, "unified" and "baseline", classification began in closed form; empty where of none."""
    names = " and ".join(name for name, yes in began.items() if yes)
    return names and (
        f"Classification ({names}) started as the backbone's own ImageNet classifier, which model.imagenet_classes "
        "writes into the network: it knew the classes before any training."
    )


def _class_csv(tables: Mapping[str, Sequence[Row]]) -> str:
    scores = _score_keys(tables)
    table: list[list[Any]] = [["name", "count", *(f"{model}_{score}" for model, score in scores)]]
    for rows in _by_class(tables):
        first = next(iter(rows.values()))
        numbers = [_finite(rows[model][score]) for model, score in scores]
        table.append([first["name"], first["count"], *("" if number is None else number for number in numbers)])
    return _csv(table)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _class_markdown(name: str, tables: Mapping[str, Sequence[Row]]) -> str:
    scores = _score_keys(tables)
    task = get_task(name)
    header = ["Class", task.counted, *(f"{model.capitalize()} {task.class_scores[key]}" for model, key in scores)]
    body, absent = [], []
    for rows in _by_class(tables):
        first = next(iter(rows.values()))
        body.append([_cell(first["name"]), _cell(first["count"]), *(_cell(rows[model][key]) for model, key in scores)])
        if not first["count"]:
            absent.append(_cell(first["name"]))
    text = f"# {task.title}, per class\n\n" + _markdown_table(header, body, left={0})
    if absent:
        text += f"\nNot in the split and left out of the mean: {', '.join(absent)}.\n"
    return text


def _score_keys(tables: Mapping[str, Sequence[Row]]) -> list[tuple[str, str]]:
    """(network, score) of each column."""
    return [(model, key) for model, rows in tables.items() if rows for key in rows[0] if key not in ("name", "count")]


def _by_class(tables: Mapping[str, Sequence[Row]]) -> Iterable[dict[str, Row]]:
    """The rows of the networks side by side; both list the same classes in the same order."""
    for rows in zip(*tables.values(), strict=True):
        yield dict(zip(tables, rows, strict=True))


def _markdown_table(header: Sequence[str], body: Sequence[Sequence[str]], *, left: set[int]) -> str:
    """A table padded to be read as plain text; the columns in `left` are aligned to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * width if index in left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return line(header) + line(rule) + "".join(map(line, body))


def _cell(value: float | int | str | None) -> str:
    value = _finite(value)
    if value is None:
        return _ABSENT
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value).replace("|", r"\|")


def _signed(value: float) -> str:
    # Adding 0 turns the -0.0 of a tiny negative difference into +0.0.
    return f"{round(value, 4) + 0.0:+.4f}"


def _finite(value: Any) -> Any:
    """The value with every NaN and infinity in it turned into None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A byte of a path that is not UTF-8 becomes \udce9, which in JSON stands for what Python reads such a path as.
        content = text.encode("utf-8", "backslashreplace")
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise OneheadError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None
