"""onehead prepare-data --preview"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from onehead_cli import engine
from onehead_cli.commands.console import Console, table
from onehead_cli.data.prepare.settings import Preview
from onehead_cli.wording import readable

if TYPE_CHECKING:
    from onehead_cli.tasks.task import Task


def preview_data(settings: Preview, console: Console) -> None:
    """Draw samples and histograms of the data, and show its numbers in a table per task.

    Raises:
        OneheadError: the file is no config, or the data cannot be read.
    """
    document = engine.prepare_data(settings, reporter=console)
    tables = [_task_table(task, found["splits"]) for task, found in document["tasks"].items()]
    console.result(document, *tables, f"Samples, histograms and numbers: {document['preview']}")


def _task_table(name: str, splits: Mapping[str, Any]) -> Table:
    from onehead_cli.tasks.task import get_task

    task = get_task(name)
    classes = dict.fromkeys(each for split in splits.values() for each in split["classes"])
    rows = [[readable(each), *(_class_cell(task, split, each) for split in splits.values())] for each in classes]
    further: dict[str, Callable[[Any], str]] = {
        **task.counts_rows(),
        "(all images)": lambda split: str(split["pictures"]),
        "(median size)": lambda split: f"{split['width']['median']:g} x {split['height']['median']:g}",
    }
    rows += [[each, *(cell(split) for split in splits.values())] for each, cell in further.items()]
    return table(f"{task.title}: {task.counts_title}", ["Class", *splits], rows)


def _class_cell(task: Task, split: Any, name: str) -> str:
    return task.counts_cell(split["classes"][name], split) if name in split["classes"] else "–"
