"""Small pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onehead_cli.registry import TASKS

Lines = list[str]

SCORE_LABELS = {"cls": "Top-1", "seg": "mIoU", "det": "mAP"}


def table_head(first: str, *last: str) -> Lines:
    """The head of a table with a column per task; `first` and `last`: the other columns."""
    names = [first, *(SCORE_LABELS[task] for task in TASKS), *last]
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def listed(values: Iterable[Any], between: str = ", ") -> str:
    return between.join(str(value) for value in values)


def teacher_epochs(config: Mapping[str, Any], more: int = 0) -> str:
    """How long the teachers learn: for how many epochs, and which task's for others. Args: more: to add to each."""
    teacher = config["teacher"]
    own = {task: (teacher.get(task) or {}).get("epochs") for task in TASKS}
    others = listed(f"{task} {epochs + more}" for task, epochs in own.items() if epochs)
    return f"{teacher['epochs'] + more} epochs" + (f" ({others})" if others else "")


def count_text(value: float) -> str:
    """A mean of counts: whole where it is whole or large."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 or value >= 100 else f"{value:.1f}"


def share_text(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def picture(folder: Path, name: str, caption: str) -> Lines:
    """A picture beside the page and its caption, or a line that says that it is not there."""
    if not (folder / name).is_file():
        return ["", f"`{name}` is not made yet."]
    return ["", f"![{caption}]({folder.name}/{name})", "", f"*{caption[0].upper()}{caption[1:]}*"]
