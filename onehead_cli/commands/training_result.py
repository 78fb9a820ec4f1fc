"""How the two training commands show what they made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onehead_cli.commands.console import Console, number, table
from onehead_cli.commands.seeds import begun
from onehead_cli.config.sections import Config

if TYPE_CHECKING:
    from onehead_cli.training.run import TrainingResult


def train_seeds(
    command: str,
    configs: Mapping[int, Config],
    train: Callable[[Config, bool], Sequence[TrainingResult]],
    *,
    names: Sequence[str],
    resume: bool,
    console: Console,
) -> None:
    """Train for each seed and show all.

    Args:
        train: with a config, and whether the run goes on. names: of the networks.
        resume: a seed that was begun goes on, a finished one is left as it is, the others begin.
    """
    gone_on = set(begun(configs, names)) if resume else set()
    results = {}
    for seed, config in configs.items():
        console.note(f"seed {seed}: {config.output}")
        results[seed] = train(config, seed in gone_on)
    document = {"command": command, "seeds": {str(seed): _networks(found) for seed, found in results.items()}}
    rows = [[str(seed), *row] for seed, found in results.items() for row in _rows(found)]
    every = [result for found in results.values() for result in found]
    console.result(document, table("Kept weights, on val", ["Seed", "Network", "Epoch", *_labels(every)], rows, left=2))


def show_training(command: str, results: Sequence[TrainingResult], console: Console) -> None:
    """A row per network: the epoch that was kept and its scores on val."""
    document = {"command": command, "networks": _networks(results)}
    where = "Checkpoints: " + ", ".join(str(result.best) for result in results)
    header = ["Network", "Epoch", *_labels(results)]
    console.result(document, table("Kept weights, on val", header, list(_rows(results))), where)


def _networks(results: Sequence[TrainingResult]) -> dict[str, Any]:
    return {
        result.name: {
            "checkpoint": str(result.best),
            "epoch": result.epoch,
            "val": result.scores,
            "resumed_from_epoch": result.resumed_epoch,
            "skipped": result.skipped,
        }
        for result in results
    }


def _labels(results: Sequence[TrainingResult]) -> list[str]:
    from onehead_cli.tasks.task import all_tasks

    return [task.metric.label for task in all_tasks([name for result in results for name in result.tasks])]


def _rows(results: Sequence[TrainingResult]) -> list[list[str]]:
    from onehead_cli.tasks.task import all_tasks

    metrics = [task.metric for task in all_tasks([name for result in results for name in result.tasks])]
    return [
        [result.name, str(result.epoch), *(number(result.scores.get(metric.key)) for metric in metrics)]
        for result in results
    ]
