"""One run at a time a network and output folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from onehead_cli.errors import OneheadError
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import make_writable_folder, remove_leftovers
from onehead_cli.runtime.launch import is_main

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def hold_runs(folder: Path, names: Sequence[str], reporter: Reporter) -> Iterator[None]:
    """Make the output folder, and keep other processes from training the same networks into it.

    Other networks may be trained into the folder at the same time. What a killed run of these networks left
    half-written is deleted.

    Args:
        names: of the networks: "cls", "seg", "det" or "all".

    Raises:
        OneheadError: the folder cannot be written, or another process trains one of the networks into it.
    """
    if not is_main():  # the first of several processes holds them for all
        yield
        return
    with contextlib.ExitStack() as stack:
        make_writable_folder(folder)
        try:
            # The files stay: deleting one would let two processes lock two files of the same name.
            files = [stack.enter_context((folder / f".{name}.lock").open("a+", encoding="utf-8")) for name in names]
        except OSError as error:
            raise OneheadError(
                f"{error.filename}: cannot be written ({error.strerror}); choose another folder with --output"
            ) from None
        for name, file in zip(names, files, strict=True):
            if _locked(file, folder, name, reporter):
                remove_leftovers(folder, f"{name}[._]*")
        yield


def _locked(file: TextIO, folder: Path, name: str, reporter: Reporter) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise OneheadError(
            f"output folder {folder}: process {file.read().strip() or 'unknown'} is training '{name}' into it; "
            "wait for it, or choose another folder with --output"
        ) from None
    except OSError as error:  # a file system without locks
        reporter.warn(f"{folder} cannot be locked ({error.strerror}): start no second run of '{name}' in it")
        return False
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return True
