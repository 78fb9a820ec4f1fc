"""What val decides: the checkpoint that is kept and the thresholds that are stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onehead_cli.config.sections import Config
from onehead_cli.data.split import Split
from onehead_cli.evaluation.evaluator import Evaluator
from onehead_cli.network.runner import Runner
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import Reading, all_tasks, get_task


@dataclass(frozen=True)
class Validation:
    """scores: by metric. thresholds: the best for these weights.

    criterion: the larger the better; None where no score could be measured.
    unmeasured: tasks of which val has nothing labelled, so that they have no part in the criterion.
    diagnostics: what shows whether a task is taught well, by name; it decides nothing.
    """

    scores: dict[str, float | None]
    criterion: float | None
    thresholds: dict[str, Any]
    unmeasured: tuple[str, ...] = ()
    diagnostics: dict[str, float | None] = field(default_factory=dict)


def first_thresholds(config: Config) -> dict[str, Any]:
    """The thresholds before val has chosen any; those of tasks that a network does not do stay so."""
    return {k: v for task in all_tasks(config.data.tasks) for k, v in task.first_thresholds(config).items()}


def validate(
    runner: Runner,
    splits: Mapping[str, Split],
    evaluator: Evaluator,
    *,
    architecture: Architecture,
    reading: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    teacher_scores: Mapping[str, float] | None = None,
) -> Validation:
    """Measure a network on val and choose its thresholds.

    The criterion is the smallest gain, over the tasks, on the teacher's score; without a teacher for each of them, the
    mean score. A score of which less is better counts with the other sign; one that cannot be measured does not count.

    Args:
        splits: val of each task.
        reading: how the maps are read.
        thresholds: kept where there is no task to choose them on.
        teacher_scores: main score of each teacher on val.
    """
    scores: dict[str, float | None] = {}
    diagnostics: dict[str, float | None] = {}
    chosen = dict(thresholds)
    for name, split in splits.items():
        task = get_task(name)
        own = task.changed_reading(reading, evaluator.config)
        reader = task.reader(Reading(architecture, own, chosen, evaluator.config))
        choice = reader.choose(evaluator.observe(runner, split, reader, choosing=True), split)
        chosen |= choice.thresholds
        diagnostics |= choice.diagnostics
        scores |= choice.result.scores()
    metrics = {name: get_task(name).metric for name in splits}
    measured = {name: value for name, metric in metrics.items() if (value := scores[metric.key]) is not None}
    main = {name: metrics[name].sign * value for name, value in measured.items()}
    criterion = None
    if main and teacher_scores and all(name in teacher_scores for name in main):
        criterion = min(value - metrics[name].sign * teacher_scores[name] for name, value in main.items())
    elif main:
        criterion = sum(main.values()) / len(main)
    unmeasured = tuple(name for name in splits if name not in main)
    return Validation(scores, criterion, chosen, unmeasured, diagnostics)
