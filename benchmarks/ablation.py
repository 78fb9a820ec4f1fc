"""Train a list of recipes over seeds and compare them on val; what is done already is skipped.

    python benchmarks/ablation.py benchmarks/ablation.yaml --data data --seeds 0,1,2

The YAML names a base config and runs, each a name, a network (cls, seg, det: a single-task network; all: the student,
with teachers of the same settings), the fields that differ from the base config, and where it is not "base", the run of
the same network that this one is compared with, or several:

    base: lite-quick.yaml
    runs:
      - {name: base, network: seg}
      - {name: twice as long, network: seg, set: {teacher.epochs: 30}}
      - {name: long and steep, network: seg, set: {teacher.epochs: 30, teacher.lr: 2.0e-3}, against: twice as long}
      - {name: no weight average, network: seg, set: {teacher.ema_decay: 0.0}, removes: true, note: it stays}

`removes: true` says that a run takes an ingredient away, so that the ingredient pays where the run loses; a note is
what docs/RESULTS.md adds to its outcome.

Each finished run is a JSON in the results folder, named after the plan: {plan}-{network}-{name}-seed{N}.json. A run
that was stopped goes on from its checkpoints, and what 0.1.0 kept is not done again. The comparison of all finished
seeds, there as {plan}-comparison.json and {plan}-comparison.md, shows mean and deviation over the seeds and the paired
difference with the run that each is compared with. The test split is never read.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import (
    FREQUENT_MAP,
    data_hashes,
    frequent_map,
    goes_on,
    kept,
    learned_from,
    machine,
    path_in_0_1_0,
    result_path,
    settings_of,
    write_document,
)
from report.measure import read_epochs
from report.units import read_json

from onehead_cli import engine
from onehead_cli.checkpoint.networks import best_path
from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.config.yaml_text import read_yaml
from onehead_cli.errors import ConfigError, OneheadError
from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task

BASE = "base"
#: What detection is judged by beside mAP, which one box of a class of two moves by a tenth.
DETECTION_METRICS = (FREQUENT_MAP, "ap_person", "map50")
_STUDENT = "all"


@dataclass(frozen=True)
class Recipe:
    """One line of the comparison.

    changes: dotted config key -> value. against: the names of the recipes to subtract, each by itself. removes: an
    ingredient is taken away. note: what a reader should know beside the outcome.
    """

    name: str
    network: str
    changes: dict[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = (BASE,)
    removes: bool = False
    note: str = ""

    @classmethod
    def read(cls, run: dict[str, Any]) -> Recipe:
        """Raises: KeyError, TypeError, ValueError: it has no name or network, or something unknown."""
        known = {"name", "network", "set", "against", "removes", "note"}
        if unknown := run.keys() - known:
            raise ValueError(f"a run has no {', '.join(sorted(unknown))}")
        against = run.get("against", BASE)
        return cls(
            name=str(run["name"]),
            network=str(run["network"]),
            changes=dict(run.get("set") or {}),
            against=tuple(map(str, against)) if isinstance(against, list) else (str(against),),
            removes=bool(run.get("removes")),
            note=str(run.get("note", "")),
        )

    @property
    def slug(self) -> str:
        return f"{self.network}-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"

    @property
    def trained(self) -> list[str]:
        """The networks that it takes."""
        return [*(task for task in TASKS), _STUDENT] if self.network == _STUDENT else [self.network]


@dataclass(frozen=True)
class Plan:
    """The base config's file and the recipes."""

    base: Path
    recipes: list[Recipe]


