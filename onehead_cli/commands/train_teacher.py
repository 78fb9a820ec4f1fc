"""onehead train-teacher"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import Console
from onehead_cli.commands.training_result import show_training


class TeacherTask(StrEnum):
    cls = "cls"
    seg = "seg"
    det = "det"
    all = "all"


def train_teacher(
    task: Annotated[TeacherTask, typer.Option("--task", help="The task, or all one after the other.")],
    data: o.DataRoot = None,
    output: o.Output = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    lr: o.Lr = None,
    image_size: o.ImageSize = None,
    backbone: o.Backbone = None,
    backbone_weights: o.BackboneWeights = None,
    pretrained: o.Pretrained = None,
    start_from: o.StartFrom = None,
    resume: o.Resume = False,
    skip_bad: o.SkipBad = None,
    device: o.Device = None,
    seed: o.Seed = None,
    deterministic: o.Deterministic = None,
    show_config: o.ShowConfig = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Train the single-task networks: teachers and baselines.

    They teach the student of train-unified, and evaluate compares it with them.
    """
    console = Console(quiet=quiet, as_json=as_json)
    flags = {
        "data.root": data,
        "output": output,
        "teacher.epochs": epochs,
        "teacher.batch_size": batch_size,
        "teacher.lr": lr,
        "data.image_size": image_size,
        "model.backbone": backbone,
        "model.backbone_weights": backbone_weights,
        "model.pretrained": pretrained,
        "model.start_from": start_from,
        "data.skip_bad": skip_bad,
        "device": device,
        "seed": seed,
        "deterministic": deterministic,
    }
    settings = o.build_config(config, assignments, flags)
    if show_config:
        o.show_config(settings, console)
        return
    from onehead_cli import engine

    results = engine.train_teacher(
        settings, tasks=o.chosen_tasks(task.value, settings), resume=resume, reporter=console
    )
    show_training("train-teacher", results, console)
