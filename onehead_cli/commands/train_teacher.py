"""onehead train-teacher"""

from __future__ import annotations

from typing import Annotated

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.seeds import Seeds, configs_of
from onehead_cli.commands.training_result import show_training, train_seeds


@o.configured(
    "data.root",
    "output",
    "teacher.epochs",
    "teacher.batch_size",
    "teacher.lr",
    "data.image_size",
    "model.backbone",
    "model.backbone_weights",
    "model.pretrained",
    "model.start_from",
    "data.skip_bad",
    "device",
    "seed",
    "deterministic",
)
def train_teacher(
    call: o.Call,
    *,
    task: Annotated[o.TaskChoice, typer.Option("--task", help="The task, or all of them in turn.")],
    resume: o.Resume = False,
    seeds: Seeds = None,
) -> None:
    """Train the single-task networks: teachers and baselines.

    They teach the student of train-unified, and evaluate compares it with them.
    """
    from onehead_cli import engine

    tasks = o.chosen_tasks(task, call.config)
    if seeds is None:
        results = engine.train_teacher(call.config, tasks=tasks, resume=resume, reporter=call.console)
        show_training("train-teacher", results, call.console)
        return
    train_seeds(
        "train-teacher",
        configs_of(seeds, call),
        lambda config, resume: engine.train_teacher(config, tasks=tasks, resume=resume, reporter=call.console),
        names=tasks,
        resume=resume,
        console=call.console,
    )
