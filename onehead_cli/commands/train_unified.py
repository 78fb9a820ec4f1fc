"""onehead train-unified"""

from __future__ import annotations

from typing import Annotated

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import Console
from onehead_cli.commands.training_result import show_training


def train_unified(
    data: o.DataRoot = None,
    output: o.Output = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    lr: o.Lr = None,
    image_size: o.ImageSize = None,
    lambda_distill: Annotated[
        float | None,
        typer.Option("--lambda-distill", help=f"Weight of the distillation; 0 needs no teachers {o.CONFIGURED}."),
    ] = None,
    teachers: o.Teachers = None,
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
    """Train the one network for all tasks, taught by teachers.

    It has one head; without teachers, --lambda-distill 0 trains it on the labels alone.
    """
    console = Console(quiet=quiet, as_json=as_json)
    flags = {
        "data.root": data,
        "output": output,
        "student.epochs": epochs,
        "student.batch_size": batch_size,
        "student.lr": lr,
        "data.image_size": image_size,
        "distill.lambda": lambda_distill,
        "distill.teachers": teachers,
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

    result = engine.train_unified(settings, resume=resume, reporter=console)
    show_training("train-unified", [result], console)
