"""How prepared data gets into its folder: whole, or not at all, whenever the program is killed.

Everything is written into a folder inside the root. When it is complete it is renamed to `.prepared`, which makes it
count; its parts are then moved into place, the manifest last. A run that finds `.prepared` moves what is left of it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onehead_cli.data.layout import DATASET_FOLDERS, MANIFEST_FILE, SPLITS
from onehead_cli.data.manifest import Origins, verify_manifest, write_manifest
from onehead_cli.data.prepare.settings import Written
from onehead_cli.errors import DataError
from onehead_cli.files.json_files import read_json
from onehead_cli.files.lock import locked
from onehead_cli.registry import OWN_TASKS

_PREFIX = ".prepare-"
_COMPLETE = ".prepared"


@dataclass(frozen=True)
class PrepareResult:
    """What was written. counts: images per task and split; manifest: its path."""

    root: Path
    source: str
    seed: int
    counts: dict[str, dict[str, int]]
    manifest: Path


def write_datasets(
    settings: Written, *, source: str, repeatable: bool, write: Callable[[Path], Origins]
) -> PrepareResult:
    """Let `write` write the three dataset folders into a folder, and put them into the root with their manifest.

    Args:
        source: as it stands in the manifest, beside the arguments of the settings.
        repeatable: source and arguments say all: where just these datasets stand, whole, nothing is left to do.
        write: gives what the manifest is to say about single files.

    Raises:
        DataError: other datasets stand there already, another run is at work there, or the folder cannot be written.
    """
    root, overwrite, arguments = settings.root, settings.overwrite, settings.arguments()
    counts = {task: dict(zip(SPLITS, settings.sizes, strict=True)) for task in OWN_TASKS}
    result = PrepareResult(root, source, settings.seed, counts, root / MANIFEST_FILE)
    new_root = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root) as held:
            for left in root.glob(f"{_PREFIX}*") if held else ():
                shutil.rmtree(left)
            moved = _move_into_place(root)
            if (moved or (repeatable and not overwrite)) and _holds(root, source, arguments):
                return result
            standing = [name for name in (*DATASET_FOLDERS.values(), MANIFEST_FILE) if (root / name).exists()]
            if standing and not overwrite:
                raise DataError(f"{root}: already holds {', '.join(standing)}; choose another folder or overwrite")
            with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root, ignore_cleanup_errors=True) as folder:
                staging = Path(folder) / "data"
                staging.mkdir()
                origins = write(staging)
                write_manifest(staging, source=source, arguments=arguments, counts=counts, origins=origins)
                staging.rename(root / _COMPLETE)
                _move_into_place(root)
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}") from None
    finally:
        if new_root:
            with contextlib.suppress(OSError):  # of a folder that is not empty
                root.rmdir()
    return result


def _move_into_place(root: Path) -> bool:
    """Move complete datasets into the root; whether there were any. May be killed and begun again at any point."""
    complete = root / _COMPLETE
    found = (complete / MANIFEST_FILE).is_file()
    if found:
        # Without this, a kill between the moves would leave a manifest of the old datasets beside the new ones.
        (root / MANIFEST_FILE).unlink(missing_ok=True)
        for folder in DATASET_FOLDERS.values():
            if (complete / folder).exists():
                if (root / folder).exists():
                    (root / folder).rename(complete / f"old-{folder}")
                (complete / folder).rename(root / folder)
        (complete / MANIFEST_FILE).rename(root / MANIFEST_FILE)
    if complete.exists():
        shutil.rmtree(complete)
    return found


def _holds(root: Path, source: str, arguments: dict[str, Any]) -> bool:
    """Whether the root holds the datasets of these arguments, every file as it was written."""
    if not (root / MANIFEST_FILE).is_file():
        return False
    manifest = read_json(root / MANIFEST_FILE)
    same = (manifest.get("source"), manifest.get("arguments")) == (source, arguments)
    return same and not verify_manifest(root)
