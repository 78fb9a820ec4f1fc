"""Run a network over the images of a task and keep what its reader observes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.split import Split
from onehead_cli.network.runner import Runner
from onehead_cli.runtime.launch import rank, world_size
from onehead_cli.runtime.processes import merge
from onehead_cli.tasks.reader import Reader, Result

#: How many images of a task `Evaluator.maps` is about.
KEPT = 200


@dataclass(frozen=True)
class Evaluator:
    """Runs networks over splits.

    config: how many images are read at once.
    advance: called with the number of images of each finished batch, also of those that other processes do.
    maps: what the network gave of the first KEPT images of the task that was measured last, by the image's number; only
        those of this process, and none of an exported file, which gives what its reader asked for.

    Of several processes, each does every n-th batch, and all get what all observed: a batch is the same as in one
    process, and so is every bit of its result.
    """

    config: EvaluationConfig
    advance: Callable[[int], None] = lambda count: None
    maps: dict[int, Tensor] = field(default_factory=dict)

    def measure(self, runner: Runner, splits: Sequence[Split], reader: Reader) -> Result:
        """The result of a task over all images of the splits.

        Args:
            splits: datasets of one task, pooled.
            reader: of the task.

        Raises:
            DataError: an image or label cannot be read.
        """
        self.maps.clear()
        observations: list[Any] = []
        for split in splits:
            observations += self.observe(runner, split, reader, number=len(observations))
        return reader.result(observations, splits)

    def observe(
        self, runner: Runner, split: Split, reader: Reader, *, choosing: bool = False, number: int = KEPT
    ) -> list[Any]:
        """What the reader observes of each image of a split, each of which passes through the network once.

        Args: number: of its first image, for `maps`.
        """
        mine: list[tuple[int, Any]] = []
        for indices, maps in self._maps(runner, split, reader):
            if isinstance(maps, Tensor) and number + indices.start < KEPT:
                self.maps.update(zip((number + index for index in indices), maps.cpu(), strict=True))
            mine += zip(indices, reader.observe(maps, split, indices, choosing=choosing), strict=True)
        return merge(mine)

    def _maps(self, runner: Runner, split: Split, reader: Reader) -> Iterator[tuple[range, Any]]:
        """Indices of images and what the reader reads of them, for each batch of this process."""
        for number, start in enumerate(range(0, len(split), self.config.batch_size)):
            indices = range(start, min(start + self.config.batch_size, len(split)))
            if number % world_size() == rank():
                images = split.images(indices)
                fits = [split.fit(index) for index in indices]  # after the images, which are decoded for both
                found = runner.run(images, fits, inputs=reader.observe_inputs, pixels=reader.reads_pixels)
                yield indices, found[split.task]
            self.advance(len(indices))
