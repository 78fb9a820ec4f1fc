"""onehead prepare-data --check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onehead_cli import engine
from onehead_cli.commands.console import Console, table
from onehead_cli.data.prepare.settings import Check

if TYPE_CHECKING:
    from onehead_cli.data.scan.scan import Scan


def check_data(settings: Check, console: Console) -> None:
    """Show the bad files of a prepared folder, or of the data that a YAML config names.

    Raises:
        OneheadError: the file is no config, or something is wrong that may not be left out.
    """
    result = engine.prepare_data(settings, reporter=console)
    scan = result.scan
    for warning in scan.warnings:
        console.warn(warning)
    counts = scan.bad_counts()
    rows = [
        [task, split, str(count), str(counts[task][split])]
        for task, splits in scan.images.items()
        for split, count in splits.items()
    ]
    console.result(_document(settings.path, scan), table("Checked", ["Task", "Split", "Images", "Bad"], rows, left=2))
    result.settle(console)


def _document(path: Path, scan: Scan) -> dict[str, Any]:
    return {
        "command": "prepare-data",
        "checked": str(path),
        "pictures": scan.images,
        "headers_only": scan.headers_only,
        "bad": scan.bad_counts(),
        "passed_over": scan.passed_over,
        "turned": scan.turned,
        "problems": [
            {
                "task": problem.task,
                "split": problem.split,
                "kind": problem.kind,
                "path": str(problem.path) if problem.path else None,
                "reason": problem.reason,
                "can_be_skipped": problem.image is not None,
            }
            for problem in scan.problems
        ],
        "warnings": scan.warnings,
        "notes": scan.notes,
    }
