"""What a run is resumed from, and whether it may be: its saves, its settings, its data, its teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.networks import STUDENT, best_path, can_resume, last_path, previous_path
from onehead_cli.config.load import config_class, default_config, is_gone, why_gone
from onehead_cli.config.sections import Config
from onehead_cli.data.format import get_format
from onehead_cli.data.manifest import manifest_hash
from onehead_cli.errors import CheckpointError, DamagedCheckpointError
from onehead_cli.events import Reporter
from onehead_cli.registry import TASKS
from onehead_cli.runtime.launch import world_size
from onehead_cli.runtime.processes import from_first
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import get_task
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.setup import scores_of
from onehead_cli.wording import how_many

#: What may differ between a run and its continuation: where things are, when to save, what is logged, how what was
#: learned is read and drawn. Another device computes the same but for rounding, and so do deterministic operations.
_FREE_KEYS = (
    "output",
    "device",
    "threads",
    "deterministic",
    "distributed_timeout",
    "data.root",
    "data.cache_mb",
    "data.skip_bad",
    "data.workers",
    "teacher.save_every",
    "student.save_every",
    "student.log_conflict",
    "evaluation.",
)
#: What 0.1.0 did, of keys that it had not and whose default is another by now.
_IN_0_1_0: dict[str, Any] = {
    "model.skip": "none",
    "detection.confidence": "quality",
    "detection.confidence_cost": 0.0,
    "detection.ignore_iou": 1.0,
}
#: What the training of a teacher reads of the student's sections.
_READ_BY_TEACHERS = ("student.normalise_losses", "student.normaliser_floor")


def load_last(config: Config, name: str, reporter: Reporter) -> Checkpoint:
    """The checkpoint that a run of this config goes on from; for the one process that reads the output folder.

    Raises:
        CheckpointError: there is none, or it was begun with other settings or another number of processes.
    """
    path = last_path(config.output, name)
    if not can_resume(config.output, name):
        raise CheckpointError(f"{path}: nothing to resume; leave --resume out to start again")
    last = _last_or_previous(config.output, name, reporter)
    if not last.training:
        raise CheckpointError(f"{path}: holds no training state (a _best file?); it cannot be resumed")
    processes = last.training.get("processes", 1)
    if processes != world_size():
        raise CheckpointError(
            f"{path} was trained in {processes} process(es), now there are {world_size()}: resume with {processes}, "
            "so that the result is that of an uninterrupted run"
        )
    if changed := changed_settings(last.config, config, name):
        raise CheckpointError(f"{path} was trained with another config: {', '.join(changed)}")
    return last


def changed_settings(before: Mapping[str, Any], config: Config, name: str) -> list[str]:
    """What differs between two configs as far as it matters to the result of a network, as "key was 1, now 2".

    Args:
        before: a config as a checkpoint or a result keeps it. A key that is younger than it counts as what was done
            without the key; one that is gone is passed over where it meant nothing.
        name: of the network: "cls", "seg", "det" or "all".
    """
    done = (name,) if name != STUDENT else config.data.tasks
    of_others = ["distill.teachers"]
    read: tuple[str, ...] = ()
    if name == STUDENT:
        of_others.append("teacher.")
    else:
        of_others += ["student.", "distill."]
        read = (*_READ_BY_TEACHERS, *get_task(name).teacher_reads(config))
    for task in map(get_task, TASKS):
        of_others += get_format(task.name).locations
        if task.name not in done:
            of_others += [f"teacher.{task.name}."]
            of_others += [f"student.fixed_weights.{task.name}", *([f"{task.section}."] if task.section else [])]
    ignored = (*_FREE_KEYS, *of_others)
    # Sections of tasks that are not installed say nothing of a network that does not do them.
    known = tuple(f"{section}." for section in config_class().model_fields)
    stored = {key: value for key, value in _flat(before).items() if not is_gone(key, value)}
    old = _flat(default_config().model_dump(mode="json", by_alias=True)) | _IN_0_1_0 | stored
    new = _flat(config.model_dump(mode="json", by_alias=True))
    return [
        f"{key} was {old.get(key)}, {why_gone(key) or f'now {new.get(key)}'}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and (key in read or not key.startswith(ignored))
        and (key in new or "." not in key or key.startswith(known))
    ]


def check_same_classes(last: Checkpoint, architecture: Architecture) -> None:
    """Raises: CheckpointError: the data has other classes than those that the checkpoint was trained on."""
    for task, names in architecture.classes.items():
        before = list(last.architecture.classes[task])
        if before != list(names):
            raise CheckpointError(
                f"{last.name}_last.pth was trained on other {task} classes: {', '.join(before)}; "
                f"the data now has {', '.join(names)}"
            )


def continue_from(
    last: Checkpoint, loop: TrainingLoop, config: Config, *, teachers: Mapping[str, Checkpoint], reporter: Reporter
) -> None:
    """Bring a new loop to where the checkpoint was saved, and say so.

    Raises:
        CheckpointError: the data or teachers are others, or the run is over and its best checkpoint is lost.
    """
    name, path = last.name, last_path(config.output, last.name)
    images = {task: len(split) for task, split in loop.loader.splits.items()}
    if last.training["pictures"] != images:
        raise CheckpointError(f"{path} was trained on other data: {last.training['pictures']} images, now {images}")
    if last.training["teachers"] != scores_of(teachers):
        raise CheckpointError(
            f"{path} was trained with other teachers: their scores on val were {last.training['teachers']}, "
            f"now {scores_of(teachers)}"
        )
    loop.load_state_dict(last.training, last.weights)
    reporter.say(f"{name}: resumed from step {loop.state.step} of {loop.total_steps} (epoch {last.epoch})")
    _warn_of_other_threads(name, last, reporter)
    _warn_of_other_data(name, last, config, reporter)
    _check_best(config.output, name, loop, reporter)


def _last_or_previous(folder: Path, name: str, reporter: Reporter) -> Checkpoint:
    """The last checkpoint; where it is damaged or missing, the one before, which then takes its place."""
    path, previous = last_path(folder, name), previous_path(folder, name)
    try:
        if path.is_file() or not previous.is_file():
            return load_checkpoint(path)
        problem = f"{path}: missing"
    except DamagedCheckpointError as error:
        problem = str(error)
        if not previous.is_file():
            raise
    try:
        last = load_checkpoint(previous)
    except DamagedCheckpointError as error:
        raise CheckpointError(
            f"{problem}; {error}; neither can be resumed, leave --resume out to start again"
        ) from None
    reporter.warn(f"{problem}; continuing from the previous one, {previous.name}, of step {last.training.get('step')}")
    # The next save moves the last file to the place of the one before; a damaged one must not get there.
    previous.replace(path)
    return last


def _warn_of_other_threads(name: str, last: Checkpoint, reporter: Reporter) -> None:
    before, now = last.training["threads"], torch.get_num_threads()
    if before != now:
        reporter.warn(
            f"{name}: started with {how_many(before, 'thread')}, resumed with {now}: the result will differ in the "
            f"last bits from that of an uninterrupted run (OMP_NUM_THREADS={before} avoids it)"
        )


def _warn_of_other_data(name: str, last: Checkpoint, config: Config, reporter: Reporter) -> None:
    before, now = last.data.get("manifest"), manifest_hash(config, last.architecture.tasks)
    if before and now and before != now:
        reporter.warn(
            f"{name}: not started on the data now in {config.data.root} (manifest {before[:12]}, now {now[:12]}): "
            "the result will differ from that of an uninterrupted run"
        )


def _check_best(folder: Path, name: str, loop: TrainingLoop, reporter: Reporter) -> None:
    """Where the best file was lost or damaged meanwhile, let the next evaluation write a new one."""
    if loop.state.best == float("-inf"):
        return
    problem = from_first(lambda: _problem_with(best_path(folder, name)))
    if problem is None:
        return
    if loop.finished():
        raise CheckpointError(problem)
    reporter.warn(f"{problem}; the next evaluation counts as the best so far")
    loop.state.best = float("-inf")


def _problem_with(path: Path) -> str | None:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return None


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
