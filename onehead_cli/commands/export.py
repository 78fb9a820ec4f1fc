"""onehead export"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import number, table
from onehead_cli.errors import ConfigError
from onehead_cli.runtime.launch import refuse_several

if TYPE_CHECKING:
    from onehead_cli.export.export import ExportResult


class WeightsChoice(StrEnum):
    float32 = "float32"
    float16 = "float16"


@o.configured("data.root", "threads", "seed")
def export(
    call: o.Call,
    *,
    checkpoint: o.Checkpoint = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="The file to write.  [default: student.onnx in the output folder]"
        ),
    ] = None,
    weights: Annotated[
        WeightsChoice, typer.Option("--weights", help="How the weights are stored; float16 halves the file.")
    ] = WeightsChoice.float32,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute in 8 bits, calibrated on the train split of --data.")
    ] = False,
    calibration_images: Annotated[
        int | None,
        typer.Option("--calibration-images", min=1, help="Images to calibrate --int8 on.  [default: 120]"),
    ] = None,
    runner: Annotated[
        bool, typer.Option("--runner", help="Also write a script that runs the file without torch.")
    ] = False,
) -> None:
    """Write the network as one ONNX file that needs no torch.

    It includes normalisation, network, decoding and NMS. The file is first compared with the checkpoint; if its results
    differ, it is not written and the exit code is 10. {name}.export.json has the figures.
    """
    refuse_several("export")
    if int8 and weights != WeightsChoice.float32:
        raise ConfigError(f"--int8 stores 8-bit weights: leave --weights {weights} out")
    if calibration_images is not None and not int8:
        raise ConfigError("--calibration-images needs --int8")
    from onehead_cli import engine
    from onehead_cli.engine.use import CALIBRATION_IMAGES

    result = engine.export(
        call.config,
        checkpoint=checkpoint,
        file=output,
        weights=weights.value,
        int8=int8,
        calibration_images=calibration_images or CALIBRATION_IMAGES,
        runner=runner,
        reporter=call.console,
    )
    call.console.result(result.document, *_tables(result))


def _tables(result: ExportResult) -> list[Any]:
    from onehead_cli.tasks.task import get_task

    document = result.document
    rows = [
        [each.of, each.name, f"{each.value:.2g}" if not each.more_is_better else f"{each.value:.4f}", f"{each.limit:g}"]
        for each in result.agreement
    ]
    header = ["Task", "Against the checkpoint", "Found", "At least" if document["numbers"] == "int8" else "At most"]
    tables: list[Any] = [table(f"{result.file}: {document['numbers']}", header, rows, left=2)]
    if result.drops:
        drops = [
            [
                get_task(drop.task).metric.label,
                number(drop.baseline),
                number(drop.unified),
                number(drop.diff, "+.4f"),
                f"{drop.low:+.3f}..{drop.high:+.3f}",
                drop.verdict,
            ]
            for drop in result.drops
        ]
        tables.append(table("On val", ["", "Checkpoint", "File", "Diff.", "95% interval", "Verdict"], drops))
    megabytes = document["bytes"] / 1e6
    return [*tables, f"{result.file}: {megabytes:.1f} MB, one image of {document['image_size']} px at a time"]
