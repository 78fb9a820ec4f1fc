"""onehead prepare-data"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.filesize import decimal

from onehead_cli import engine
from onehead_cli.commands.check_data import check_data
from onehead_cli.commands.console import Console, table
from onehead_cli.commands.flags import AsJson, Quiet
from onehead_cli.commands.preview_data import preview_data
from onehead_cli.data.prepare.addresses import OFFICIAL_SOURCES
from onehead_cli.data.prepare.draw import OfficialDraw
from onehead_cli.errors import ConfigError, DataError
from onehead_cli.runtime.launch import refuse_several
from onehead_cli.wording import how_many

#: Of the classification datasets of all sources.
_CLASSES = 10
_CACHE_FOLDER = ".cache"
_IMAGE_SIZE = 256


class Source(StrEnum):
    official = "official"
    synthetic = "synthetic"
    local = "local"


#: The sources that an option is for; one that is not listed is for all.
_SOURCES_OF = {
    "--cache-dir": [Source.official],
    "--base-url": [Source.official],
    "--dry-run": [Source.official],
    "--coco": [Source.local],
    "--voc": [Source.local],
    "--imagenette": [Source.local],
    "--categories": [Source.official, Source.local],
    "--image-size": [Source.synthetic],
}


def prepare_data(
    source: Annotated[
        Source | None,
        typer.Option(
            "--source",
            help="A draw of the official datasets, fetched or on disk, or drawn pictures [default: official].",
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="ROOT", help="Folder to write into; for --preview also a YAML config that names own data."
        ),
    ] = Path("data"),
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="TRAIN,VAL,TEST", help="Pictures of each task in each split, at least 10.")
    ] = "240,60,60",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.", min=0)] = 0,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", metavar="PX", help="Rough side of synthetic pictures [default: 256].", min=64, max=1024
        ),
    ] = None,
    categories: Annotated[
        str | None,
        typer.Option(
            "--categories", metavar="NAME,NAME", help="COCO categories by name [default: the first ten by id]."
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", metavar="DIR", help="Where downloads stay [default: ROOT/.cache]."),
    ] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--base-url",
            metavar="NAME=URL",
            help="Address that serves coco, voc or imagenette instead of the official ones; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what --source official would fetch, from where; write nothing.")
    ] = False,
    coco: Annotated[Path | None, typer.Option("--coco", metavar="DIR", help="COCO 2017, for --source local.")] = None,
    voc: Annotated[Path | None, typer.Option("--voc", metavar="DIR", help="VOC 2012, for --source local.")] = None,
    imagenette: Annotated[
        Path | None, typer.Option("--imagenette", metavar="DIR", help="Imagenette, for --source local.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the files in ROOT against their manifest.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only draw labelled samples and label histograms of what is in ROOT.")
    ] = False,
    preview_dir: Annotated[
        Path | None, typer.Option("--preview-dir", metavar="DIR", help="Folder for them [default: ROOT/preview].")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="PATH",
            help="Only look for bad files: in a prepared folder, or in the data that a YAML config names. "
            "What was found is kept there, or in the config's output folder, for the next time.",
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="With --check: decode all pictures, also of more than 20,000.")
    ] = False,
    skip_bad: Annotated[
        bool | None, typer.Option("--skip-bad", help="Leave out pictures that cannot be used, and list them.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace datasets that are already there.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write three small datasets, each labelled for one task.

    The tasks are classification, segmentation and detection.
    """
    refuse_several("prepare-data")
    console = Console(quiet=quiet, as_json=as_json)
    if preview_dir is not None and not preview:
        raise ConfigError("--preview-dir is for --preview")
    if (deep or skip_bad) and check is None:
        raise ConfigError("--deep and --skip-bad belong to --check PATH")
    if sum((verify, preview, check is not None, source is not None)) > 1:
        raise ConfigError("--source, --verify, --check and --preview are different things to do; give one of them")
    _refuse_misplaced(
        source if source or verify or preview or check is not None else Source.official,
        {
            "--cache-dir": cache_dir,
            "--base-url": base_url,
            "--dry-run": dry_run,
            "--coco": coco,
            "--voc": voc,
            "--imagenette": imagenette,
            "--categories": categories,
            "--image-size": image_size,
            "--overwrite": overwrite,
        },
    )
    if verify:
        _verify(data, console)
        return
    if check is not None:
        check_data(check, deep=deep, skip_bad=bool(skip_bad), console=console)
        return
    if preview:
        preview_data(data, folder=preview_dir, seed=seed, console=console)
        return
    source = source or Source.official
    counts = _parse_sizes(sizes)
    draw = OfficialDraw(sizes=counts, seed=seed, categories=_parse_categories(categories, counts))
    base_urls = _parse_base_urls(base_url or [])
    if source is Source.synthetic:
        result = engine.prepare_synthetic(
            data, sizes=counts, image_size=image_size or _IMAGE_SIZE, seed=seed, overwrite=overwrite, reporter=console
        )
    elif source is Source.local:
        if coco is None or voc is None or imagenette is None:
            raise ConfigError("--source local needs --coco, --voc and --imagenette")
        result = engine.prepare_local(
            data, draw, coco=coco, voc=voc, imagenette=imagenette, overwrite=overwrite, reporter=console
        )
    else:
        cache_folder = cache_dir or data / _CACHE_FOLDER
        if dry_run:
            _show_plan(draw, cache_folder, base_urls, console)
            return
        result = engine.prepare_official(
            data, draw, cache_folder=cache_folder, base_urls=base_urls, overwrite=overwrite, reporter=console
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


def _show_plan(draw: OfficialDraw, cache_folder: Path, base_urls: dict[str, str], console: Console) -> None:
    planned, exact = engine.plan_official(draw, cache_folder=cache_folder, base_urls=base_urls, reporter=console)
    missing = sum(part.missing_bytes for part in planned)
    document = {
        "command": "prepare-data",
        "source": Source.official.value,
        "dry_run": True,
        "cache": str(cache_folder),
        "pictures_known": exact,
        "missing_bytes": missing,
        "downloads": [
            {
                "dataset": part.dataset,
                "what": part.what,
                "url": part.url,
                "files": part.files,
                "bytes": part.bytes,
                "cached_files": part.cached,
                "cached_bytes": part.cached_bytes,
            }
            for part in planned
        ],
    }
    rows = []
    for part in planned:
        about = "" if part.what == "archive" else "about "
        pictures = f"{part.files} pictures" if exact else f"about {part.files} pictures"
        what = part.what if part.what == "archive" else pictures
        rows.append([part.dataset, what, about + decimal(part.bytes), decimal(part.cached_bytes)])
    console.result(
        document,
        table("Downloads", ["Dataset", "What", "Size", "In the cache"], rows, left=2),
        "\n".join(f"{part.dataset} {part.what}: {part.url}" for part in planned),
        f"To fetch: about {decimal(missing)}, into {cache_folder}; nothing was written",
    )


def _verify(root: Path, console: Console) -> None:
    problems = engine.verify_data(root)
    for problem in problems:
        console.warn(problem)
    document = {"command": "prepare-data", "root": str(root), "problems": problems}
    changed = f"{root}: {how_many(len(problems), 'file')} missing or changed"
    console.result(document, changed if problems else f"{root}: as prepared")
    if problems:
        raise DataError(f"{changed} since they were prepared")


def _parse_sizes(text: str) -> tuple[int, int, int]:
    try:
        train, val, test = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes {text}: give three numbers, such as 240,60,60") from None
    if min(train, val, test) < _CLASSES:
        raise ConfigError(f"--sizes {text}: each split needs at least {_CLASSES} pictures, one a class")
    return train, val, test


def _parse_categories(text: str | None, sizes: tuple[int, int, int]) -> Sequence[str] | None:
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError("--categories: give names of COCO categories, such as person,dog")
    if min(sizes) < len(names):
        raise ConfigError(
            f"--categories names {len(names)} and --sizes gives a split of {min(sizes)}: "
            "each split needs at least one picture a category"
        )
    return names


def _parse_base_urls(assignments: Sequence[str]) -> dict[str, str]:
    urls = {}
    for assignment in assignments:
        name, _, url = assignment.partition("=")
        if name not in OFFICIAL_SOURCES:
            near = difflib.get_close_matches(name, OFFICIAL_SOURCES, n=1, cutoff=0.0)[0]
            raise ConfigError(f"--base-url {assignment}: no dataset '{name}'; did you mean '{near}'?")
        if not _is_address(url):
            raise ConfigError(f"--base-url {assignment}: give an address such as {name}=https://mirror.example/{name}/")
        urls[name] = url
    return urls


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port of six digits
        return False
    return usable and not any(sign.isspace() for sign in url)


def _refuse_misplaced(source: Source | None, given: Mapping[str, object]) -> None:
    """Raises: ConfigError: an option that this source would pass over; None where nothing is prepared at all."""
    for option, value in given.items():
        sources = _SOURCES_OF.get(option, list(Source))
        if value and source not in sources:
            instead = f"--source {source}" if source else "--verify, --check or --preview"
            raise ConfigError(f"{option} is of --source {' and '.join(sources)}, not of {instead}")
