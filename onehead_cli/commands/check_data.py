"""onehead prepare-data --check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onehead_cli import engine
from onehead_cli.commands.console import Console, table
from onehead_cli.config.load import load_config

if TYPE_CHECKING:
    from onehead_cli.data.scan.scan import Scan


def check_data(path: Path, *, deep: bool, skip_bad: bool, console: Console) -> None:
    """Scan a prepared folder, or the data that a YAML config names; fails where something is wrong.

    Raises:
        OneheadError: the file is no config, or something is wrong that may not be left out.
    """
    from onehead_cli.data.scan.bad_files import settle

    folder = path if path.is_dir() else None
    config = load_config(None if folder else path, {"data.skip_bad": skip_bad or None})
    scan = engine.check_data(config, folder=folder, deep=deep, reporter=console)
    for warning in scan.warnings:
        console.warn(warning)
    counts = scan.bad_counts()
    rows = [
        [task, split, str(count), str(counts[task][split])]
        for task, splits in scan.pictures.items()
        for split, count in splits.items()
    ]
    console.result(_document(path, scan), table("Checked", ["Task", "Split", "Pictures", "Bad"], rows, left=2))
    settle(scan, skip_bad=config.data.skip_bad, folder=folder or config.output, reporter=console)


def _document(path: Path, scan: Scan) -> dict[str, Any]:
    return {
        "command": "prepare-data",
        "checked": str(path),
        "pictures": scan.pictures,
        "headers_only": scan.headers_only,
        "bad": scan.bad_counts(),
        "problems": [
            {
                "task": problem.task,
                "split": problem.split,
                "kind": problem.kind,
                "path": str(problem.path) if problem.path else None,
                "reason": problem.reason,
                "can_be_skipped": problem.picture is not None,
            }
            for problem in scan.problems
        ],
        "warnings": scan.warnings,
        "notes": scan.notes,
    }
