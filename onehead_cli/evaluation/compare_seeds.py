"""The evaluations of several seeds as one: means, deviations, and one verdict per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onehead_cli.config.sections import Config
from onehead_cli.errors import DataError, OneheadError
from onehead_cli.evaluation.compare import EvaluateResult
from onehead_cli.evaluation.over_seeds import SeedsDrop, check_drop_over_seeds
from onehead_cli.files.json_files import SCHEMA, write_json

FILE = "evaluate_seeds.json"


@dataclass(frozen=True)
class SeedsResult:
    """document: what evaluate_seeds.json holds. drops: of each comparison, one per task that all seeds could compare.

    complete: every seed could compare every task. file: where it was written.
    """

    document: dict[str, Any]
    drops: list[list[SeedsDrop]]
    complete: bool
    file: Path

    @property
    def all_drops(self) -> list[SeedsDrop]:
        return [drop for drops in self.drops for drop in drops]


def compare_seeds(
    results: Mapping[int, EvaluateResult], config: Config, *, against: Sequence[Path] = ()
) -> SeedsResult:
    """Judge the evaluations of at least two seeds together, and write the document into the output folder.

    Args:
        results: by seed, all with the same comparisons. config: has the folder, and the draw of the resamples.
        against: what the comparisons are called; each seed may have had a folder of its own within.

    Raises:
        DataError: the seeds were measured on different images.
        OneheadError: the file cannot be written.
    """
    first = next(iter(results.values()))
    drops = [_drops(results, place, config) for place in range(len(first.comparisons))]
    document = {
        "command": "evaluate",
        "seeds": {str(seed): result.document for seed, result in results.items()},
        "over_seeds": [
            {"against": None if path is None else str(path), "drop": {drop.task: asdict(drop) for drop in found}}
            for path, found in zip([*against] if against else [None], drops, strict=True)
        ],
    }
    path = config.output / FILE
    try:
        write_json({"schema": SCHEMA, **document}, path, indent=2)
    except OSError as error:
        raise OneheadError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None
    return SeedsResult(document, drops, all(result.complete for result in results.values()), path)


def _drops(results: Mapping[int, EvaluateResult], place: int, config: Config) -> list[SeedsDrop]:
    first = next(iter(results.values()))
    found = []
    for task in first.unified:
        compared = [result.comparisons[place] for result in results.values()]
        # A task that one seed cannot compare, for it lacks the teacher or has nothing to score, was warned about.
        if any(task not in [drop.task for drop in comparison.drops] for comparison in compared):
            continue
        if any(result.paths[task] != first.paths[task] for result in results.values()):
            raise DataError(f"{task}: the seeds were measured on different images, so they cannot be judged together")
        pairs = [(c.results[task], r.unified[task]) for c, r in zip(compared, results.values(), strict=True)]
        found.append(
            check_drop_over_seeds(
                pairs,
                limit=config.evaluation.drop_limit,
                relative=first.document["relative"],
                resamples=config.evaluation.resamples,
                seed=config.seed,
            )
        )
    return found
