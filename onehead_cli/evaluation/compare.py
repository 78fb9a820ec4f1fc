"""Student and teachers on the same images: scores, drop check and report files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.checkpoint.exported import SUFFIX, load_network
from onehead_cli.checkpoint.networks import load_teachers
from onehead_cli.config.sections import Config
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.format import check_classes
from onehead_cli.data.listings import Listings
from onehead_cli.data.manifest import manifest_hash
from onehead_cli.data.scan.bad_files import scan_for_run
from onehead_cli.data.split import Loading, Split
from onehead_cli.errors import CheckpointError, ConfigError, DataError
from onehead_cli.evaluation.drop_check import Drop, check_drop
from onehead_cli.evaluation.evaluator import Evaluator
from onehead_cli.evaluation.report import imagenet_sentence, write_report
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import make_writable_folder
from onehead_cli.files.json_files import SCHEMA
from onehead_cli.network.closed_form import image_task
from onehead_cli.runtime.compute import resolve_device, resolve_precision
from onehead_cli.runtime.launch import is_main, world_size
from onehead_cli.runtime.memory import keep_freed_memory
from onehead_cli.runtime.processes import from_first
from onehead_cli.tasks.reader import Result, Row
from onehead_cli.tasks.task import all_tasks, get_task

#: Of a drop, in the document.
_DROP_KEYS = ("diff", "low", "high", "within_limit", "verdict", "reason")


@dataclass(frozen=True)
class EvaluateResult:
    """document: what evaluate.json holds. drops: one per task with a baseline. files: the report, where it was written.

    baseline, unified: what the networks said of each image, by task.
    complete: every task that was evaluated could be compared; a teacher on its own has nothing to be compared with.
    """

    document: dict[str, Any]
    drops: list[Drop]
    files: list[Path]
    complete: bool
    baseline: Mapping[str, Result]
    unified: Mapping[str, Result]


def compare(
    config: Config,
    *,
    checkpoint_path: Path,
    tasks: Sequence[str] | None,
    splits: Sequence[str],
    relative: bool,
    reporter: Reporter,
) -> EvaluateResult:
    """Evaluate a network and, where their checkpoints are there, the teachers, on the pooled splits.

    A teacher's own checkpoint is evaluated as the baseline of its task. Image size, fit and thresholds are those
    stored in each checkpoint.

    Args:
        tasks: None for all that the network does.
        relative: the largest drop is a share of the baseline's score.

    Raises:
        OneheadError: a checkpoint or dataset cannot be used, or the network does not do a task.
    """
    if world_size() > 1 and checkpoint_path.suffix == SUFFIX:
        raise ConfigError(f"{checkpoint_path}: an exported file is evaluated in one process")
    checkpoint = from_first(lambda: load_network(checkpoint_path, threads=config.threads))
    known = checkpoint.architecture.tasks
    wanted = [task for task in config.data.tasks if task in (tasks or known)]
    if lacking := [task for task in wanted if task not in known]:
        raise CheckpointError(f"{checkpoint_path} has no output for {', '.join(lacking)}; it does {', '.join(known)}")
    if not wanted:
        raise CheckpointError(f"{checkpoint_path} does {', '.join(known)}; data.tasks has none of it")
    if tasks is None and (left_out := [task for task in known if task not in wanted]):
        reporter.note(f"{', '.join(left_out)}: not evaluated, for data.tasks does not name it")
    from_first(lambda: make_writable_folder(config.output))
    is_student = len(known) > 1
    baselines = from_first(lambda: load_teachers(config)) if is_student else {known[0]: checkpoint}
    listings = Listings(config, classes={task: checkpoint.architecture.classes[task] for task in wanted})
    scan = from_first(lambda: scan_for_run(listings, wanted, splits, reporter))
    listings.leave_out(scan.bad)
    reader = Measurer(config, splits, listings, reporter)
    _warn_about_other_data([checkpoint, *baselines.values()], config, reader)
    missing = [task for task in wanted if task not in baselines]
    if missing:
        reader.warn(f"no teacher for {', '.join(missing)} in {config.teachers_folder}: no drop check there")

    networks = {
        "unified": dict.fromkeys(wanted, checkpoint) if is_student else {},
        "baseline": {task: baselines[task] for task in wanted if task in baselines},
    }
    imagenet = {label: _began_as_imagenet(checkpoints) for label, checkpoints in networks.items()}
    if any(imagenet.values()):
        reporter.note(imagenet_sentence(imagenet))
    unified, baseline = (reader.measure(label, checkpoints) for label, checkpoints in networks.items())
    drops = find_drops(config, baseline, unified, relative=relative, warn=reader.warn)
    document = {
        "command": "evaluate",
        "checkpoint": str(checkpoint_path),
        "splits": list(splits),
        "pictures": {task: len(result) for task, result in (unified or baseline).items()},
        "unified": _scores(unified, wanted),
        "baseline": _scores(baseline, wanted),
        "drop": {task.name: _drop(drops, task.name) for task in all_tasks(wanted)},
        "drop_limit": config.evaluation.drop_limit,
        "relative": relative,
        "resamples": config.evaluation.resamples,
        "seed": config.seed,
        "skipped": scan.bad_counts(),
        "imagenet_classes": imagenet,
        "warnings": reader.warnings,
    }
    per_class = {task: {"baseline": _rows(baseline, task), "unified": _rows(unified, task)} for task in wanted}
    curves = _curves("baseline", baseline) | _curves("unified", unified)
    files: list[Path] = []
    if is_main():
        files = write_report(config.output, {"schema": SCHEMA, **document}, per_class, drops=drops, curves=curves)
    return EvaluateResult(
        document, drops, files, complete=not is_student or len(drops) == len(wanted), baseline=baseline, unified=unified
    )


def find_drops(
    config: Config,
    baseline: Mapping[str, Result],
    unified: Mapping[str, Result],
    *,
    relative: bool = False,
    warn: Callable[[str], None],
) -> list[Drop]:
    """One per task that both did and that can be compared, by `check_drop`. Args: warn: is told of any other."""
    drops, settings = [], config.evaluation
    for task in unified:
        if task not in baseline:
            continue
        try:
            drop = check_drop(
                baseline[task],
                unified[task],
                limit=settings.drop_limit,
                relative=relative,
                resamples=settings.resamples,
                seed=config.seed,
            )
        except DataError as error:  # nothing of this task is labelled; the others are still worth a report
            warn(str(error))
        else:
            drops.append(drop)
            if drop.reason is not None:
                warn(f"{task}: {drop.reason}, so the verdict is {drop.verdict}")
    return drops


class Measurer:
    """Measures checkpoints on the splits; a dataset is read once for all networks of the same input."""

    def __init__(self, config: Config, splits: Sequence[str], listings: Listings, reporter: Reporter) -> None:
        self.config = config
        self.splits = splits
        self.listings = listings
        self.reporter = reporter
        self.device = resolve_device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = resolve_precision(config.model.precision, self.device)
        self.budget = CacheBudget(config.data.cache_mb)
        self.warnings: list[str] = []
        self._loaded: dict[tuple[Any, ...], list[Split]] = {}

    def measure(self, label: str, networks: Mapping[str, Checkpoint]) -> dict[str, Result]:
        """The result of each task's network; a network that does several tasks is built once."""
        data = {task: self._load(task, checkpoint) for task, checkpoint in networks.items()}
        results: dict[str, Result] = {}
        models = {id(checkpoint): checkpoint for checkpoint in networks.values()}
        done, total = 0, sum(len(split) for parts in data.values() for split in parts)
        if not total:
            return results
        with self.reporter.track(label, total) as advance:

            def count(images: int) -> None:
                nonlocal done
                done += images
                advance(done, "")

            for identity, checkpoint in models.items():
                runner = checkpoint.runner(self.device, self.precision)
                evaluator = Evaluator(self.config.evaluation, count)
                for task, parts in data.items():
                    if id(networks[task]) == identity:
                        results[task] = evaluator.measure(
                            runner, parts, checkpoint.reader(task, self.config.evaluation)
                        )
        return {task: results[task] for task in networks}

    def warn(self, message: str) -> None:
        self.reporter.warn(message)
        self.warnings.append(message)

    def _load(self, task: str, checkpoint: Checkpoint) -> list[Split]:
        stored = checkpoint.preprocess
        key = (task, stored["image_size"], stored["fit"], stored["interpolation"])
        if key not in self._loaded:
            input_ = {"image_size": stored["image_size"], "fit": stored["fit"]}
            config = self.config.model_copy(update={"data": self.config.data.model_copy(update=input_)})
            parts = [
                get_task(task).load(
                    self.listings.get(task, split), config, Loading(stored["interpolation"], self.budget)
                )
                for split in self.splits
            ]
            for warning in [warning for part in parts for warning in part.warnings]:
                self.warn(warning)
            self._loaded[key] = parts
        for split, part in zip(self.splits, self._loaded[key], strict=True):
            check_classes(task, part.classes, checkpoint.architecture.classes[task], f"split {split}")
        return self._loaded[key]


