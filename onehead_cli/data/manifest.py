"""manifest.json: what each prepared file is and where it came from; its hash stands for the whole of the data."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from onehead_cli.config.sections import Config
from onehead_cli.data.format import reads_root
from onehead_cli.data.layout import DATASET_FOLDERS, MANIFEST_FILE
from onehead_cli.errors import DataError
from onehead_cli.files.checksum import sha256_of
from onehead_cli.files.json_files import entries_of, read_json, write_json

_SCHEMA = 1

#: What is known about a file beside its bytes, by its path in the root: {"source": {...}, "license": {...}}.
Origins = dict[str, dict[str, Any]]


def write_manifest(
    folder: Path,
    *,
    source: str,
    arguments: Mapping[str, Any],
    counts: Mapping[str, Mapping[str, int]],
    origins: Origins,
) -> None:
    """Write the manifest of the three datasets in a folder. It says nothing of the machine or of the time."""
    paths = sorted(p for name in DATASET_FOLDERS.values() for p in (folder / name).rglob("*") if p.is_file())
    files = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        entry = {"path": name, "sha256": sha256_of(path), "bytes": path.stat().st_size}
        files.append(entry | origins.get(name, {}))
    manifest = {"schema": _SCHEMA, "source": source, "arguments": arguments, "counts": counts, "files": files}
    write_json(manifest, folder / MANIFEST_FILE, indent=1)


def verify_manifest(root: Path) -> list[str]:
    """Compare the files with the manifest; one line for each that is missing or changed, in the manifest's order.

    Raises:
        DataError: there is no manifest, or it cannot be read.
    """
    if not (root / MANIFEST_FILE).exists():
        raise DataError(f"{root}: has no {MANIFEST_FILE}; `onehead prepare-data` writes it, with the data")
    manifest = read_json(root / MANIFEST_FILE)
    problems = []
    for entry in entries_of(manifest, "files", {"path": str, "sha256": str}, root / MANIFEST_FILE):
        path = root / entry["path"]
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
            problems.append(f"{entry['path']}: missing")
        elif sha256_of(path) != entry["sha256"]:
            problems.append(f"{entry['path']}: changed")
    return problems


def licences(root: Path) -> Iterator[str]:
    """The licence of each file of which the manifest names one; none where there is no manifest that can be read."""
    try:
        entries = entries_of(read_json(root / MANIFEST_FILE), "files", {"path": str}, root / MANIFEST_FILE)
    except DataError:
        return
    for entry in entries:
        licence = entry.get("license")
        if isinstance(licence, Mapping) and isinstance(licence.get("name"), str):
            yield licence["name"]


def manifest_hash(config: Config, tasks: Collection[str]) -> str | None:
    """sha256 of the manifest in `data.root`; None where there is none, or where none of the tasks is read from there.

    Raises:
        DataError: it cannot be read.
    """
    path = config.data.root / MANIFEST_FILE
    return sha256_of(path) if path.is_file() and any(reads_root(task, config) for task in tasks) else None
