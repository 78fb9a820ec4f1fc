"""The record of a run: a JSON line per step and per epoch, and TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from onehead_cli.errors import OneheadError
from onehead_cli.events import EpochInfo, StepInfo
from onehead_cli.files.atomic import write_atomically


class RunLog:
    """Writes {output}/{name}.jsonl; a context manager. A resumed run cuts back the lines past its checkpoint."""

    def __init__(self, folder: Path, name: str, *, resumed_step: int | None) -> None:
        """Args: resumed_step: the step a resumed run goes on from, or None for a new run, which starts a new file.

        Raises:
            OneheadError: the file cannot be written.
        """
        self._path = folder / f"{name}.jsonl"
        try:
            kept = b"".join(_lines_until(self._path, resumed_step) if resumed_step is not None else [])
            write_atomically(self._path, lambda file: file.write(kept))
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise _unwritable(self._path, error) from None
        self._board_folder = folder / "tensorboard" / name
        try:
            self._board = _tensorboard(self._board_folder, resumed_step)
        except OSError as error:
            self._file.close()
            raise _unwritable(self._board_folder, error) from None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing tries once more to write what could not be written.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()

    def scanned(self, skipped: Mapping[str, Mapping[str, int]]) -> None:
        """How many images were left out, by task and split; the first line of a new run."""
        self._append({"kind": "scan", "step": 0, "skipped": skipped})

    def resumed(self, *, epoch: int, step: int) -> None:
        """Append a line that says `resumed from step ...`; the one kind that a run never stopped does not have."""
        message = f"resumed from step {step}"
        self._append({"kind": "resumed", "epoch": epoch, "step": step, "message": message})

    def sync(self) -> None:
        """Have all lines on disk, so that a checkpoint written after it never lacks one.

        Raises:
            OneheadError: the disk is full or fails.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def write(self, info: StepInfo | EpochInfo) -> None:
        """Append one line; its `kind` is "step" or "epoch".

        Raises:
            OneheadError: the file cannot be written.
        """
        self._append({"kind": "step" if isinstance(info, StepInfo) else "epoch", **dataclasses.asdict(info)})
        if self._board is None:
            return
        values: dict[str, Any]
        if isinstance(info, StepInfo):
            values = {"loss/total": info.loss, "lr": info.lr, "grad_norm": info.grad_norm}
            values |= {f"loss/{name}": value for name, value in info.losses.items()}
            values |= {f"weight/{name}": value for name, value in info.weights.items()}
        else:
            values = {f"val/{name}": value for name, value in info.scores.items() if value is not None}
        try:
            for name, value in values.items():
                self._board.add_scalar(name, value, info.step)
        except OSError as error:
            raise _unwritable(self._board_folder, error) from None

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from None


def _unwritable(path: Path, error: OSError) -> OneheadError:
    return OneheadError(f"{path}: cannot be written ({error.strerror})")


def _lines_until(path: Path, step: int) -> list[bytes]:
    if not path.is_file():
        return []
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        # A line that was cut by a kill, or damaged, is left out.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line)
    return kept


def _tensorboard(folder: Path, purge_step: int | None) -> Any:
    try:
        from torch.utils import tensorboard
    except ImportError:
        return None
    threading.excepthook = _say_nothing_of_disks
    writer: Any = tensorboard.SummaryWriter
    return writer(str(folder), purge_step=purge_step)


def _say_nothing_of_disks(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread; what fails there is raised once more by its next call, and told in one line."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)
