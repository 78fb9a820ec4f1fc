"""Compare a network with others on the same images: the teachers, or whatever checkpoints are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.checkpoint.exported import SUFFIX, load_network
from onehead_cli.checkpoint.networks import load_compared, load_teachers
from onehead_cli.config.sections import Config
from onehead_cli.data.listings import Listings
from onehead_cli.data.manifest import manifest_hash
from onehead_cli.data.scan.bad_files import scan_for_run
from onehead_cli.errors import CheckpointError, ConfigError, DataError
from onehead_cli.evaluation.drop_check import Drop, check_drop
from onehead_cli.evaluation.measurer import Measurer
from onehead_cli.evaluation.report import imagenet_sentence
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import make_writable_folder
from onehead_cli.network.closed_form import image_task
from onehead_cli.runtime.launch import world_size
from onehead_cli.runtime.processes import from_first
from onehead_cli.tasks.reader import Result, Row
from onehead_cli.tasks.task import all_tasks

#: Of a drop, in the document.
_DROP_KEYS = ("diff", "low", "high", "within_limit", "verdict", "reason", "images_to_decide")


@dataclass(frozen=True)
class Comparison:
    """What a network is compared with.

    against: the checkpoint or folder; None for the config's teachers.
    networks, results: by task. drops: one per task that could be compared.
    """

    against: Path | None
    networks: Mapping[str, Checkpoint]
    results: Mapping[str, Result]
    drops: Sequence[Drop]


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured.

    document: what evaluate.json holds. files: the report, where it was written.
    checkpoint: the file of the network. networks, unified: the network and what it said of each image, by task; empty
        where it is a teacher alone, which is then the baseline.
    comparisons: with what it is compared; at least one, which may be empty.
    complete: every task that was evaluated could be compared; a teacher on its own has nothing to be compared with.
    measurer: has the splits. paths: of the images, by task.
    """

    document: dict[str, Any]
    checkpoint: Path
    networks: Mapping[str, Checkpoint]
    unified: Mapping[str, Result]
    comparisons: Sequence[Comparison]
    complete: bool
    measurer: Measurer
    paths: Mapping[str, Sequence[Path]]
    files: list[Path] = field(default_factory=list)

    @property
    def baseline(self) -> Mapping[str, Result]:
        """Of the first comparison, by task."""
        return self.comparisons[0].results

    @property
    def drops(self) -> list[Drop]:
        """Of all comparisons."""
        return [drop for comparison in self.comparisons for drop in comparison.drops]

    def per_class(self) -> dict[str, dict[str, list[Row] | None]]:
        """task -> {"baseline": rows, "unified": rows}."""
        tasks = dict.fromkeys((*self.unified, *self.baseline))
        return {task: {"baseline": _rows(self.baseline, task), "unified": _rows(self.unified, task)} for task in tasks}

    def curves(self) -> dict[str, list[list[Any]]]:
        """Confusion matrices and precision-recall curves by file name."""
        return _curves("baseline", self.baseline) | _curves("unified", self.unified)


