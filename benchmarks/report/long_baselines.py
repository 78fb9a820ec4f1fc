"""Baselines that learn for as many epochs as the student and the teachers that it starts from together.

A student that begins with the mean of its teachers' weights has learned for their epochs before its own: a baseline of
the teachers' epochs alone has seen each image less often.
"""

from __future__ import annotations

from pathlib import Path

from common import (
    data_hashes,
    goes_on,
    kept,
    machine,
    measured_on,
    report_splits,
    result_path,
    settings_of,
    write_document,
)

from onehead_cli import engine
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import best_path
from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.registry import TASKS
from report.measure import read_epochs


def long_config(base: Path, *, seed: int, data: Path, output: Path) -> Config:
    """The config with teachers of the epochs of teachers and student together."""
    given = load_config(base, {"seed": seed, "data.root": data})
    more = {"teacher.epochs": given.teacher.epochs + given.student.epochs}
    own = {f"teacher.{task}.epochs": getattr(given.teacher, task).epochs for task in TASKS}
    more |= {key: epochs + given.student.epochs for key, epochs in own.items() if epochs}
    return load_config(base, {"seed": seed, "data.root": data, "output": output / f"long-seed{seed}", **more})


def train_long_baseline(task: str, config: Config, base: Path, *, results: Path, console: Console) -> None:
    """Train and measure one where {results}/{config}-long-baseline-{task}-seed{N}.json does not have it yet.

    Args: base: the file that `long_config` made the config of.
    """
    unit = f"long-baseline-{task}-seed{config.seed}"
    if done := kept(results, base, unit, config, [task]):
        console.note(f"{done}: done already")
        return
    console.note(f"long baseline {task}, seed {config.seed}")
    engine.train_teacher(config, tasks=[task], resume=goes_on(task, config, console), reporter=console)
    best = best_path(config.output, task)
    scores, per_class = {}, {}
    for name, splits in report_splits(config).items():
        result = engine.evaluate(
            config.model_copy(update={"output": config.output / f"evaluate-{name}"}),
            checkpoint=best,
            tasks=[task],
            splits=splits,
            relative=False,
            reporter=console,
        )
        scores[name] = result.document["baseline"]
        per_class[name] = result.baseline[task].per_class()
    checkpoint, epochs = load_checkpoint(best), read_epochs(config.output / f"{task}.jsonl")
    document = {
        "config_file": base.name,
        "long_baseline": task,
        "seed": config.seed,
        "epoch": checkpoint.epoch,
        "scores": scores,
        "per_class": per_class,
        "epochs": epochs,
        "parameters": sum(p.numel() for p in checkpoint.model().parameters()),
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 1),
        **machine(config),
        "data": data_hashes(config, measured_on(config)),
        "config": settings_of(config),
    }
    path = result_path(results, base, unit)
    write_document(path, document)
    console.note(f"{path}: written")
