"""Files that are never seen half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from onehead_cli.errors import OneheadError

#: A full disk, a quota, a file too large, a disk that fails: the next file would meet the same.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, keep: Path | None = None) -> None:
    """Write to a temporary file in the same folder, flush it to disk and rename; until then the old file stays.

    Args:
        keep: where the old file goes instead of being replaced; at every instant one of the two paths holds a whole
            file.

    Raises:
        OSError: the file cannot be written; the temporary one is gone. So is it for whatever `write` raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.is_file():
            path.replace(keep)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | memoryview, *, kind: str) -> None:
    """Replace a file in one step, so that nobody sees it half-written, however the process ends.

    Unlike `write_atomically` it does not wait for the disk, and the name of the file may be as long as any.

    Args:
        kind: the first word of the temporary file's name, by which `remove_leftovers` finds it.

    Raises:
        OSError: the file cannot be written, or may not be; the old one is as it was.
    """
    if path.exists() and not os.access(path, os.W_OK):  # to replace it, the right to write it is not needed
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = path.with_name(f".{kind}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_writable_folder(folder: Path, flag: str = "--output") -> None:
    """Make a folder for results, and see that files can be written into it before any work is done.

    Args: flag: which names it.

    Raises:
        OneheadError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OneheadError(
            f"output folder {folder} cannot be written ({error.strerror}); choose another with {flag}"
        ) from None


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Delete the temporary files that killed processes left of files whose names match a glob pattern.

    Only for files that no living process can be writing.
    """
    for leftover in folder.glob(f".{pattern}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Write the folder's names to disk, without which a power cut could undo the renaming."""
    # Windows cannot open a folder, and some network file systems cannot sync one.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
