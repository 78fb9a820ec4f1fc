"""Options that several commands share, and how they become one config."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from onehead_cli.commands.console import Console
from onehead_cli.config.load import describe_fields, load_config, parse_assignments
from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError

#: Of an option that is a field of the config.
CONFIGURED = "[default: the config's]"

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="The network [default: all_best.pth in the output folder, else the student that comes with onehead].",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML config, as configs/lite-quick.yaml; without it the defaults of --show-config hold.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field of the config, as section.key=value; repeatable."),
]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Show every field, its value and meaning, and exit.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data", metavar="ROOT", help="Folder of the three datasets [default: data].")
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Folder for what is written [default: output].")
]
Teachers = Annotated[
    Path | None,
    typer.Option("--teachers", metavar="DIR", help="Folder of the teachers' checkpoints [default: the output folder]."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help=f"Passes over the training pictures {CONFIGURED}.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help=f"Pictures of a task in one mini-batch {CONFIGURED}.")
]
Lr = Annotated[float | None, typer.Option("--lr", help=f"Peak learning rate of the new layers {CONFIGURED}.")]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", metavar="PX", help=f"Side of the square input, a multiple of 32 {CONFIGURED}."),
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help=f"Any timm backbone of stride 32 {CONFIGURED}.")
]
BackboneWeights = Annotated[
    Path | None,
    typer.Option("--backbone-weights", metavar="FILE", help=f"Pretrained weights of the backbone {CONFIGURED}."),
]
Pretrained = Annotated[
    bool | None,
    typer.Option("--pretrained/--no-pretrained", help=f"Start the backbone from ImageNet weights {CONFIGURED}."),
]
StartFrom = Annotated[
    str | None,
    typer.Option(
        "--start-from",
        metavar="FILE|shipped",
        help=f"Checkpoint to start from, also one of other classes or tasks; shipped: onehead's own {CONFIGURED}.",
    ),
]
SkipBad = Annotated[
    bool | None, typer.Option("--skip-bad", help="Leave out pictures that cannot be used, and list them.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="auto|cpu|cuda|mps", help=f"Where the network runs {CONFIGURED}.")
]
Deterministic = Annotated[
    bool | None,
    typer.Option("--deterministic", help="Only operations that give the same bits each time; fail on any other."),
]
Seed = Annotated[int | None, typer.Option("--seed", help=f"Seed of everything random {CONFIGURED}.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and notes; warnings and the result remain.")]


def build_config(file: Path | None, assignments: list[str] | None, flags: dict[str, Any]) -> Config:
    """File, then --set, then flags (dotted key -> value, None where not given); the later one holds.

    Raises:
        ConfigError: see `config.load_config`.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return load_config(file, {**parse_assignments(assignments or []), **given})


def chosen_tasks(task: str, config: Config) -> tuple[str, ...]:
    """The tasks that --task names: one of `data.tasks`, or all of them.

    Raises:
        ConfigError: the task is not among `data.tasks`.
    """
    tasks = config.data.tasks
    if task == "all":
        return tasks
    if task not in tasks:
        raise ConfigError(f"--task {task}: data.tasks names {', '.join(tasks)} only")
    return (task,)


def show_config(config: Config, console: Console) -> None:
    """Every field with its type, value, default, unit and sentence; as JSON, the fields as a list."""
    fields = describe_fields(config)
    lines = []
    for field in fields:
        details = [field.type, *([] if field.unit == "-" else [field.unit]), f"default {field.default}"]
        lines.append(f"{field.key} = {field.value}  ({', '.join(details)})\n    {field.meaning}")
    document = {"command": "show-config", "fields": [dataclasses.asdict(field) for field in fields]}
    console.result(document, "\n".join(lines))
