"""How the two training commands show what they made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onehead_cli.commands.console import Console, number, table

if TYPE_CHECKING:
    from onehead_cli.training.run import TrainingResult

_METRICS = ("top1", "miou", "map")


def show_training(command: str, results: Sequence[TrainingResult], console: Console) -> None:
    """A row per network: its best epoch and scores on val."""
    document = {
        "command": command,
        "networks": {
            result.name: {
                "checkpoint": str(result.best),
                "epoch": result.epoch,
                "val": result.scores,
                "resumed_from_epoch": result.resumed_epoch,
                "skipped": result.skipped,
            }
            for result in results
        },
    }
    rows = [
        [result.name, str(result.epoch), *(number(result.scores.get(metric)) for metric in _METRICS)]
        for result in results
    ]
    where = "Checkpoints: " + ", ".join(str(result.best) for result in results)
    console.result(document, table("Best on val", ["Network", "Epoch", "Top-1", "mIoU", "mAP"], rows), where)
