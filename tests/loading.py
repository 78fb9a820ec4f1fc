"""A split ready to be read, by few words."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.batch import Target
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.listings import Listings
from onehead_cli.data.split import Loading
from onehead_cli.tasks.task import get_task


def load_split(
    task: str,
    split: str,
    data: DataConfig | Config,
    *,
    interpolation: str = "bicubic",
    budget: CacheBudget | None = None,
    skip: Collection[Path] = (),
    device: torch.device = CPU,
    training: bool = False,
) -> Any:
    """One split of one task's dataset, 100 MB of it kept unless a budget is given."""
    config = data if isinstance(data, Config) else Config(data=data)
    listings = Listings(config)
    listings.leave_out(skip)
    return get_task(task).load(
        listings.get(task, split),
        config,
        Loading(interpolation, budget or CacheBudget(100), device, training),
    )


def tensors(target: Target) -> list[Tensor]:
    """The tensors of a batch's labels."""
    return [value for value in vars(target).values() if isinstance(value, Tensor)]


def same(one: Target, other: Target) -> bool:
    """Whether two batches have the same labels to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
