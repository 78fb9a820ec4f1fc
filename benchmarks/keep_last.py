"""What keeping the last weights instead of the best on val is worth, from the curves that 0.1.0 kept.

    python benchmarks/keep_last.py

The chosen epoch is ahead on val because it was chosen there. So three figures a network and score, means over its runs:
as val says: last minus chosen; the noise: the deviation of one evaluation from the mean of the two beside it, over the
second half of the curve, as that of one evaluation; without the choice: the mean of the two evaluations before the last
one minus the mean of the two beside the chosen one, none of which the choice has looked at.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.data import FULL, PLAIN, load_results
from rich.console import Console as RichConsole

from onehead_cli.checkpoint.networks import STUDENT
from onehead_cli.commands.console import table
from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task

FOLDER = Path(__file__).parent / "results" / "0.1.0"


@dataclass(frozen=True)
class Curve:
    """A score on val. scores: of each evaluation. epochs: when it was made. chosen: the epoch that was kept."""

    scores: Sequence[float]
    epochs: Sequence[int]
    chosen: int

    @property
    def loss(self) -> float:
        """The last score minus that of the chosen epoch."""
        return self.scores[-1] - self.scores[self.epochs.index(self.chosen)]

    @property
    def noise(self) -> float:
        """Deviation of one evaluation; x - (a + b) / 2 of three like ones has 1.5 times its variance."""
        late = self.scores[len(self.scores) // 2 - 1 :]
        away = [b - (a + c) / 2 for a, b, c in zip(late, late[1:], late[2:], strict=False)]
        return math.sqrt(statistics.fmean(x * x for x in away) / 1.5)

    @property
    def unchosen_loss(self) -> float:
        """The evaluations before the last one against those beside the chosen one."""
        place = self.epochs.index(self.chosen)
        beside = [*self.scores[max(place - 1, 0) : place], *self.scores[place + 1 : place + 2]]
        return statistics.fmean(self.scores[-3:-1]) - statistics.fmean(beside)


def curves() -> Iterator[tuple[str, Curve]]:
    """Each curve of the finals with the name of what it is of; copied networks once."""
    finals = load_results(FOLDER, list(range(100)), "lite-quick.yaml").finals
    for document in itertools.chain(finals[FULL].values(), finals[PLAIN].values()):
        for name, network in document["networks"].items():
            if network.get("copied_from"):
                continue
            for task in TASKS if name == STUDENT else [name]:
                metric = get_task(task).metric.key
                rows = [(e["epoch"], e["val"][metric]) for e in network["epochs"] if e["val"].get(metric) is not None]
                curve = Curve([score for _, score in rows], [epoch for epoch, _ in rows], network["best_epoch"])
                yield f"{'student' if name == STUDENT else 'teacher'}, {metric}", curve


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found: dict[str, list[Curve]] = defaultdict(list)
    for name, curve in curves():
        found[name].append(curve)
    rows = []
    for name, runs in sorted(found.items()):
        chosen = ", ".join(f"{curve.chosen}/{curve.epochs[-1]}" for curve in runs)
        means = [[getattr(curve, key) for curve in runs] for key in ("loss", "noise", "unchosen_loss")]
        rows.append([name, chosen, *(f"{statistics.fmean(values):+.4f}" for values in means)])
    columns = ["Of", "Chosen", "On val", "Noise", "Without the choice"]
    RichConsole(highlight=False).print(table("Last minus chosen", columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
