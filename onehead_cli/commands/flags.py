"""A flag that sets a field says what the field says: its type, its sentence and its default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from onehead_cli.config.fields import KnownField
from onehead_cli.config.paths import full_path
from onehead_cli.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bars or notes; still show warnings and the result.")
]

#: Take several values with commas between them.
LISTS = ("--split", "--sizes", "--categories", "--set")

#: Options of a command by the name of its parameter, each with its annotation and default.
Options = Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Flag:
    """A flag and the field that it sets. name: with its dashes."""

    name: str
    field: KnownField

    @property
    def annotation(self) -> Any:
        """Of the command's parameter, which is None where the flag is not given.

        A switch that is on by default can be turned off by --no-, any other only be turned on.
        """
        switch = f"{self.name}/--no-{self.name[2:]}" if self.field.default is True else self.name
        option = typer.Option(switch, metavar=self._metavar(), help=f"{self.field.meaning}{self._default()}")
        return Annotated[self.type | None, option]

    @property
    def type(self) -> Any:
        """What the text is read as. Words, and what may also be a word, stay text, which the field judges."""
        for kind in (bool, int, float, Path):
            if self.field.members == (kind,):
                return kind
        return list[str] if get_origin(self.field.annotation) is dict else str

    def said(self, value: Any) -> str:
        """The flag and a value of it as they stand on the command line."""
        if isinstance(value, bool):
            return self.name if value else f"--no-{self.name[2:]}"
        return f"{self.name} {value:g}" if isinstance(value, float) else f"{self.name} {value}"

    def _metavar(self) -> str | None:
        """How the help calls the value; None where Typer names the type."""
        names = [*filter(None, [self.field.metavar]), *self.field.words]
        if not names and self.type is str:
            names = [self.field.unit.upper()]
        return "|".join(names) or None

    def _default(self) -> str:
        """In brackets as click writes it; of a number with its unit."""
        default, unit = self.field.default, self.field.unit
        if default is ... or default == {}:
            return ""
        if default is None:
            text = "unset"
        elif isinstance(default, bool):
            text = "on" if default else "off"
        elif isinstance(default, tuple):
            text = ",".join(map(str, default))
        else:
            text = f"{default} {unit}" if isinstance(default, int | float) and unit not in ("-", "1") else str(default)
        return f"  [default: {text}]"


def joined_lists(arguments: Sequence[str]) -> list[str]:
    """The command line with `--split val, test`, which a shell takes apart, as `--split val,test`."""
    joined: list[str] = []
    for argument in arguments:
        follows = len(joined) > 1 and joined[-1].endswith(",") and joined[-2] in LISTS
        if follows and not argument.startswith("-"):
            joined[-1] += argument
        else:
            joined.append(argument)
    return joined


def given_values(flags: Mapping[str, Flag], options: dict[str, Any]) -> dict[str, Any]:
    """Take the flags out of a command's options: the values of those that were given, by the field's key."""
    values = {flag.field.key: options.pop(parameter) for parameter, flag in flags.items()}
    return {key: value for key, value in values.items() if value is not None and value != []}


def as_command(
    command: Callable[..., None], function: Callable[..., None], flags: Mapping[str, Flag], further: Options
) -> Callable[..., None]:
    """Make a command of the name and the text of `function`, with the parameters that Typer makes options of.

    It calls `command`, with `~` and `$NAME` filled in in every path.

    Args:
        function: its keyword-only parameters become options; what stands before them is for `command` to hand over.
        flags: by the parameter's name; they follow.
        further: options that follow those, before --json and --quiet.

    Returns:
        The new command; its attribute `flags` holds the flags.
    """
    options: dict[str, tuple[Any, Any]] = {name: (flag.annotation, None) for name, flag in flags.items()}
    options |= {**further, "as_json": (AsJson, False), "quiet": (Quiet, False)}
    own = inspect.signature(function, eval_str=True).parameters.values()
    parameters = [
        *(parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ),
    ]

    def called(**values: Any) -> None:
        names = {name: flags[name].name if name in flags else f"--{name.replace('_', '-')}" for name in values}
        command(**{name: _filled_in(names[name], value) for name, value in values.items()})

    called.__name__, called.__doc__, called.__module__ = function.__name__, function.__doc__, function.__module__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__dict__.update(__signature__=inspect.Signature(parameters), flags=flags)
    return called


def _filled_in(flag: str, value: Any) -> Any:
    """A path with `~` and variables filled in; anything else as it is."""
    if not isinstance(value, Path):
        return value
    try:
        return Path(full_path(str(value)))
    except ValueError as error:
        raise ConfigError(f"{flag} {value}: {error}") from None