def compare(
    config: Config,
    *,
    checkpoint_path: Path,
    tasks: Sequence[str] | None,
    splits: Sequence[str],
    relative: bool,
    against: Sequence[Path] = (),
    reporter: Reporter,
) -> EvaluateResult:
    """Evaluate a network and what it is compared with, on the pooled splits.

    Without anything to compare it with, that are the teachers whose checkpoints are there; a teacher's own checkpoint
    is then evaluated as the baseline of its task. Image size, fit and thresholds are those stored in each checkpoint.

    Args:
        tasks: None for all that the network does.
        relative: the largest drop is a share of the baseline's score.
        against: checkpoints, exported files, and folders of networks; see `load_compared`.

    Raises:
        OneheadError: a checkpoint or dataset cannot be used, or the network does not do a task.
    """
    if world_size() > 1 and SUFFIX in (checkpoint_path.suffix, *(path.suffix for path in against)):
        raise ConfigError("an exported file is evaluated in one process")
    checkpoint = from_first(lambda: load_network(checkpoint_path, threads=config.threads))
    known = checkpoint.architecture.tasks
    wanted = [task for task in config.data.tasks if task in (tasks or known)]
    if unknown := [task for task in tasks or () if task not in config.data.tasks]:
        raise ConfigError(f"{', '.join(unknown)}: not among data.tasks, which names {', '.join(config.data.tasks)}")
    if lacking := [task for task in wanted if task not in known]:
        raise CheckpointError(f"{checkpoint_path} has no output for {', '.join(lacking)}; it does {', '.join(known)}")
    if not wanted:
        raise CheckpointError(f"{checkpoint_path} does {', '.join(known)}; data.tasks has none of them")
    if tasks is None and (left_out := [task for task in known if task not in wanted]):
        reporter.note(f"{', '.join(left_out)}: not evaluated, because data.tasks does not name it")
    from_first(lambda: make_writable_folder(config.output))
    is_compared = bool(against) or len(known) > 1
    others: list[tuple[Path | None, dict[str, Checkpoint]]] = []
    for path in against:
        load = partial(load_compared, path, wanted, threads=config.threads)
        others.append((path, from_first(load)))
    if not against:
        teachers = from_first(lambda: load_teachers(config)) if is_compared else {known[0]: checkpoint}
        others.append((None, {task: teachers[task] for task in wanted if task in teachers}))
    for against_path, found in others if against else ():
        for task, network in found.items():
            if list(network.architecture.classes[task]) != list(checkpoint.architecture.classes[task]):
                raise CheckpointError(f"{against_path}: its classes of {task} are not those of {checkpoint_path}")
    listings = Listings(config, classes={task: checkpoint.architecture.classes[task] for task in wanted})
    scan = from_first(lambda: scan_for_run(listings, wanted, splits, reporter))
    listings.leave_out(scan.bad)
    measurer = Measurer(config, splits, listings, reporter)
    named = {id(checkpoint): (checkpoint.name, checkpoint)}
    for against_path, found in others:
        of_path = "" if against_path is None else f" of {against_path}"
        named |= {id(each): (each.name + of_path, each) for each in found.values() if id(each) not in named}
    _warn_about_other_data(list(named.values()), config, measurer)
    for against_path, found in others:
        if missing := [task for task in wanted if task not in found]:
            what, where = ("network", against_path) if against_path else ("teacher", config.teachers_folder)
            measurer.warn(f"no {what} for {', '.join(missing)} in {where}: no drop check there")
    networks = dict.fromkeys(wanted, checkpoint) if is_compared else {}
    imagenet = {"unified": _began_as_imagenet(networks), "baseline": _began_as_imagenet(others[0][1])}
    if any(imagenet.values()):
        reporter.note(imagenet_sentence(imagenet))
    unified = measurer.measure("unified", networks)
    comparisons = []
    for against_path, found in others:
        results = measurer.measure("baseline" if against_path is None else against_path.name, found)
        drops = find_drops(config, results, unified, relative=relative, warn=measurer.warn)
        comparisons.append(Comparison(against_path, found, results, drops))
    document = {
        "command": "evaluate",
        "checkpoint": str(checkpoint_path),
        "splits": list(splits),
        "pictures": {task: len(result) for task, result in (unified or comparisons[0].results).items()},
        "unified": _scores(unified, wanted),
        "baseline": _scores(comparisons[0].results, wanted),
        "drop": _drops(comparisons[0].drops, wanted),
        "comparisons": [
            {
                "against": None if each.against is None else str(each.against),
                "scores": _scores(each.results, wanted),
                "drop": _drops(each.drops, wanted),
            }
            for each in comparisons
        ],
        "drop_limit": config.evaluation.drop_limit,
        "relative": relative,
        "resamples": config.evaluation.resamples,
        "seed": config.seed,
        "skipped": scan.bad_counts(),
        "imagenet_classes": imagenet,
        "warnings": measurer.warnings,
    }
    complete = not is_compared or all(len(each.drops) == len(wanted) for each in comparisons)
    paths = {task: [path for split in splits for path in listings.get(task, split).images] for task in wanted}
    return EvaluateResult(document, checkpoint_path, networks, unified, comparisons, complete, measurer, paths)


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


def _warn_about_other_data(named: Sequence[tuple[str, Checkpoint]], config: Config, reader: Measurer) -> None:
    """Say of each checkpoint, by name, that its training data had another manifest than the data root has now."""
    for name, each in named:
        trained, held = each.data.get("manifest"), manifest_hash(config, each.architecture.tasks)
        if held and trained and held != trained:
            reader.warn(
                f"{name}: not trained on the data now in {config.data.root} (manifest {trained[:12]}, "
                f"now {held[:12]}); it may have been trained on test images"
            )


def _began_as_imagenet(networks: Mapping[str, Checkpoint]) -> bool:
    """Whether classification, where it is measured, began as the ImageNet classifier."""
    task = image_task(networks)
    return task is not None and networks[task].began_as_imagenet


def _curves(label: str, results: Mapping[str, Result]) -> dict[str, list[list[Any]]]:
    """Confusion matrices and precision-recall curves by file name."""
    found = [curve for result in results.values() for curve in result.curves().items()]
    return {f"{name}_{label}.csv": rows for name, rows in found}


def _rows(results: Mapping[str, Result], task: str) -> list[Row] | None:
    return results[task].per_class() if task in results else None


def _scores(results: Mapping[str, Result], tasks: Sequence[str]) -> dict[str, float | None]:
    found = {name: value for result in results.values() for name, value in result.scores().items()}
    return {metric.key: found.get(metric.key) for task in all_tasks(tasks) for metric in task.metrics}


def _drops(drops: Sequence[Drop], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each task's drop; nulls where there was nothing to compare."""
    found = {drop.task: asdict(drop) for drop in drops}
    return {task.name: {key: found.get(task.name, {}).get(key) for key in _DROP_KEYS} for task in all_tasks(tasks)}
