"""What the functions of the engine share: runs in several processes, names that may be one alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from onehead_cli.config.sections import Config

P = ParamSpec("P")
T = TypeVar("T")
Name = TypeVar("Name", str, str | Path)


def in_several_processes(function: Callable[Concatenate[Config, P], T]) -> Callable[Concatenate[Config, P], T]:
    """What torchrun may start in several processes: each of them calls the function, and all get the same result."""

    @functools.wraps(function)
    def joined(config: Config, *args: P.args, **options: P.kwargs) -> T:
        from onehead_cli.runtime.processes import session

        with session(config):
            return function(config, *args, **options)

    return joined  # type: ignore[return-value]  # the config may also be given by its name


def listed(names: Name | Sequence[Name]) -> list[Name]:
    """One name or path alone is a list of one, not of its letters."""
    return [names] if isinstance(names, str | Path) else list(names)