def _warn_about_other_data(checkpoints: Sequence[Checkpoint], config: Config, reader: Measurer) -> None:
    """Say once of each checkpoint that its training data had another manifest than the data root has now."""
    for name, (trained, tasks) in {
        each.name: (each.data.get("manifest"), each.architecture.tasks) for each in checkpoints
    }.items():
        held = manifest_hash(config, tasks)
        if held and trained and held != trained:
            reader.warn(
                f"{name}: trained on other data than {config.data.root} holds now (manifest {trained[:12]}, "
                f"now {held[:12]}); test images may have been trained on"
            )


def _began_as_imagenet(networks: Mapping[str, Checkpoint]) -> bool:
    """Whether classification, where it is measured, began as the ImageNet classifier."""
    task = image_task(networks)
    return task is not None and bool(networks[task].config.get("model", {}).get("imagenet_classes"))


def _curves(label: str, results: Mapping[str, Result]) -> dict[str, list[list[Any]]]:
    """Confusion matrices and precision-recall curves by file name."""
    found = [curve for result in results.values() for curve in result.curves().items()]
    return {f"{name}_{label}.csv": rows for name, rows in found}


def _rows(results: Mapping[str, Result], task: str) -> list[Row] | None:
    return results[task].per_class() if task in results else None


def _scores(results: Mapping[str, Result], tasks: Sequence[str]) -> dict[str, float | None]:
    found = {name: value for result in results.values() for name, value in result.scores().items()}
    return {metric.key: found.get(metric.key) for task in all_tasks(tasks) for metric in task.metrics}


def _drop(drops: Sequence[Drop], task: str) -> dict[str, Any]:
    """The task's drop; nulls where there was nothing to compare."""
    for drop in drops:
        if drop.task == task:
            names = _DROP_KEYS
            return {name: getattr(drop, name) for name in names}
    return dict.fromkeys(_DROP_KEYS)
