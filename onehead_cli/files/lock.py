"""Locks between processes, each on a file of its own. They end with their process, however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from onehead_cli.errors import DataError

#: In a folder that `locked` holds; a killed run leaves it.
LOCK_FILE = ".onehead.lock"
#: Seconds until a lock that is waited for is tried again.
_PAUSE = 0.1


class HeldError(Exception):
    """Another process holds the lock. process: its number, or "unknown"."""

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self.process = process


class NoLocksError(Exception):
    """The file system has no locks (some network ones); the message is what it said."""


def take_lock(path: Path) -> AbstractContextManager[object]:
    """Lock a file now or not at all; the lock is given back with the context.

    The file is made and gets the number of this process. It stays, but for Windows, where it goes with the lock. A
    process that opens it and finds it deleted once it has locked it is refused.

    Raises:
        HeldError: another process, or this one, holds the lock.
        NoLocksError: it cannot be locked.
        OSError: it cannot be opened for writing.
    """
    # Not the soft lock, a file that is there or not: it would stay when its process is killed.
    lock = FileLock(path, blocking=False, fallback_to_soft=False, on_acquired=_sign)
    try:
        return lock.acquire()
    except Timeout:
        raise HeldError(_signed_by(path)) from None
    except OSError as error:
        if error.filename is not None:  # it is of the opening, not of the locking
            raise
        raise NoLocksError(error.strerror or str(error)) from None


@contextmanager
def locked(folder: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Hold a folder against other runs of this program, by a hidden file in it that goes with the lock.

    Gives False where it cannot be locked, or where no file can be made in it: then nothing is held.

    Args:
        waiting: called once where another process holds the folder, with its number; then its end is waited for.

    Raises:
        DataError: another run holds it, which is not waited for; or this process does, which would wait for itself.
    """
    path = folder / LOCK_FILE
    with contextlib.ExitStack() as stack:
        left, held = path.exists(), True  # left: by a killed run, or another run is at work
        try:
            stack.enter_context(take_lock(path) if waiting is None else _wait_for_lock(path, waiting))
        except HeldError:
            raise DataError(f"{folder}: another run is using it; wait until that has ended") from None
        except (NoLocksError, OSError):
            held = False
        try:
            yield held
        finally:
            # Before the lock is given back: after that the file may be another run's.
            if held or not left:
                with contextlib.suppress(OSError):  # Windows deletes no open file
                    path.unlink()


def _wait_for_lock(path: Path, waiting: Callable[[str], None]) -> AbstractContextManager[object]:
    said = False
    while True:
        try:
            return take_lock(path)
        except HeldError as error:
            if error.process == str(os.getpid()):
                raise
            if not said:
                waiting(error.process)
                said = True
        time.sleep(_PAUSE)


def _sign(descriptor: int) -> None:
    """Write the number of this process into a lock file. On Windows the first byte is for none but the holder."""
    with contextlib.suppress(OSError):  # a full disk: the lock is held nevertheless
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f" {os.getpid()}\n".encode())


def _signed_by(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if sys.platform == "win32":
            file.seek(1)
        return file.read(32).decode(errors="replace").strip() or "unknown"
    return "unknown"
