"""onehead predict"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import table
from onehead_cli.errors import DataError
from onehead_cli.runtime.launch import refuse_several
from onehead_cli.wording import how_many

#: Records in the table.
_SHOWN = 20


@o.configured("output", "evaluation.batch_size", "device")
def predict(
    call: o.Call,
    *,
    images: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Images, folders (with all below them) and quoted patterns ('*.jpg')."),
    ],
    checkpoint: o.Checkpoint = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            "--score-threshold", min=0, max=1, help="Score of boxes of every class.  [default: as chosen on val]"
        ),
    ] = None,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Write an image of the result.")] = True,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Write masks and their like as PNGs.")] = True,
) -> None:
    """Find class, mask and boxes of images in one forward pass.

    Written into the folder predictions in the output folder, with one line per image in predictions.jsonl; boxes and
    sizes there are in pixels of the image turned as its EXIF orientation says. An image that cannot be read is
    reported, the others are done, and the exit code is 1.
    """
    refuse_several("predict")
    from onehead_cli import engine

    run = engine.predict(
        call.config,
        images=images,
        checkpoint=checkpoint,
        score_threshold=score_threshold,
        overlays=overlays,
        masks=masks,
        reporter=call.console,
    )
    from onehead_cli.tasks.task import all_tasks

    first = list[dict[str, Any]]()
    for record in run:
        if len(first) < _SHOWN:
            first.append(record)
    document = {
        "command": "predict",
        "pictures": run.images,
        "failed": run.failed,
        "checkpoint": str(run.checkpoint),
        "folder": str(run.folder),
        "predictions": str(run.predictions),
    }
    tasks = all_tasks(run.tasks)
    title = "Predictions" if len(first) == run.images else f"The first {len(first)} predictions"
    rows = [
        [Path(record["file"]).name, *(task.record_cell(record) or "–" for task in tasks)]
        for record in first
        if "error" not in record
    ]
    header = ["Image", *(task.record_column for task in tasks)]
    call.console.result(
        document,
        table(title, header, rows, left=len(header)),
        f"{how_many(run.images - run.failed, 'image')}: {run.predictions}",
    )
    if run.failed:
        raise DataError(f"{run.failed} of {run.images} images failed")
