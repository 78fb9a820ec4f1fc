"""Options that several commands share, and how a command offers fields of the config as flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onehead_cli.commands.console import Console
from onehead_cli.commands.flags import Flag, Options, as_command, given_values
from onehead_cli.config.fields import describe_fields, field_of
from onehead_cli.config.load import load_config, parse_assignments
from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError
from onehead_cli.registry import TASKS

#: Key -> flag, where the flag is not the last part of the key.
_FLAGS = {"data.root": "--data", "distill.lambda": "--lambda-distill"}

if TYPE_CHECKING:
    TaskChoice = str
else:
    TaskChoice = StrEnum("TaskChoice", {name: name for name in (*TASKS, "all")})

ALL_TASKS = TaskChoice("all")

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="The network.  [default: all_best.pth in the output folder, else the student that comes with onehead]",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in the output folder.")]

_ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML config, such as configs/lite-long.yaml; its values replace the defaults shown here.",
    ),
]
_Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any field of the config, as section.key=value; repeatable."),
]
_ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Show every field with its value and meaning, and exit.")
]

_OF_THE_CONFIG: Options = {
    "config": (_ConfigFile, None),
    "assignments": (_Assignments, None),
    "show_config": (_ShowConfig, False),
}


@dataclass(frozen=True)
class Call:
    """What the options that commands share came to.

    config: the YAML file, then --set, then the flags. file: the YAML file. assigned, flags: what --set and the flags
    gave, by dotted key.
    """

    config: Config
    console: Console
    file: Path | None
    assigned: Mapping[str, Any]
    flags: Mapping[str, Any]


def configured(*keys: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function (call, *, its own options) that offers these fields of the config as flags.

    The later of YAML file, --set and flags holds. With --show-config the function is not called.

    Args:
        keys: dotted keys of the fields.
    """
    flags = {key.replace(".", "_"): Flag(flag_name(key), field_of(Config, key)) for key in keys}

    def make(function: Callable[..., None]) -> Callable[..., None]:
        def command(
            *,
            config: Path | None,
            assignments: list[str] | None,
            show_config: bool,
            as_json: bool,
            quiet: bool,
            **own: Any,
        ) -> None:
            console = Console(quiet=quiet, as_json=as_json)
            given, assigned = given_values(flags, own), parse_assignments(assignments or [])
            words = {text.partition("=")[0].strip(): f"--set {text}" for text in assignments or []}
            fields = {flag.field.key: flag for flag in flags.values()}
            words |= {key: fields[key].said(value) for key, value in given.items()}
            earlier = {key: value for key, value in assigned.items() if key not in given}
            merged = load_config(config, {**earlier, **given}, given=words)
            if show_config:
                _show_config(merged, console)
            else:
                function(Call(merged, console, config, assigned, given), **own)

        return as_command(command, function, flags, _OF_THE_CONFIG)

    return make


def flag_name(key: str) -> str:
    """The flag of a field of the config, by its dotted key."""
    return _FLAGS.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")


def chosen_tasks(task: TaskChoice, config: Config) -> tuple[str, ...]:
    """The tasks that --task names: one of `data.tasks`, or all of them.

    Raises:
        ConfigError: the task is not among `data.tasks`.
    """
    tasks = config.data.tasks
    if task == ALL_TASKS:
        return tasks
    if task not in tasks:
        raise ConfigError(f"--task {task}: data.tasks names only {', '.join(tasks)}")
    return (str(task),)


def _show_config(config: Config, console: Console) -> None:
    """Every field with its type, value, default, unit and sentence; as JSON, the fields as a list."""
    fields = describe_fields(config)
    lines = []
    for field in fields:
        details = [field.type, *([] if field.unit == "-" else [field.unit]), f"default {field.default}"]
        lines += [f"{field.key} = {field.value}  ({', '.join(details)})", f"    {field.meaning}"]
    document = {"command": "show-config", "fields": [dataclasses.asdict(field) for field in fields]}
    console.result(document, *lines)
