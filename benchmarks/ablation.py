"""Train a list of recipes over seeds and compare them on val; what is done already is skipped.

    python benchmarks/ablation.py benchmarks/ablation.yaml --data data --seeds 0,1,2

The YAML names a base config and runs, each a name, a network (cls, seg, det: a single-task network; all: the student,
with teachers of the same settings), the fields that differ from the base config, and where it is not "base", the run of
the same network that this one is compared with:

    base: lite-quick.yaml
    runs:
      - {name: base, network: seg}
      - {name: twice as long, network: seg, set: {teacher.epochs: 30}}
      - {name: long and steep, network: seg, set: {teacher.epochs: 30, teacher.lr: 2.0e-3}, against: twice as long}

Each finished run is a JSON in the results folder; a run that was stopped goes on from its checkpoints. The comparison,
there as comparison.json and comparison.md, shows mean and deviation over the seeds and the paired difference with the
run that each is compared with. The test split is never read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from common import data_hashes, finished, learned_from, machine, write_document

from onehead_cli import engine
from onehead_cli.checkpoint import best_path, last_path
from onehead_cli.config import Config, load_config
from onehead_cli.console import Console
from onehead_cli.errors import ConfigError, OneheadError
from onehead_cli.types import MAIN_METRIC, TASKS, Task

BASE = "base"
_STUDENT = "all"


@dataclass(frozen=True)
class Recipe:
    """One line of the comparison. changes: dotted config key -> value; against: the name of the recipe to subtract."""

    name: str
    network: str
    changes: dict[str, Any] = field(default_factory=dict)
    against: str = BASE

    @property
    def slug(self) -> str:
        return f"{self.network}-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"

    @property
    def trained(self) -> list[str]:
        """The networks that it takes."""
        return [*(task.value for task in TASKS), _STUDENT] if self.network == _STUDENT else [self.network]


@dataclass(frozen=True)
class Plan:
    """The base config's file and the recipes."""

    base: Path
    recipes: list[Recipe]


def read_plan(path: Path) -> Plan:
    """Raises: ConfigError: the YAML is no plan, recipes share a name, or one is compared with what is not there."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipes = [
            Recipe(str(run["name"]), str(run["network"]), dict(run.get("set") or {}), str(run.get("against", BASE)))
            for run in raw["runs"]
        ]
        base = path.parent / str(raw["base"])
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a plan of runs, see benchmarks/ablation.py ({' '.join(str(error).split())})"
        ) from None
    known = {*(task.value for task in TASKS), _STUDENT}
    for recipe in recipes:
        if recipe.network not in known:
            raise ConfigError(f"{path}: run '{recipe.name}': network must be one of {', '.join(sorted(known))}")
    slugs = [recipe.slug for recipe in recipes]
    if repeated := {slug for slug in slugs if slugs.count(slug) > 1}:
        raise ConfigError(f"{path}: several runs are called {', '.join(sorted(repeated))}")
    names = {(recipe.network, recipe.name) for recipe in recipes}
    for recipe in recipes:
        if recipe.against != BASE and (recipe.network, recipe.against) not in names:
            raise ConfigError(
                f"{path}: run '{recipe.name}' is against '{recipe.against}', no run of network {recipe.network}"
            )
    return Plan(base, recipes)


def config_of(plan: Plan, recipe: Recipe, *, seed: int, data: Path, output: Path) -> Config:
    """The base config with the recipe's changes; recipes whose teachers are the same share a folder of teachers."""
    config = load_config(plan.base, {**recipe.changes, "seed": seed, "data.root": data})
    teachers = output / f"teachers-{_teachers_hash(config)}-seed{seed}"
    own = output / f"{recipe.slug}-seed{seed}"
    return load_config(
        plan.base,
        {
            **recipe.changes,
            "seed": seed,
            "data.root": data,
            "output": own if recipe.network == _STUDENT else teachers,
            "distill.teachers": teachers,
        },
    )


def run(config: Config, network: str, console: Console) -> dict[str, Any]:
    """Train what is not trained yet; the scores on val of the network and, for a student, of its teachers."""
    began = time.perf_counter()
    teachers = config.model_copy(update={"output": config.teachers_folder})
    wanted = TASKS if network == _STUDENT else (Task(network),)
    scores: dict[str, dict[str, float | None]] = {}
    for task in wanted:
        resume = last_path(teachers.output, task.value).is_file()
        [result] = engine.train_teacher(teachers, tasks=[task], resume=resume, reporter=console)
        scores[task.value] = result.scores
    if network == _STUDENT:
        resume = last_path(config.output, _STUDENT).is_file()
        scores[_STUDENT] = engine.train_unified(config, resume=resume, reporter=console).scores
    return {
        "scores": scores,
        "checkpoint": str(best_path(config.output, network)),
        "seconds": round(time.perf_counter() - began, 1),
        "resumed": resume,
        **machine(),
    }


