"""The shared engine: one function a subcommand, a typed config in, a result out. It never prints.

Each function imports what it needs: `prepare_data` must not wait for torch, which takes seconds to import.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.events import Reporter
from onehead_cli.runtime.collector import collector_off
from onehead_cli.types import TASKS, Task

if TYPE_CHECKING:
    from onehead_cli.data.prepare.download_cache import Planned
    from onehead_cli.data.prepare.draw import OfficialDraw
    from onehead_cli.data.prepare.staging import PrepareResult
    from onehead_cli.data.scan.scan import Scan
    from onehead_cli.evaluation.compare import EvaluateResult
    from onehead_cli.prediction.predict import PredictResult
    from onehead_cli.profiling.profile import ProfileResult
    from onehead_cli.training.run import TrainingResult

P = ParamSpec("P")
T = TypeVar("T")


def _in_several_processes(function: Callable[Concatenate[Config, P], T]) -> Callable[Concatenate[Config, P], T]:
    """What torchrun may start in several processes: each of them calls the function, and all get the same result."""

    @functools.wraps(function)
    def joined(config: Config, /, *args: P.args, **options: P.kwargs) -> T:
        from onehead_cli.runtime.processes import session

        with session(config):
            return function(config, *args, **options)

    return joined


def prepare_synthetic(
    root: Path, *, sizes: tuple[int, int, int], image_size: int, seed: int, overwrite: bool, reporter: Reporter
) -> PrepareResult:
    """Draw the three synthetic datasets; see `datasets.prepare.prepare_synthetic`."""
    from onehead_cli.data.prepare import prepare

    with _drawing(reporter, sizes) as progress:
        return prepare.prepare_synthetic(
            root, sizes=sizes, image_size=image_size, seed=seed, overwrite=overwrite, progress=progress
        )


def prepare_local(
    root: Path,
    draw: OfficialDraw,
    *,
    coco: Path,
    voc: Path,
    imagenette: Path,
    overwrite: bool,
    reporter: Reporter,
) -> PrepareResult:
    """Copy a draw of the official datasets on disk; see `datasets.prepare.prepare_local`."""
    from onehead_cli.data.prepare import prepare

    with _drawing(reporter, draw.sizes) as progress:
        return prepare.prepare_local(
            root, draw, coco=coco, voc=voc, imagenette=imagenette, overwrite=overwrite, progress=progress
        )


def prepare_official(
    root: Path,
    draw: OfficialDraw,
    *,
    cache_folder: Path,
    base_urls: Mapping[str, str],
    overwrite: bool,
    reporter: Reporter,
) -> PrepareResult:
    """Fetch the official datasets and copy a draw of them; see `datasets.prepare.prepare_official`."""
    from onehead_cli.data.prepare import prepare

    with _drawing(reporter, draw.sizes) as progress:
        return prepare.prepare_official(
            root,
            draw,
            cache_folder=cache_folder,
            base_urls=base_urls,
            overwrite=overwrite,
            reporter=reporter,
            progress=progress,
        )


def plan_official(
    draw: OfficialDraw, *, cache_folder: Path, base_urls: Mapping[str, str], reporter: Reporter
) -> tuple[list[Planned], bool]:
    """What `prepare_official` would fetch; see `datasets.prepare.plan_official`."""
    from onehead_cli.data.prepare import prepare

    return prepare.plan_official(draw, cache_folder=cache_folder, base_urls=base_urls, reporter=reporter)


def verify_data(root: Path) -> list[str]:
    """A line for each file of a prepared folder that is missing or differs from its manifest.

    Raises:
        DataError: there is no manifest that can be read.
    """
    from onehead_cli.data.manifest import verify_manifest

    return verify_manifest(root)


def preview_data(
    data: DataConfig, *, splits: Sequence[str], folder: Path, seed: int, reporter: Reporter
) -> dict[str, Any]:
    """Sheets of labelled samples and histograms of the labels; see `datasets.preview.preview_data`.

    Raises:
        DataError: no dataset is there, or one cannot be read.
    """
    from onehead_cli.preview import preview

    return preview.preview_data(data, splits=splits, folder=folder, seed=seed, reporter=reporter)


def check_data(config: Config, *, folder: Path | None, deep: bool, reporter: Reporter) -> Scan:
    """Look at every file of the data; see `datasets.bad_files.scan_for_check`."""
    from onehead_cli.data.scan.bad_files import scan_for_check

    return scan_for_check(config, folder=folder, deep=deep, reporter=reporter)


@contextmanager
def _drawing(reporter: Reporter, sizes: tuple[int, int, int]) -> Iterator[Callable[[str, int, int], None]]:
    """One bar over the pictures of all tasks and splits."""
    with reporter.track("prepare-data", len(TASKS) * sum(sizes)) as advance:
        count = itertools.count(1)
        yield lambda label, done, total: advance(next(count), label)


@_in_several_processes
def train_teacher(config: Config, *, tasks: Sequence[Task], resume: bool, reporter: Reporter) -> list[TrainingResult]:
    """Train a single-task network a task, one after the other.

    Args:
        resume: go on from the last checkpoints; with several tasks, one that was not begun starts anew.

    Raises:
        OneheadError: see `training.run.train_network`.
    """
    from onehead_cli.checkpoint.networks import can_resume
    from onehead_cli.data.scan.bad_files import scan_for_run
    from onehead_cli.runtime.compute import deterministic_algorithms
    from onehead_cli.runtime.processes import from_first
    from onehead_cli.training.hold import hold_runs
    from onehead_cli.training.run import train_network

    names = [task.value for task in tasks]
    splits = (config.data.train_split, config.data.val_split)
    with hold_runs(config.output, names, reporter), deterministic_algorithms(config.deterministic):
        masks = [Task.SEG] if config.teacher.boxes_from_masks and Task.DET in tasks else []
        read = [task for task in config.data.tasks if task in (*tasks, *masks)]
        scan = from_first(lambda: scan_for_run(config, read, splits, reporter))
        begun = from_first(lambda: [task for task in tasks if can_resume(config.output, task.value)])
        results = []
        for index, task in enumerate(tasks):
            go_on = resume and (task in begun or not begun)
            # A new round over several tasks must not be resumed from what an older one left.
            stale = [] if resume else names[index:]
            results.append(
                train_network(
                    task.value,
                    (task,),
                    config,
                    teachers={},
                    resume=go_on,
                    supersedes=stale,
                    scan=scan,
                    reporter=reporter,
                )
            )
        return results


@_in_several_processes
def train_unified(config: Config, *, resume: bool, reporter: Reporter) -> TrainingResult:
    """Train the one network for all `data.tasks`, distilling from the teachers where `distill.lambda` is above 0.

    Raises:
        ConfigError: `data.tasks` names only one.
        CheckpointError: a teacher is missing while lambda is above 0.
        OneheadError: see `training.run.train_network`.
    """
    from onehead_cli.checkpoint.networks import STUDENT, best_path, load_teachers
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
    missing = [best_path(config.teachers_folder, task.value) for task in tasks if task not in teachers]
    if missing and config.distill.lambda_ > 0:
        raise CheckpointError(
            f"teacher missing: {', '.join(map(str, missing))}; train it with `onehead train-teacher --task all`, "
            "name its folder with --teachers, or train without distillation with --lambda-distill 0"
        )
    stale = () if resume else (STUDENT,)
    splits = (config.data.train_split, config.data.val_split)
    with hold_runs(config.output, [STUDENT], reporter), deterministic_algorithms(config.deterministic):
        scan = from_first(lambda: scan_for_run(config, tasks, splits, reporter))
        return train_network(
            STUDENT, tasks, config, teachers=teachers, resume=resume, supersedes=stale, scan=scan, reporter=reporter
        )


@_in_several_processes
def evaluate(
    config: Config,
    *,
    checkpoint: Path | None,
    tasks: Sequence[Task] | None,
    splits: Sequence[str],
    relative: bool,
    reporter: Reporter,
) -> EvaluateResult:
    """Measure a network and the teachers on the pooled splits and check what was lost; see `evaluation.comparison`.

    Args:
        checkpoint: None for the one that `shipped.find_student` gives.

    Raises:
        OneheadError: a checkpoint or dataset cannot be used.
    """
    from onehead_cli.checkpoint.networks import find_student
    from onehead_cli.evaluation.compare import compare
    from onehead_cli.runtime.processes import from_first

    return compare(
        config,
        checkpoint_path=checkpoint or from_first(lambda: find_student(config.output, reporter)),
        tasks=tasks,
        splits=splits,
        relative=relative,
        reporter=reporter,
    )


def profile(
    config: Config,
    *,
    checkpoint: Path | None,
    of_config: bool,
    image_size: int | None,
    batch_size: int,
    runs: int,
    threads: int | None,
    reporter: Reporter,
) -> ProfileResult:
    """Count and time a network and its teachers; see `profiling.profile_network`.

    Args:
        checkpoint: None for the one that `shipped.find_student` gives.
        of_config: not a checkpoint but a new network of `config.model`.

    Raises:
        OneheadError: the checkpoint, the backbone, its weights or the device cannot be used.
    """
    with collector_off():
        from onehead_cli.checkpoint.networks import find_student
        from onehead_cli.profiling.profile import profile_network

        return profile_network(
            config,
            checkpoint=None if of_config else checkpoint or find_student(config.output, reporter),
            image_size=image_size,
            batch_size=batch_size,
            runs=runs,
            threads=threads,
            reporter=reporter,
        )


def predict(
    config: Config,
    *,
    pictures: Sequence[str],
    checkpoint: Path | None,
    score_threshold: float | None,
    overlays: bool,
    masks: bool,
    reporter: Reporter,
) -> PredictResult:
    """Class, mask and boxes of pictures, written to {output}/predictions.

    Args:
        pictures: files, folders and glob patterns.
        checkpoint: None for the one that `shipped.find_student` gives.
        score_threshold: for boxes of every class, instead of the checkpoint's own.

    Raises:
        OneheadError: see `picture_paths.find_pictures` and `prediction.predict_pictures`.
    """
    from onehead_cli.prediction.image_paths import FOLDER, find_pictures

    # A path that is mistyped is said before torch is waited for.
    paths = find_pictures(pictures, skip=config.output / FOLDER, warn=reporter.warn)

    from onehead_cli.checkpoint.networks import find_student
    from onehead_cli.prediction.predict import predict_pictures

    return predict_pictures(
        paths,
        config,
        checkpoint=checkpoint or find_student(config.output, reporter),
        score_threshold=score_threshold,
        overlays=overlays,
        masks=masks,
        reporter=reporter,
    )
