"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onehead_cli.errors import DataError


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder against other runs of this program; the lock dies with its process.

    Gives False where the file system (NFS) cannot lock a folder: then nothing is held.

    Raises:
        DataError: another run holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            raise DataError(f"{folder}: another run is at work in it; wait for its end") from None
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)