def read_plan(path: Path) -> Plan:
    """Raises: ConfigError: the YAML is no plan, recipes share a name, or one is compared with what is not there."""
    try:
        raw = read_yaml(path)
        recipes = [Recipe.read(run) for run in raw["runs"]]
        base = path.parent / str(raw["base"])
    except (OSError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a plan of runs, see benchmarks/ablation.py ({' '.join(str(error).split())})"
        ) from None
    known = {*(task for task in TASKS), _STUDENT}
    for recipe in recipes:
        if recipe.network not in known:
            raise ConfigError(f"{path}: run '{recipe.name}': network must be one of {', '.join(sorted(known))}")
    slugs = [recipe.slug for recipe in recipes]
    if repeated := {slug for slug in slugs if slugs.count(slug) > 1}:
        raise ConfigError(f"{path}: several runs are called {', '.join(sorted(repeated))}")
    names = {(recipe.network, recipe.name) for recipe in recipes}
    for recipe in recipes:
        for other in recipe.against:
            if other != BASE and (recipe.network, other) not in names:
                raise ConfigError(
                    f"{path}: run '{recipe.name}' is against '{other}', no run of network {recipe.network}"
                )
    return Plan(base, recipes)


def recipe_config(plan: Plan, recipe: Recipe, *, seed: int, data: Path, output: Path) -> Config:
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
    teachers = config.model_copy(update={"output": config.teachers_folder})
    wanted = TASKS if network == _STUDENT else (network,)
    scores: dict[str, dict[str, float | None]] = {}
    for task in wanted:
        [result] = engine.train_teacher(
            teachers, tasks=[task], resume=goes_on(task, teachers, console), reporter=console
        )
        scores[task] = result.scores | _detected(teachers, task, console)
    if network == _STUDENT:
        student = engine.train_unified(config, resume=goes_on(_STUDENT, config, console), reporter=console).scores
        scores[_STUDENT] = student | _detected(config, _STUDENT, console)
    epochs = read_epochs(config.output / f"{network}.jsonl")
    return {
        "scores": scores,
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 1),
        **machine(config),
    }


def _detected(config: Config, network: str, console: Console) -> dict[str, float | None]:
    """The scores on val of a network that detects, read as the config says: COCO's, the mAP of the frequent classes
    and the AP of persons."""
    if network not in ("det", _STUDENT):
        return {}
    result = engine.evaluate(
        config.model_copy(update={"output": config.output / "evaluate-val"}),
        checkpoint=best_path(config.output, network),
        tasks=["det"],
        splits=[config.data.val_split],
        relative=False,
        reporter=console,
    )
    detected = (result.unified if network == _STUDENT else result.baseline)["det"]
    scores, rows = detected.scores(), detected.per_class()
    person = next((row["ap"] for row in rows if row["name"] == "person"), None)
    return {"map": scores["map"], "map50": scores["map50"], FREQUENT_MAP: frequent_map(rows), "ap_person": person}


