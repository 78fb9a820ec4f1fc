"""The record of a run: a JSON line per step and per epoch, and TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
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
            values |= {
                f"gradient_cosine/{pair}/{stage}": value
                for pair, stages in info.gradient_cosine.items()
                for stage, value in stages.items()
            }
        else:
            values = {f"val/{name}": value for name, value in info.scores.items()}
        try:
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(name, value, info.step)
        except OSError as error:
            raise _unwritable(self._board_folder, error) from None

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from None


def read_run(path: Path) -> dict[str, Any] | None:
    """What a run's log holds, per epoch; None where there is no log, or nothing in it.

    Returns:
        "epochs", each with "epoch", "losses" (means over its steps), "weights" (after its last step) and "scores" (on
        val); "steps"; "resumed", the steps at which the run went on; "conflict", by pair of tasks and stage the mean
        cosine of their gradients: None where no step has one, empty where it was not measured.

    Raises:
        OneheadError: the log cannot be read.
    """
    try:
        records = [record for _, record in _records(path)]
    except OSError as error:
        raise OneheadError(f"{path}: cannot be read ({error.strerror})") from None
    epochs: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        if record.get("kind") in ("step", "epoch") and isinstance(record.get("epoch"), int):
            epochs.setdefault(record["epoch"], []).append(record)
    if not epochs:
        return None
    return {
        "epochs": [{"epoch": epoch, **_in_short(found)} for epoch, found in sorted(epochs.items())],
        "steps": max(record["step"] for record in records),
        "resumed": [record["step"] for record in records if record.get("kind") == "resumed"],
        "conflict": _mean_cosines(records),
    }


def _mean_cosines(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """By pair of tasks and stage, the mean cosine of their gradients over the steps that have one; None where none
    has."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        pairs = record.get("gradient_cosine")
        for pair, stages in pairs.items() if isinstance(pairs, dict) else ():
            numbers = _numbers(stages)
            for stage in stages if isinstance(stages, dict) else ():
                values = found.setdefault(pair, {}).setdefault(stage, [])
                values += [numbers[stage]] if stage in numbers else []
    return {
        pair: {stage: sum(values) / len(values) if values else None for stage, values in stages.items()}
        for pair, stages in found.items()
    }


def _in_short(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    steps = [record for record in records if record["kind"] == "step"]
    losses = [_numbers(step.get("losses")) for step in steps]
    values = {name: [found[name] for found in losses if name in found] for found in losses for name in found}
    return {
        "losses": {name: sum(found) / len(found) for name, found in values.items()},
        "weights": _numbers(steps[-1].get("weights")) if steps else {},
        "scores": next((_numbers(r.get("scores")) for r in reversed(records) if r["kind"] == "epoch"), {}),
    }


def _numbers(found: Any) -> dict[str, float]:
    """What is a finite number of what should be numbers by name: a log may be edited, or another program's."""
    if not isinstance(found, dict):
        return {}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _unwritable(path: Path, error: OSError) -> OneheadError:
    return OneheadError(f"{path}: cannot be written ({error.strerror})")


def _lines_until(path: Path, step: int) -> list[bytes]:
    return [line for line, record in _records(path) if record["step"] <= step]


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a log and what they say, without those that were cut by a kill, or damaged."""
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield line, record


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
