"""Training teachers and the one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onehead_cli.config.sections import Config
from onehead_cli.engine.several import in_several_processes, listed
from onehead_cli.events import SILENT, Reporter

if TYPE_CHECKING:
    from onehead_cli.training.run import TrainingResult


@in_several_processes
def train_teacher(
    config: Config, *, tasks: Sequence[str] | None = None, resume: bool = False, reporter: Reporter = SILENT
) -> list[TrainingResult]:
    """Train a single-task network per task, one after the other.

    Args:
        tasks: None for all of `data.tasks`.
        resume: go on from the last checkpoints; with several tasks, one that was not begun starts anew.

    Raises:
        OneheadError: see `training.run.train_network`.
    """
    from onehead_cli.checkpoint.networks import can_resume
    from onehead_cli.data.listings import Listings
    from onehead_cli.data.scan.bad_files import scan_for_run
    from onehead_cli.errors import ConfigError
    from onehead_cli.runtime.compute import deterministic_algorithms, warn_of_emulation
    from onehead_cli.runtime.processes import from_first
    from onehead_cli.tasks.task import get_task
    from onehead_cli.training.hold import hold_runs
    from onehead_cli.training.run import train_network

    tasks = config.data.tasks if tasks is None else listed(tasks)
    if unknown := [task for task in tasks if task not in config.data.tasks]:
        raise ConfigError(f"data.tasks names {', '.join(config.data.tasks)}, not {', '.join(unknown)}")
    names = list(tasks)
    splits = (config.data.train_split, config.data.val_split)
    with hold_runs(config.output, names, reporter), deterministic_algorithms(config.deterministic):
        lenders = [lender for task in tasks for lender in get_task(task).borrows(config.teacher)]
        read = [task for task in config.data.tasks if task in (*tasks, *lenders)]
        warn_of_emulation(config.model.precision, config.device, reporter)
        listings = Listings(config)
        scan = from_first(lambda: scan_for_run(listings, read, splits, reporter))
        listings.leave_out(scan.bad)
        begun = from_first(lambda: [task for task in tasks if can_resume(config.output, task)])
        results = []
        for index, task in enumerate(tasks):
            go_on = resume and (task in begun or not begun)
            # A new round over several tasks must not be resumed from what an older one left.
            stale = [] if resume else names[index:]
            results.append(
                train_network(
                    task,
                    (task,),
                    config,
                    teachers={},
                    resume=go_on,
                    supersedes=stale,
                    scan=scan,
                    listings=listings,
                    reporter=reporter,
                )
            )
        return results


@in_several_processes
def train_unified(config: Config, *, resume: bool = False, reporter: Reporter = SILENT) -> TrainingResult:
    """Train the one network for all `data.tasks`, distilling from the teachers where `distill.lambda` is above 0.

    Raises:
        ConfigError: `data.tasks` names only one.
        CheckpointError: a teacher is missing while lambda is above 0, or with `student.from_teachers`.
        OneheadError: see `training.run.train_network`.
    """
    from onehead_cli.checkpoint.networks import STUDENT, best_path, load_teachers
    from onehead_cli.data.listings import Listings
    from onehead_cli.data.scan.bad_files import scan_for_run
    from onehead_cli.errors import CheckpointError, ConfigError
    from onehead_cli.runtime.compute import deterministic_algorithms, warn_of_emulation
    from onehead_cli.runtime.processes import from_first
    from onehead_cli.training.hold import hold_runs
    from onehead_cli.training.run import train_network

    tasks = config.data.tasks
    if len(tasks) < 2:
        raise ConfigError(f"data.tasks names only {tasks[0]}: a unified network needs at least two tasks")
    teachers = from_first(lambda: load_teachers(config))
    missing = [best_path(config.teachers_folder, task) for task in tasks if task not in teachers]
    if missing and (config.distill.lambda_ > 0 or config.student.from_teachers):
        merged = " --set student.from_teachers=false" if config.student.from_teachers else ""
        raise CheckpointError(
            f"teacher missing: {', '.join(map(str, missing))}; train it with `onehead train-teacher --task all`, "
            f"name its folder with --teachers, or train without teachers with --lambda-distill 0{merged}"
        )
    stale = () if resume else (STUDENT,)
    splits = (config.data.train_split, config.data.val_split)
    with hold_runs(config.output, [STUDENT], reporter), deterministic_algorithms(config.deterministic):
        warn_of_emulation(config.model.precision, config.device, reporter)
        listings = Listings(config)
        scan = from_first(lambda: scan_for_run(listings, tasks, splits, reporter))
        listings.leave_out(scan.bad)
        return train_network(
            STUDENT,
            tasks,
            config,
            teachers=teachers,
            resume=resume,
            supersedes=stale,
            scan=scan,
            listings=listings,
            reporter=reporter,
        )