def compare(recipes: Sequence[Recipe], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per recipe, score and recipe that it is against: mean and deviation over the seeds, the paired difference.

    Args:
        recipes: those of the plan.
        results: their finished runs' documents; seeds that only one side has are left out of the difference.
    """
    known = {(recipe.network, recipe.name): recipe for recipe in recipes}
    rows = []
    by_recipe: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for result in results:
        by_recipe.setdefault((result["network"], result["name"]), {})[result["seed"]] = result
    for (network, name), runs in by_recipe.items():
        recipe = known[network, name]
        tasks = TASKS if network == _STUDENT else (network,)
        metrics = [(task, get_task(task).metric.key) for task in tasks]
        metrics += [("det", metric) for metric in DETECTION_METRICS] if "det" in tasks else []
        for other, (task, metric) in itertools.product(recipe.against, metrics):
            values = _by_seed(runs, network, metric)
            if not values:
                continue
            others = by_recipe.get((network, other), {}) if name != other else {}
            before = _by_seed(others, network, metric)
            teachers = _by_seed(runs, task, metric) if network == _STUDENT else {}
            paired = [seed for seed in sorted(values) if seed in before]
            gains = [values[seed] - before[seed] for seed in paired]
            own_teacher = [values[seed] - teachers[seed] for seed in values if seed in teachers]
            rows.append(
                {
                    "network": network,
                    "name": name,
                    "metric": metric,
                    "seeds": sorted(values),
                    "mean": statistics.fmean(values.values()),
                    "deviation": _deviation(list(values.values())),
                    "against": other if name != other else None,
                    "removes": recipe.removes,
                    "note": recipe.note,
                    "gains": dict(zip(paired, gains, strict=True)),
                    "difference": statistics.fmean(gains) if gains else None,
                    "difference_deviation": _deviation(gains),
                    "minus_teacher": statistics.fmean(own_teacher) if own_teacher else None,
                }
            )
    return rows


def _by_seed(runs: Mapping[int, dict[str, Any]], network: str, metric: str) -> dict[int, float]:
    """A score of each seed that has it: where no class has boxes enough, there is none."""
    found = {seed: result["scores"][network].get(metric) for seed, result in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


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


#: The sections that a teacher's training reads, and of `evaluation` what it keeps: how it is read, and its thresholds.
_OF_TEACHERS = ("data", "model", "teacher", "detection", "segmentation")
_KEPT_BY_TEACHERS = ("best_class", "nms_iou", "predict_nms_iou", "vote_iou", "shared_below")


def _teachers_hash(config: Config) -> str:
    kept = config.model_dump(mode="json", include=set(_OF_TEACHERS))
    kept["data"].pop("root")
    kept["evaluation"] = [getattr(config.evaluation, key) for key in _KEPT_BY_TEACHERS]
    # What a teacher takes from the student's side of the config, some only where it learns from ImageNet's rows.
    student, distill = config.student, config.distill
    kept["shared"] = [student.normalise_losses, student.normaliser_floor, distill.lambda_, distill.temperature]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:10]


def all_finished(plan: Plan, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The documents of all seeds in the results folder, those of earlier calls among them."""
    found = []
    for recipe in plan.recipes:
        name = f"{recipe.slug}-seed*"
        places = (result_path(given.results, given.plan, name), path_in_0_1_0(given.results, name))
        paths = [path for place in places for path in place.parent.glob(place.name)]
        for seed in sorted({int(path.stem.rpartition("seed")[2]) for path in paths}):
            config = recipe_config(plan, recipe, seed=seed, data=given.data, output=given.output)
            if path := kept(given.results, given.plan, f"{recipe.slug}-seed{seed}", config, recipe.trained):
                found.append(read_json(path))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path("output/ablation"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="the finished runs' JSON")
    parser.add_argument("--seeds", default="0", help="numbers, comma-separated")
    parser.add_argument("--only", default="", help="run only the recipes whose name holds this text")
    given = parser.parse_args()
    if not all(seed.isdigit() for seed in given.seeds.split(",")):
        parser.error(f"--seeds {given.seeds}: give numbers such as 0,1,2")
    console = Console()
    try:
        plan, seeds = read_plan(given.plan), [int(seed) for seed in given.seeds.split(",")]
        given.results.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            for recipe in plan.recipes:
                name = f"{recipe.slug}-seed{seed}"
                config = recipe_config(plan, recipe, seed=seed, data=given.data, output=given.output)
                if given.only not in recipe.name or kept(given.results, given.plan, name, config, recipe.trained):
                    continue
                console.note(f"{recipe.slug}, seed {seed}")
                document = {
                    "plan": given.plan.name,
                    "base": plan.base.name,
                    "name": recipe.name,
                    "network": recipe.network,
                    "seed": seed,
                    "split": "val",
                    "set": recipe.changes,
                    **run(config, recipe.network, console),
                    "data": data_hashes(config, learned_from(config)),
                    "config": settings_of(config),
                }
                write_document(result_path(given.results, given.plan, name), document)
        rows = [{"plan": given.plan.name, **row} for row in compare(plan.recipes, all_finished(plan, given))]
        path = result_path(given.results, given.plan, "comparison")
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
