"""Run a network over the images of a task and keep what its reader observes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.batch import images_to_float
from onehead_cli.data.split import Split
from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.compute import autocast
from onehead_cli.runtime.launch import rank, world_size
from onehead_cli.runtime.processes import merge
from onehead_cli.tasks.task import Reader, Result


@dataclass(frozen=True)
class Evaluator:
    """Runs networks over splits.

    config: how many images are read at once.
    precision: of the forward pass.
    advance: called with the number of images of each finished batch, also of those that other processes do.

    Of several processes, each does every n-th batch, and all get what all observed: a batch is the same as in one
    process, and so is every bit of its result.
    """

    config: EvaluationConfig
    device: torch.device
    precision: torch.dtype
    advance: Callable[[int], None] = lambda count: None

    def measure(self, model: OneHead, splits: Sequence[Split], reader: Reader) -> Result:
        """The result of a task over all images of the splits.

        Args:
            model: in eval mode, on `device`.
            splits: datasets of one task, pooled.
            reader: of the task.

        Raises:
            DataError: an image or label cannot be read.
        """
        return reader.result([one for split in splits for one in self.observe(model, split, reader)], splits)

    def observe(self, model: OneHead, split: Split, reader: Reader, *, choosing: bool = False) -> list[Any]:
        """What the reader observes of each image of a split, each of which passes through the network once."""
        mine: list[tuple[int, Any]] = []
        for indices, maps in self._maps(model, split):
            mine += zip(indices, reader.observe(maps, split, indices, choosing=choosing), strict=True)
        return merge(mine)

    def _maps(self, model: OneHead, split: Split) -> Iterator[tuple[range, Tensor]]:
        """Indices of images and the maps of the split's task, float [B, C, h, w], for each batch of this process."""
        for number, start in enumerate(range(0, len(split), self.config.batch_size)):
            indices = range(start, min(start + self.config.batch_size, len(split)))
            if number % world_size() == rank():
                images = images_to_float(split.batch(indices).images, self.device)
                with torch.inference_mode(), autocast(self.device, self.precision):
                    maps = model(images)[split.task]
                yield indices, maps.float()
            self.advance(len(indices))
