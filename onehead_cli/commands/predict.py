"""onehead predict"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import table
from onehead_cli.errors import ConfigError, DataError
from onehead_cli.runtime.launch import refuse_several
from onehead_cli.wording import how_many

#: Records in the table.
_SHOWN = 20


@o.configured("output", "evaluation.batch_size", "device", "threads")
def predict(
    call: o.Call,
    *,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Images, folders (with their subfolders), quoted patterns ('*.jpg'), and - for a list of paths on "
            "stdin, one per line or with a NUL after each.",
        ),
    ],
    checkpoint: o.Checkpoint = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            "--score-threshold",
            min=0,
            max=1,
            help="Lowest score of a box, for every class.  [default: as chosen on val]",
        ),
    ] = None,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Draw the result over each image.")] = True,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Write masks and similar outputs as PNGs.")] = True,
    coco: Annotated[
        Path | None, typer.Option("--coco", metavar="FILE", help="Write the boxes as a COCO JSON as well.")
    ] = None,
    coco_masks: Annotated[bool, typer.Option("--coco-masks", help="With --coco: write the masks too, as RLE.")] = False,
    coco_ids: Annotated[
        Path | None,
        typer.Option(
            "--coco-ids",
            metavar="FILE",
            help="With --coco: write results with the ids of this COCO JSON of labels, for pycocotools' loadRes.",
        ),
    ] = None,
) -> None:
    """Find class, mask and boxes of images in one forward pass.

    Writes into the folder predictions in the output folder, with one line per image in predictions.jsonl; boxes and
    sizes are in pixels of the image, turned upright by its EXIF orientation. Results of earlier runs on other images
    stay. If an image cannot be read, it is reported, the others are still done, and the exit code is 1.
    """
    refuse_several("predict")
    for flag, given in (("--coco-masks", coco_masks), ("--coco-ids", coco_ids)):
        if given and coco is None:
            raise ConfigError(f"{flag} needs --coco FILE")
    from onehead_cli import engine

    run = engine.predict(
        call.config,
        images=_with_list(images),
        checkpoint=checkpoint,
        score_threshold=score_threshold,
        overlays=overlays,
        masks=masks,
        coco=coco,
        coco_masks=coco_masks,
        coco_ids=coco_ids,
        reporter=call.console,
    )
    from onehead_cli.prediction.names import in_json, short_names
    from onehead_cli.tasks.task import all_tasks

    first = list[dict[str, Any]]()
    for record in run:
        if len(first) < _SHOWN:
            first.append(record)
    document = {
        "command": "predict",
        "pictures": run.images,
        "failed": run.failed,
        "turned": run.turned,
        "nearly_black": run.dark,
        "passed_over": run.passed_over,
        "checkpoint": in_json(run.checkpoint),
        "checkpoint_sha256": run.sha256,
        "coco": None if coco is None else in_json(coco),
        "folder": in_json(run.folder),
        "predictions": in_json(run.predictions),
    }
    tasks = all_tasks(run.tasks)
    title = "Predictions" if len(first) == run.images else f"The first {len(first)} predictions"
    rows = [
        [name, *(task.record_cell(record) or "–" for task in tasks)]
        for name, record in zip(short_names(run.paths), first, strict=False)
        if "width" in record
    ]
    header = ["Image", *(task.record_column for task in tasks)]
    call.console.result(
        document,
        table(title, header, rows, left=len(header)),
        f"{how_many(run.images - run.failed, 'image')}: {run.predictions}",
    )
    if run.failed:
        raise DataError(f"{run.failed} of {run.images} images failed")


def _with_list(images: list[str]) -> list[str | Path]:
    """The arguments, the first "-" replaced by the paths that stdin lists."""
    if "-" not in images:
        return [*images]
    from onehead_cli.prediction.image_paths import listed_paths

    if sys.stdin is None:
        raise ConfigError("a list of paths was expected on stdin, which is closed")
    place = images.index("-")
    return [*images[:place], *listed_paths(sys.stdin.buffer.read()), *(i for i in images[place:] if i != "-")]
