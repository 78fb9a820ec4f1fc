"""Where networks are: a run's own files, its teachers, and the student that comes with the installation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.exported import load_network
from onehead_cli.config.sections import Config
from onehead_cli.errors import CheckpointError
from onehead_cli.events import Reporter

FILE = "student.safetensors"
CARD = "MODEL_CARD.md"


def shipped_student() -> Path:
    """Where the packaged student is, if it is there; `benchmarks/ship.py` writes it."""
    return Path(str(resources.files("onehead_cli"))) / "checkpoint" / "shipped" / FILE


def find_student(output: Path, reporter: Reporter) -> Path:
    """The network of a command that names none: the output folder's own student, else the packaged one.

    Raises:
        CheckpointError: there is neither.
    """
    own, shipped = best_path(output, STUDENT), shipped_student()
    # A broken link is no reason to use another network than the one that was meant.
    if os.path.lexists(own):
        reporter.note(f"network: {own}")
        return own
    if shipped.is_file():
        reporter.note(f"network: the student that comes with onehead, since there is no {own}")
        return shipped
    raise CheckpointError(
        f"{own}: no such checkpoint, and no student comes with this installation; train one with "
        "`onehead train-unified`, or name a file with --checkpoint"
    )


STUDENT = "all"


def best_path(folder: Path, name: str) -> Path:
    return folder / f"{name}_best.pth"


def last_path(folder: Path, name: str) -> Path:
    return folder / f"{name}_last.pth"


def previous_path(folder: Path, name: str) -> Path:
    """The `_last` file before the last one, for the day that is damaged."""
    return folder / f"{name}_previous.pth"


def can_resume(folder: Path, name: str) -> bool:
    return last_path(folder, name).is_file() or previous_path(folder, name).is_file()


def forget_run(folder: Path, name: str) -> None:
    """Delete what a run would be resumed from; in this order, lest a killed process leave the older file alone."""
    previous_path(folder, name).unlink(missing_ok=True)
    last_path(folder, name).unlink(missing_ok=True)


def load_teachers(config: Config) -> dict[str, Checkpoint]:
    """The teachers of `config.data.tasks` whose best checkpoints are in `config.teachers_folder`.

    Raises:
        CheckpointError: the folder was named but is not there, or a checkpoint in it cannot be used.
    """
    folder = config.teachers_folder
    if config.distill.teachers is not None and not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder of teachers")
    paths = {task: best_path(folder, task) for task in config.data.tasks}
    return {task: load_checkpoint(path) for task, path in paths.items() if path.is_file()}


def load_compared(path: Path, tasks: Sequence[str], *, threads: int | None = None) -> dict[str, Checkpoint]:
    """The network of each task that a checkpoint, an exported file or a folder has.

    A folder stands for its teachers of the tasks; without any, for its student.

    Args: threads: of an exported file.

    Raises:
        CheckpointError: there is none, or it cannot be used, or it does none of the tasks.
    """
    if path.is_dir():
        found = {task: load_checkpoint(best_path(path, task)) for task in tasks if best_path(path, task).is_file()}
        if found:
            return found
        if not best_path(path, STUDENT).is_file():
            raise CheckpointError(f"{path}: no network for {', '.join(tasks)} in this folder")
        path = best_path(path, STUDENT)
    network = load_network(path, threads=threads)
    networks = {task: network for task in tasks if task in network.architecture.tasks}
    if not networks:
        raise CheckpointError(f"{path}: does {', '.join(network.architecture.tasks)}, not {', '.join(tasks)}")
    return networks
