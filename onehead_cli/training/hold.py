"""One run at a time per network and output folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from onehead_cli.errors import OneheadError
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import make_writable_folder, remove_leftovers
from onehead_cli.files.lock import HeldError, NoLocksError, take_lock
from onehead_cli.runtime.launch import is_main


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
    make_writable_folder(folder)
    with contextlib.ExitStack() as stack:
        for name in names:
            path = folder / f".{name}.lock"
            try:
                stack.enter_context(take_lock(path))
            except HeldError as error:
                raise OneheadError(
                    f"output folder {folder}: process {error.process} is training '{name}' into it; "
                    "wait for it, or choose another folder with --output"
                ) from None
            except NoLocksError as error:
                reporter.warn(f"{folder} cannot be locked ({error}): do not start a second run of '{name}' in it")
            except OSError as error:
                raise OneheadError(
                    f"{path}: cannot be written ({error.strerror}); choose another folder with --output"
                ) from None
            else:
                remove_leftovers(folder, f"{name}[._]*")
        yield
