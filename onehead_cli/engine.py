"""The shared engine: one function per subcommand, a typed config in, a result out. It never prints.

Each function imports what it needs: `prepare_data` must not wait for torch, which takes seconds to import.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from onehead_cli.config.sections import Config
from onehead_cli.data.prepare.settings import (
    Check,
    Local,
    Official,
    Plan,
    PrepareSettings,
    Preview,
    Synthetic,
    Verify,
)
from onehead_cli.events import SILENT, Reporter
from onehead_cli.runtime.collector import collector_off

if TYPE_CHECKING:
    from onehead_cli.data.prepare.check import CheckResult
    from onehead_cli.data.prepare.fetched import DownloadPlan
    from onehead_cli.data.prepare.staging import PrepareResult
    from onehead_cli.evaluation.compare import EvaluateResult
    from onehead_cli.prediction.predict import PredictRun
    from onehead_cli.profiling.profile import ProfileResult
    from onehead_cli.training.run import TrainingResult

P = ParamSpec("P")
T = TypeVar("T")


def _in_several_processes(function: Callable[Concatenate[Config, P], T]) -> Callable[Concatenate[Config, P], T]:
    """What torchrun may start in several processes: each of them calls the function, and all get the same result."""

    @functools.wraps(function)
    def joined(config: Config, *args: P.args, **options: P.kwargs) -> T:
        from onehead_cli.runtime.processes import session

        with session(config):
            return function(config, *args, **options)

    return joined  # type: ignore[return-value]  # the config may also be given by its name


@overload
def prepare_data(settings: Synthetic | Local | Official, *, reporter: Reporter = SILENT) -> PrepareResult: ...


@overload
def prepare_data(settings: Plan, *, reporter: Reporter = SILENT) -> DownloadPlan: ...


@overload
def prepare_data(settings: Verify, *, reporter: Reporter = SILENT) -> list[str]: ...


@overload
def prepare_data(settings: Check, *, reporter: Reporter = SILENT) -> CheckResult: ...


@overload
def prepare_data(settings: Preview, *, reporter: Reporter = SILENT) -> dict[str, Any]: ...


def prepare_data(settings: PrepareSettings, *, reporter: Reporter = SILENT) -> Any:
    """Write the three datasets, or do what else the settings say; see `data.prepare.settings`.

    Returns:
        Of datasets that are written, what was written. Of a `Plan`, what would be fetched. Of `Verify`, a line for each
        file that is missing or differs from the manifest. Of `Check`, what was found. Of a `Preview`, its numbers.

    Raises:
        OneheadError: data cannot be had, read or written.
    """
    if isinstance(settings, Synthetic | Local | Official):
        return _write_data(settings, reporter)
    if isinstance(settings, Plan):
        from onehead_cli.data.prepare.fetched import plan_official

        return plan_official(settings, reporter=reporter)
    if isinstance(settings, Verify):
        from onehead_cli.data.manifest import verify_manifest

        return verify_manifest(settings.root)
    if isinstance(settings, Check):
        from onehead_cli.data.prepare.check import check_data

        return check_data(settings, reporter=reporter)
    return _preview_data(settings, reporter)


def _write_data(settings: Synthetic | Local | Official, reporter: Reporter) -> PrepareResult:
    from onehead_cli.data.prepare.fetched import prepare_official
    from onehead_cli.data.prepare.local import prepare_local
    from onehead_cli.data.prepare.synthetic import prepare_synthetic
    from onehead_cli.data.prepare.writing import one_bar

    with one_bar(settings, reporter) as progress:
        if isinstance(settings, Synthetic):
            return prepare_synthetic(settings, progress=progress)
        if isinstance(settings, Local):
            return prepare_local(settings, progress=progress)
        return prepare_official(settings, reporter=reporter, progress=progress)


def _preview_data(settings: Preview, reporter: Reporter) -> dict[str, Any]:
    from onehead_cli.config.load import load_config
    from onehead_cli.data.layout import SPLITS
    from onehead_cli.preview.preview import preview_data

    if settings.root.is_file():
        config = load_config(settings.root)
        place = config.output
        splits = tuple(dict.fromkeys((config.data.train_split, config.data.val_split, "test")))
    else:
        config, place, splits = load_config(None, {"data.root": settings.root}), settings.root, SPLITS
    folder = settings.folder or place / "preview"
    return preview_data(config, splits=splits, folder=folder, seed=settings.seed, reporter=reporter)


@_in_several_processes
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
    from onehead_cli.runtime.compute import deterministic_algorithms
    from onehead_cli.runtime.processes import from_first
    from onehead_cli.tasks.task import get_task
    from onehead_cli.training.hold import hold_runs
    from onehead_cli.training.run import train_network

    tasks = config.data.tasks if tasks is None else _listed(tasks)
    if unknown := [task for task in tasks if task not in config.data.tasks]:
        raise ConfigError(f"data.tasks names {', '.join(config.data.tasks)}, not {', '.join(unknown)}")
    names = list(tasks)
    splits = (config.data.train_split, config.data.val_split)
    with hold_runs(config.output, names, reporter), deterministic_algorithms(config.deterministic):
        lenders = [lender for task in tasks for lender in get_task(task).borrows(config.teacher)]
        read = [task for task in config.data.tasks if task in (*tasks, *lenders)]
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


@_in_several_processes
def train_unified(config: Config, *, resume: bool = False, reporter: Reporter = SILENT) -> TrainingResult:
    """Train the one network for all `data.tasks`, distilling from the teachers where `distill.lambda` is above 0.

    Raises:
        ConfigError: `data.tasks` names only one.
        CheckpointError: a teacher is missing while lambda is above 0.
        OneheadError: see `training.run.train_network`.
    """
    from onehead_cli.checkpoint.networks import STUDENT, best_path, load_teachers
    from onehead_cli.data.listings import Listings
    from onehead_cli.data.scan.bad_files import scan_for_run
    from onehead_cli.errors import CheckpointError, ConfigError
    from onehead_cli.runtime.compute import deterministic_algorithms
    from onehead_cli.runtime.processes import from_first
    from onehead_cli.training.hold import hold_runs
    from onehead_cli.training.run import train_network

    tasks = config.data.tasks
    if len(tasks) < 2:
        raise ConfigError(f"data.tasks names {tasks[0]} only: a unified network needs two tasks or more")
    teachers = from_first(lambda: load_teachers(config))
    missing = [best_path(config.teachers_folder, task) for task in tasks if task not in teachers]
    if missing and config.distill.lambda_ > 0:
        raise CheckpointError(
            f"teacher missing: {', '.join(map(str, missing))}; train it with `onehead train-teacher --task all`, "
            "name its folder with --teachers, or train without distillation with --lambda-distill 0"
        )
    stale = () if resume else (STUDENT,)
    splits = (config.data.train_split, config.data.val_split)
    with hold_runs(config.output, [STUDENT], reporter), deterministic_algorithms(config.deterministic):
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


@_in_several_processes
def evaluate(
    config: Config,
    *,
    checkpoint: Path | str | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] = ("test",),
    relative: bool = False,
    reporter: Reporter = SILENT,
) -> EvaluateResult:
    """Measure a network and the teachers on the pooled splits and check what was lost; see `evaluation.compare`.

    Args:
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.

    Raises:
        OneheadError: a checkpoint or dataset cannot be used.
    """
    from onehead_cli.checkpoint.networks import find_student
    from onehead_cli.evaluation.compare import compare
    from onehead_cli.runtime.processes import from_first

    return compare(
        config,
        checkpoint_path=_path(checkpoint) or from_first(lambda: find_student(config.output, reporter)),
        tasks=None if tasks is None else _listed(tasks),
        splits=_listed(splits),
        relative=relative,
        reporter=reporter,
    )


def profile(
    config: Config,
    *,
    checkpoint: Path | str | None = None,
    of_config: bool = False,
    image_size: int | None = None,
    batch_size: int = 1,
    runs: int = 20,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> ProfileResult:
    """Count and time a network and its teachers; see `profiling.profile.profile_network`.

    Args:
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.
        of_config: not a checkpoint but a new network of `config.model`.

    Raises:
        OneheadError: the checkpoint, the backbone, its weights or the device cannot be used.
    """
    with collector_off():
        from onehead_cli.checkpoint.networks import find_student
        from onehead_cli.profiling.profile import profile_network

        return profile_network(
            config,
            checkpoint=None if of_config else _path(checkpoint) or find_student(config.output, reporter),
            image_size=image_size,
            batch_size=batch_size,
            runs=runs,
            threads=threads,
            reporter=reporter,
        )


def predict(
    config: Config,
    *,
    images: Sequence[str | Path],
    checkpoint: Path | str | None = None,
    score_threshold: float | None = None,
    overlays: bool = True,
    masks: bool = True,
    reporter: Reporter = SILENT,
) -> PredictRun:
    """Class, mask and boxes of images, written to {output}/predictions as the result is iterated over.

    Args:
        images: files, folders and glob patterns; a Path is never a pattern.
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.
        score_threshold: for boxes of every class, instead of the checkpoint's own.

    Raises:
        OneheadError: see `prediction.image_paths.find_images` and `prediction.predict.PredictRun`.
    """
    from onehead_cli.prediction.image_paths import FOLDER, find_images

    # A path that is mistyped is said before torch is waited for.
    found = find_images([images] if isinstance(images, str) else images, skip=config.output / FOLDER, reporter=reporter)

    from onehead_cli.checkpoint.networks import find_student
    from onehead_cli.prediction.predict import PredictRun

    return PredictRun(
        found.paths,
        config,
        checkpoint=_path(checkpoint) or find_student(config.output, reporter),
        score_threshold=score_threshold,
        overlays=overlays,
        masks=masks,
        passed_over=found.passed_over,
        reporter=reporter,
    )


def _listed(names: Sequence[str]) -> list[str]:
    """One name alone is a list of one, not of its letters."""
    return [names] if isinstance(names, str) else list(names)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
