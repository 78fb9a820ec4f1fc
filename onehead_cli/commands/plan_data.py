"""onehead prepare-data --dry-run"""

from __future__ import annotations

from rich.filesize import decimal

from onehead_cli import engine
from onehead_cli.commands.console import Console, table
from onehead_cli.data.prepare.settings import Plan


def plan_data(settings: Plan, console: Console) -> None:
    """Show what would be fetched, from where, and how much of it is in the cache already."""
    plan = engine.prepare_data(settings, reporter=console)
    document = {
        "command": "prepare-data",
        "source": "official",
        "dry_run": True,
        "cache": str(settings.cache),
        "pictures_known": plan.pictures_known,
        "missing_bytes": plan.missing_bytes,
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
            for part in plan.parts
        ],
    }
    rows = []
    for part in plan.parts:
        about = "" if part.what == "archive" else "about "
        images = f"{part.files} images" if plan.pictures_known else f"about {part.files} images"
        what = part.what if part.what == "archive" else images
        rows.append([part.dataset, what, about + decimal(part.bytes), decimal(part.cached_bytes)])
    console.result(
        document,
        table("Downloads", ["Dataset", "What", "Size", "In the cache"], rows, left=2),
        *(f"{part.dataset} {part.what}: {part.url}" for part in plan.parts),
        f"To download: about {decimal(plan.missing_bytes)}, into {settings.cache}; nothing was written",
    )
