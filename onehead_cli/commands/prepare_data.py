"""onehead prepare-data"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onehead_cli import engine
from onehead_cli.commands import options as o
from onehead_cli.commands.check_data import check_data
from onehead_cli.console import Console, table
from onehead_cli.errors import ConfigError, DataError

#: Of the classification datasets of both sources.
_CLASSES = 10


class Source(StrEnum):
    synthetic = "synthetic"
    local = "local"


def prepare_data(
    source: Annotated[
        Source | None, typer.Option("--source", help="Drawn pictures, or a draw of official datasets on disk.")
    ] = None,
    data: Annotated[Path, typer.Option("--data", metavar="ROOT", help="Folder to write into.")] = Path("data"),
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="TRAIN,VAL,TEST", help="Pictures of each task in each split, at least 10.")
    ] = "240,60,60",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.", min=0)] = 0,
    image_size: Annotated[
        int, typer.Option("--image-size", metavar="PX", help="Rough side of synthetic pictures.", min=64, max=1024)
    ] = 256,
    coco: Annotated[Path | None, typer.Option("--coco", metavar="DIR", help="COCO 2017, for --source local.")] = None,
    voc: Annotated[Path | None, typer.Option("--voc", metavar="DIR", help="VOC 2012, for --source local.")] = None,
    imagenette: Annotated[
        Path | None, typer.Option("--imagenette", metavar="DIR", help="Imagenette, for --source local.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the files in ROOT against their manifest.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="PATH",
            help="Only look for bad files: in a prepared folder, or in the data that a YAML config names.",
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="With --check: decode all pictures, also of more than 20,000.")
    ] = False,
    skip_bad: o.SkipBad = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace datasets that are already there.")] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Write the three small datasets: classification, segmentation and detection."""
    console = Console(quiet=quiet, as_json=as_json)
    if verify:
        _verify(data, console)
        return
    if check is not None:
        check_data(check, deep=deep, skip_bad=bool(skip_bad), console=console)
        return
    if deep or skip_bad:
        raise ConfigError("--deep and --skip-bad belong to --check PATH")
    if source is None:
        raise ConfigError("give --source synthetic or --source local")
    counts = _parse_sizes(sizes)
    if source is Source.synthetic:
        result = engine.prepare_synthetic(
            data, sizes=counts, image_size=image_size, seed=seed, overwrite=overwrite, reporter=console
        )
    else:
        if coco is None or voc is None or imagenette is None:
            raise ConfigError("--source local needs --coco, --voc and --imagenette")
        result = engine.prepare_local(
            data,
            coco=coco,
            voc=voc,
            imagenette=imagenette,
            sizes=counts,
            seed=seed,
            overwrite=overwrite,
            reporter=console,
        )
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
    console.result(document, table("Pictures", ["Task", *splits], rows), f"Manifest: {result.manifest}")


def _verify(root: Path, console: Console) -> None:
    problems = engine.verify_data(root)
    for problem in problems:
        console.warn(problem)
    document = {"command": "prepare-data", "root": str(root), "problems": problems}
    console.result(
        document, f"{root}: {len(problems)} files missing or changed" if problems else f"{root}: as prepared"
    )
    if problems:
        raise DataError(f"{root}: {len(problems)} files missing or changed since they were prepared")


def _parse_sizes(text: str) -> tuple[int, int, int]:
    try:
        train, val, test = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes {text}: give three numbers, such as 240,60,60") from None
    if min(train, val, test) < _CLASSES:
        raise ConfigError(f"--sizes {text}: each split needs at least {_CLASSES} pictures, one a class")
    return train, val, test
