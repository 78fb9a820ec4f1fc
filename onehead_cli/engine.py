"""The shared engine: one function a subcommand, a typed config in, a result out. It never prints."""

from __future__ import annotations

from collections.abc import Sequence

from onehead_cli.checkpoint import STUDENT, Checkpoint, best_path, last_path, load_checkpoint
from onehead_cli.config import Config
from onehead_cli.errors import CheckpointError
from onehead_cli.training.run import TrainingResult, train_network
from onehead_cli.types import TASKS, Reporter, Task


def train_teacher(
    config: Config, *, tasks: Sequence[Task], resume: bool, reporter: Reporter
) -> list[TrainingResult]:
    """Train a single-task network a task, one after the other.

    Args:
        resume: go on from the last checkpoints; with several tasks, one that was not begun starts anew.

    Raises:
        OneheadError: see `training.run.train_network`.
    """
    begun = [task for task in tasks if last_path(config.output, task.value).is_file()]
    results = []
    for task in tasks:
        go_on = resume and (task in begun or not begun)
        results.append(train_network(task.value, (task,), config, teachers={}, resume=go_on, reporter=reporter))
    return results


def train_unified(config: Config, *, resume: bool, reporter: Reporter) -> TrainingResult:
    """Train the one network for all tasks, distilling from the teachers where `distill.lambda` is above 0.

    Raises:
        CheckpointError: a teacher is missing while lambda is above 0.
        OneheadError: see `training.run.train_network`.
    """
    teachers = load_teachers(config)
    missing = [best_path(config.teachers_folder, task.value) for task in TASKS if task not in teachers]
    if missing and config.distill.lambda_ > 0:
        raise CheckpointError(
            f"teacher missing: {', '.join(map(str, missing))}; train it with `onehead train-teacher --task all`, "
            "name its folder with --teachers, or train without distillation with --lambda-distill 0"
        )
    return train_network(STUDENT, TASKS, config, teachers=teachers, resume=resume, reporter=reporter)


def load_teachers(config: Config) -> dict[Task, Checkpoint]:
    """The teachers whose checkpoints are in `config.teachers_folder`.

    Raises:
        CheckpointError: one is there but cannot be used.
    """
    paths = {task: best_path(config.teachers_folder, task.value) for task in TASKS}
    return {task: load_checkpoint(path) for task, path in paths.items() if path.is_file()}
