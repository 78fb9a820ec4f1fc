"""onehead prepare-data --preview"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from onehead_cli import engine
from onehead_cli.commands.console import Console, table
from onehead_cli.data.prepare.settings import Preview
from onehead_cli.wording import readable

_TITLES = {
    "cls": "Classification: pictures",
    "seg": "Segmentation: pictures that show the class, share of all pixels",
    "det": "Detection: boxes, pictures that show the class",
}


def preview_data(settings: Preview, console: Console) -> None:
    """Draw samples and histograms of the data, and show its numbers in a table per task.

    Raises:
        OneheadError: the file is no config, or the data cannot be read.
    """
    document = engine.prepare_data(settings, reporter=console)
    tables = [_task_table(task, found["splits"]) for task, found in document["tasks"].items()]
    console.result(document, *tables, f"Samples, histograms and numbers: {document['preview']}")


def _task_table(task: str, splits: Mapping[str, Any]) -> Table:
    names = dict.fromkeys(name for split in splits.values() for name in split["classes"])
    rows = [[readable(name), *(_class_cell(task, split, name) for split in splits.values())] for name in names]
    further: dict[str, Callable[[Any], str]] = {}
    if task == "seg":
        further["(void)"] = lambda split: _share(split["void"], split)
    elif task == "det":
        further["(crowd regions)"] = lambda split: f"{split['crowd']['regions']} in {split['crowd']['pictures']}"
        further["(small, medium, large)"] = lambda split: " ".join(map(str, split["box_sizes"].values()))
        further["(pictures without boxes)"] = lambda split: str(split["pictures_without_boxes"])
    further["(all pictures)"] = lambda split: str(split["pictures"])
    further["(median size)"] = lambda split: f"{split['width']['median']:g} x {split['height']['median']:g}"
    rows += [[name, *(cell(split) for split in splits.values())] for name, cell in further.items()]
    return table(_TITLES[task], ["Class", *splits], rows)


def _class_cell(task: str, split: Any, name: str) -> str:
    found = split["classes"].get(name)
    if found is None:
        return "–"
    if task == "seg":
        return _share(found, split)
    return f"{found['boxes']} in {found['pictures']}" if task == "det" else str(found["pictures"])


def _share(found: Any, split: Any) -> str:
    """Pictures, and the share of all pixels of the split."""
    pixels = split["void"]["pixels"] + sum(one["pixels"] for one in split["classes"].values())
    return f"{found['pictures']} {found['pixels'] / pixels:6.1%}"