def compare(recipes: Sequence[Recipe], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a recipe and task: mean and deviation over the seeds, and the paired difference with what it is against.

    Args:
        recipes: those of the plan.
        results: their finished runs' documents; seeds that only one side has are left out of the difference.
    """
    against = {(recipe.network, recipe.name): recipe.against for recipe in recipes}
    rows = []
    by_recipe: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for result in results:
        by_recipe.setdefault((result["network"], result["name"]), {})[result["seed"]] = result
    for (network, name), runs in by_recipe.items():
        other = against[network, name] if name != against[network, name] else None
        others = by_recipe.get((network, other), {}) if other else {}
        for task in TASKS if network == _STUDENT else (Task(network),):
            metric = MAIN_METRIC[task]
            values = {seed: result["scores"][network][metric] for seed, result in runs.items()}
            gains = [values[seed] - others[seed]["scores"][network][metric] for seed in values if seed in others]
            own_teacher = (
                [values[seed] - runs[seed]["scores"][task.value][metric] for seed in values]
                if network == _STUDENT
                else []
            )
            rows.append(
                {
                    "network": network,
                    "name": name,
                    "metric": metric,
                    "seeds": sorted(values),
                    "mean": statistics.fmean(values.values()),
                    "deviation": _deviation(list(values.values())),
                    "against": other,
                    "difference": statistics.fmean(gains) if gains else None,
                    "difference_deviation": _deviation(gains),
                    "minus_teacher": statistics.fmean(own_teacher) if own_teacher else None,
                }
            )
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Recipes compared on val",
        "",
        "Written by `benchmarks/ablation.py`. Deviation over seeds; difference: paired by seed, against the recipe",
        "named, of the same network; minus teacher: against the single-task network of the same settings and seed.",
        "",
        "| network | recipe | score | seeds | mean | deviation | against | difference | deviation | minus teacher |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [_signed(row[key]) for key in ("difference", "difference_deviation", "minus_teacher")]
        deviation = "–" if row["deviation"] is None else f"{row['deviation']:.4f}"
        lines.append(
            f"| {row['network']} | {row['name']} | {row['metric']} | {', '.join(map(str, row['seeds']))} "
            f"| {row['mean']:.4f} | {deviation} | {row['against'] or '–'} | {' | '.join(figures)} |"
        )
    return "\n".join(lines) + "\n"


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _teachers_hash(config: Config) -> str:
    kept = config.model_dump(mode="json", include={"data": True, "model": True, "teacher": True})
    kept["data"].pop("root")
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:10]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path("output/ablation"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="the finished runs' JSON")
    parser.add_argument("--seeds", default="0", help="numbers, comma-separated")
    parser.add_argument("--only", default="", help="run only the recipes whose name holds this text")
    given = parser.parse_args()
    console = Console()
    try:
        plan, seeds = read_plan(given.plan), [int(seed) for seed in given.seeds.split(",")]
        given.results.mkdir(parents=True, exist_ok=True)
        results = []
        for seed in seeds:
            for recipe in plan.recipes:
                path = given.results / f"{recipe.slug}-seed{seed}.json"
                config = config_of(plan, recipe, seed=seed, data=given.data, output=given.output)
                if (done := finished(path, config, recipe.trained)) is not None:
                    results.append(done)
                    continue
                if given.only not in recipe.name:
                    continue
                console.note(f"{recipe.slug}, seed {seed}")
                document = {
                    "name": recipe.name,
                    "network": recipe.network,
                    "seed": seed,
                    "split": "val",
                    "set": recipe.changes,
                    **run(config, recipe.network, console),
                    "data": data_hashes(config, learned_from(config)),
                    "config": config.model_dump(mode="json", by_alias=True, exclude={"output"}),
                }
                write_document(path, document)
                results.append(document)
        rows = compare(plan.recipes, results)
        (given.results / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        (given.results / "comparison.md").write_text(markdown(rows), encoding="utf-8")
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console.result({"rows": rows}, markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
