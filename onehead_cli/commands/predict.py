"""onehead predict"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import table
from onehead_cli.errors import DataError
from onehead_cli.runtime.launch import refuse_several
from onehead_cli.wording import how_many


@o.configured("output", "evaluation.batch_size", "device")
def predict(
    call: o.Call,
    *,
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Pictures, folders (with all below them) and quoted patterns ('*.jpg')."),
    ],
    checkpoint: o.Checkpoint = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            "--score-threshold", min=0, max=1, help="Score of boxes of every class.  [default: as chosen on val]"
        ),
    ] = None,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Write a picture of the result.")] = True,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Write the masks as palette PNGs.")] = True,
) -> None:
    """Find class, mask and boxes of pictures in one forward pass.

    Written into the folder predictions in the output folder, with one line per picture in predictions.jsonl; boxes and
    sizes there are in pixels of the picture turned as its EXIF orientation says. A picture that cannot be read is
    reported, the others are done, and the exit code is 1.
    """
    refuse_several("predict")
    from onehead_cli import engine

    result = engine.predict(
        call.config,
        pictures=pictures,
        checkpoint=checkpoint,
        score_threshold=score_threshold,
        overlays=overlays,
        masks=masks,
        reporter=call.console,
    )
    document = {
        "command": "predict",
        "pictures": result.pictures,
        "failed": result.failed,
        "checkpoint": str(result.checkpoint),
        "folder": str(result.folder),
        "predictions": str(result.predictions),
    }
    header = ["Picture", "Class", "Mask", "Boxes"]
    title = "Predictions" if len(result.first) == result.pictures else f"The first {len(result.first)} predictions"
    rows = [_row(record) for record in result.first if "error" not in record]
    call.console.result(
        document,
        table(title, header, rows, left=4),
        f"{how_many(result.pictures - result.failed, 'picture')}: {result.predictions}",
    )
    if result.failed:
        raise DataError(f"{result.failed} of {result.pictures} pictures failed")


def _row(record: dict[str, Any]) -> list[str]:
    """File, class, the three largest mask classes, how many boxes of each class; a dash for what is not there."""
    cells = [Path(record["file"]).name]
    cells.append(f"{record['class']['title']} {record['class']['probability']:.0%}" if "class" in record else "–")
    area = record["width"] * record["height"]
    pixels = record["mask"]["pixels"] if "mask" in record else {}
    largest = [(name, count / area) for name, count in Counter(pixels).most_common(3) if count >= 0.005 * area]
    cells.append(", ".join(f"{name} {share:.0%}" for name, share in largest) or "–")
    boxes = Counter(box["label"] for box in record.get("boxes", ()))
    cells.append(", ".join(f"{count} {label}" for label, count in boxes.most_common()) or "–")
    return cells
