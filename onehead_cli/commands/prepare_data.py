"""onehead prepare-data"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from onehead_cli import engine
from onehead_cli.commands.check_data import check_data
from onehead_cli.commands.console import Console, table
from onehead_cli.commands.flags import as_command, given_values
from onehead_cli.commands.plan_data import plan_data
from onehead_cli.commands.prepare_settings import FLAGS, Source, settings_of
from onehead_cli.commands.preview_data import preview_data
from onehead_cli.commands.verify_data import verify_data
from onehead_cli.data.prepare.settings import Check, Local, Official, Plan, Preview, Synthetic, Verify
from onehead_cli.runtime.launch import refuse_several


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function (values, console, *, its own options); values: of the given flags, by field."""

    def command(*, as_json: bool, quiet: bool, **own: Any) -> None:
        values = given_values(FLAGS, own)
        function(values, Console(quiet=quiet, as_json=as_json), **own)

    return as_command(command, function, FLAGS, {})


@_with_flags
def prepare_data(
    values: Mapping[str, Any],
    console: Console,
    *,
    source: Annotated[
        Source | None,
        typer.Option(
            "--source",
            help="A sample of the official datasets, downloaded or on disk, or synthetic images.  [default: official]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what --source official would download and from where; write nothing."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the files in ROOT against their manifest.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only draw labelled samples and label histograms of the data in ROOT.")
    ] = False,
) -> None:
    """Write three small datasets, each labelled for one task.

    The tasks are classification, segmentation and detection.
    """
    refuse_several("prepare-data")
    settings = settings_of(values, source, dry_run=dry_run, verify=verify, preview=preview)
    match settings:
        case Plan():
            plan_data(settings, console)
        case Verify():
            verify_data(settings, console)
        case Check():
            check_data(settings, console)
        case Preview():
            preview_data(settings, console)
        case _:
            _write_data(settings, console)


def _write_data(settings: Synthetic | Local | Official, console: Console) -> None:
    result = engine.prepare_data(settings, reporter=console)
    document = {
        "command": "prepare-data",
        "source": result.source,
        "root": str(result.root),
        "seed": result.seed,
        "counts": result.counts,
        "manifest": str(result.manifest),
    }
    splits = list(next(iter(result.counts.values())))
    rows = [[str(task), *(str(found[split]) for split in splits)] for task, found in result.counts.items()]
    console.result(document, table("Images", ["Task", *splits], rows), f"Manifest: {result.manifest}")
