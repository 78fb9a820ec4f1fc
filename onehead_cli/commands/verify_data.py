"""onehead prepare-data --verify"""

from __future__ import annotations

from onehead_cli import engine
from onehead_cli.commands.console import Console
from onehead_cli.data.prepare.settings import Verify
from onehead_cli.errors import DataError
from onehead_cli.wording import how_many


def verify_data(settings: Verify, console: Console) -> None:
    """Show which files differ from the manifest.

    Raises:
        DataError: any does, or there is no manifest that can be read.
    """
    root, problems = settings.root, engine.prepare_data(settings, reporter=console)
    for problem in problems:
        console.warn(problem)
    document = {"command": "prepare-data", "root": str(root), "problems": problems}
    changed = f"{root}: {how_many(len(problems), 'file')} missing or changed"
    console.result(document, changed if problems else f"{root}: as prepared")
    if problems:
        raise DataError(f"{changed} since they were prepared")
