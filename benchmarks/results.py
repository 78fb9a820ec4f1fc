"""Train and measure the final recipes over seeds, and keep what docs/RESULTS.md is made of; `make results`.

    python benchmarks/results.py --config configs/lite-long.yaml --data data --seeds 0,1,2

Two recipes: "full" is the config as it is, "plain" the same without the conversion of labels (boxes from masks). For
each recipe and seed: the three teachers, the student, what they score on val, on test and on both pooled, and what the
student gets wrong. Then, to compare the student with: torchvision's specialists of benchmarks/specialists.py, and long
baselines, which learn for the epochs of teachers and student together.

Each finished unit is one JSON in the results folder, named after its config: {config}-{recipe}-seed{N}.json,
{config}-specialist-{task}-seed{N}.json or {config}-long-baseline-{task}-seed{N}.json. It is not done again while its
settings and its data are the same, and neither is what 0.1.0 kept in the folder 0.1.0 there. A stopped run goes on from
its checkpoints. Two cores train two networks at once with two processes of different parts:

    python benchmarks/results.py --only teachers --task seg &
    python benchmarks/results.py --only teachers --task det

The test split is read only after the training, by what measures. From the first seed's student of "full" comes a sheet
of predictions on test: predictions.png with the photographs in the output folder, and without them in docs/results,
beside the conversion of labels in pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import specialists
from common import (
    data_hashes,
    finished,
    goes_on,
    kept,
    learned_from,
    machine,
    report_splits,
    result_path,
    settings_of,
    write_document,
)
from report.conversions import write_conversions
from report.data import FULL, PLAIN
from report.long_baselines import long_config, train_long_baseline
from report.measure import document_of
from report.sheet import write_sheets
from report.units import NETWORKS, RECIPES, Unit, read_json, unit_of

from onehead_cli import engine
from onehead_cli.checkpoint.networks import STUDENT, best_path
from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config
from onehead_cli.errors import CheckpointError, OneheadError
from onehead_cli.files.atomic import write_atomically
from onehead_cli.registry import TASKS

PARTS = ("teachers", "students", "specialists", "long-baselines")


def train_teacher(unit: Unit, task: str, full: Unit, console: Console) -> None:
    """Train a teacher where it is not finished; plain's for cls and seg are full's, which boxes from masks never meet.

    Args:
        full: the unit of the same seed whose labels are converted.
    """
    if finished(unit.marker(task), unit.config, [task]):
        return
    if unit.recipe == PLAIN and task != "det":
        train_teacher(full, task, full, console)
        _copy_teacher(full, unit, task)
        return
    console.note(f"{unit.name}: teacher {task}")
    resume = goes_on(task, unit.config, console)
    [result] = engine.train_teacher(unit.config, tasks=[task], resume=resume, reporter=console)
    _mark(unit, task, scores=result.scores)


def _copy_teacher(full: Unit, unit: Unit, task: str) -> None:
    for name in (best_path(Path(), task).name, f"{task}.jsonl"):
        content = (full.config.output / name).read_bytes()
        unit.config.output.mkdir(parents=True, exist_ok=True)
        write_atomically(unit.config.output / name, lambda file, content=content: file.write(content))
    marker = {**read_json(full.marker(task)), "config": settings_of(unit.config), "copied_from": full.name}
    write_document(unit.marker(task), marker)


def train_student(unit: Unit, console: Console) -> None:
    """Train the student where it is not finished.

    Raises:
        CheckpointError: its teachers are not.
    """
    missing = [task for task in TASKS if not finished(unit.marker(task), unit.config, [task])]
    if missing:
        raise CheckpointError(f"{unit.name}: not trained yet: {', '.join(missing)}; run --only teachers first")
    teachers = {task: read_json(unit.marker(task))["scores"] for task in TASKS}
    done = finished(unit.marker(STUDENT), unit.config, [STUDENT])
    if done and done["teachers"] == teachers:
        return
    console.note(f"{unit.name}: student")
    resume = goes_on(STUDENT, unit.config, console)
    result = engine.train_unified(unit.config, resume=resume, reporter=console)
    _mark(unit, STUDENT, scores=result.scores, teachers=teachers)


def _mark(unit: Unit, network: str, **facts: Any) -> None:
    data = data_hashes(unit.config, learned_from(unit.config))
    write_document(
        unit.marker(network), {**facts, **machine(unit.config), "data": data, "config": settings_of(unit.config)}
    )


def write_pictures(unit: Unit, *, output: Path, pictures: Path, console: Console) -> None:
    """The sheets of a trained unit and the conversions, where they are not there or the student is newer."""
    if not (pictures / "conversions.png").is_file():
        write_conversions(pictures / "conversions.png")
    student, sheet = best_path(unit.config.output, STUDENT), pictures / "predictions.png"
    if not finished(unit.marker(STUDENT), unit.config, [STUDENT]):
        return
    if not sheet.is_file() or sheet.stat().st_mtime < student.stat().st_mtime:
        test = report_splits(unit.config)["test"][0]
        photographs = output / "predictions.png"
        write_sheets(student, unit.config, split=test, with_photographs=photographs, without=sheet, console=console)
        console.note(f"{photographs}, {sheet}: written")


def run(given: argparse.Namespace, console: Console) -> None:
    """Do what is asked and not yet done, full before plain, what they are compared with last."""
    parts = [given.only] if given.only else PARTS
    tasks = [given.task] if given.task else TASKS
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for recipe in [given.recipe] if given.recipe else RECIPES:
        for seed in seeds:
            where = {"seed": seed, "data": given.data, "output": given.output}
            unit = unit_of(given.config, recipe, **where)
            if done := kept(given.results, given.config, unit.name, unit.config, NETWORKS):
                console.note(f"{done}: done already")
                continue
            for task in tasks if "teachers" in parts else ():
                train_teacher(unit, task, unit_of(given.config, FULL, **where), console)
            if "students" in parts:
                train_student(unit, console)
                path = result_path(given.results, given.config, unit.name)
                write_document(path, {"config_file": given.config.name, **document_of(unit, console)})
                console.note(f"{path}: written")
    if "students" in parts:
        unit = unit_of(given.config, FULL, seed=seeds[0], data=given.data, output=given.output)
        write_pictures(unit, output=given.output, pictures=given.pictures, console=console)
    for seed in seeds if "specialists" in parts else ():
        config = load_config(given.config, {"data.root": given.data, "seed": seed})
        for task in tasks:
            reports = list(report_splits(config))
            specialists.run(
                task,
                config,
                given.config,
                reports=reports,
                results=given.results,
                output=given.output,
                console=console,
            )
    for seed in seeds if "long-baselines" in parts else ():
        config = long_config(given.config, seed=seed, data=given.data, output=given.output)
        for task in tasks:
            train_long_baseline(task, config, given.config, results=given.results, console=console)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/lite-long.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", default="0,1,2", help="numbers, comma-separated")
    parser.add_argument("--recipe", choices=list(RECIPES), help="default: both")
    parser.add_argument("--only", choices=PARTS, help="default: all, one after the other")
    parser.add_argument("--task", choices=list(TASKS), help="one network")
    parser.add_argument("--output", type=Path, default=Path("output/results"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="the finished units' JSON")
    parser.add_argument("--pictures", type=Path, default=Path("docs/results"), help="pictures that may be passed on")
    given = parser.parse_args()
    if given.task and given.only in (None, "students"):
        parser.error("--task goes with --only teachers, specialists or long-baselines")
    if not all(seed.isdigit() for seed in given.seeds.split(",")):
        parser.error(f"--seeds {given.seeds}: give numbers such as 0,1,2")
    try:
        run(given, Console())
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
