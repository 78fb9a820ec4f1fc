"""Which process of how many this is, as torchrun says in the environment; without torch, which takes long to import."""

from __future__ import annotations

import os

from onehead_cli.errors import ConfigError

_speaker: bool | None = None


def world_size() -> int:
    """Processes of the run, on all machines; 1 unless a launcher started it (some clusters set WORLD_SIZE alone)."""
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Number of this process in the run, from 0."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return _number("LOCAL_RANK", rank()) if world_size() > 1 else 0


def local_world_size() -> int:
    """Processes of the run on this machine."""
    return _number("LOCAL_WORLD_SIZE", local_rank() + 1)


def is_main() -> bool:
    """Whether this is the one process that writes files and shows results."""
    return rank() == 0


def refuse_several(command: str) -> None:
    """Raises: ConfigError: the command was started in several processes, which would all do the same."""
    if world_size() > 1:
        raise ConfigError(f"{command} runs in one process: start it without torchrun")


def speaks() -> bool:
    """Whether this process says what went wrong: the first of each machine, until `set_speaker` settles it."""
    return local_rank() == 0 if _speaker is None else _speaker


def set_speaker(value: bool | None) -> None:
    global _speaker
    _speaker = value


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default
