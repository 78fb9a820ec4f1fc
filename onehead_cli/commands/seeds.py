"""--seeds: the same command for several seeds, a folder each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from onehead_cli.commands.options import Call
from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError
from onehead_cli.runtime.launch import refuse_several

Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="N,N[,N...]",
        help="Repeat for each of these seeds, in the folders seed0, seed1, ... of the output folder.",
    ),
]


def configs_of(seeds: str, call: Call) -> dict[int, Config]:
    """The config of each seed: its output is the folder of the seed, and so are its teachers where that folder has any.

    Raises:
        ConfigError: no different whole numbers, or --seed is given too.
    """
    refuse_several("--seeds")
    if "seed" in call.flags or "seed" in call.assigned:
        raise ConfigError("--seeds names the seeds: leave --seed out")
    try:
        numbers = [int(word) for word in seeds.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ConfigError(f"--seeds {seeds}: give different whole numbers, such as 0,1,2")
    return {seed: _of_seed(call.config, seed) for seed in numbers}


def of_seed(path: Path, seed: int) -> Path:
    """The folder of the seed in a folder, if there is one; else the path itself, the same for all seeds."""
    return path / f"seed{seed}" if (path / f"seed{seed}").is_dir() else path


def _of_seed(config: Config, seed: int) -> Config:
    teachers = config.distill.teachers
    distill = config.distill.model_copy(update={"teachers": None if teachers is None else of_seed(teachers, seed)})
    return config.model_copy(update={"seed": seed, "output": config.output / f"seed{seed}", "distill": distill})


def begun(configs: Mapping[int, Config], names: Sequence[str]) -> Iterator[int]:
    """The seeds of which a network can be gone on with."""
    from onehead_cli.checkpoint.networks import can_resume

    return (seed for seed, config in configs.items() if any(can_resume(config.output, name) for name in names))
