"""What a network is made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onehead_cli.tasks.detection.decode import BOX_CHANNELS
from onehead_cli.types import TASKS, SizeUnit, Task

#: Pixels of the input that a cell of the maps stands for, along each side.
STRIDE = 16


@dataclass(frozen=True)
class Architecture:
    """What is needed to rebuild a network without its config; stored in every checkpoint.

    classes: the class names of every task that there is data for, also of those that a teacher does not do: they set
        the head's width and its groups.
    tasks: the tasks that the network has a neck and an output for.
    skip: the backbone's last map of stride 16 is added to the upsampled features.
    priors: width and height, in `size_unit`, that each of a cell's boxes starts with; empty for squares spread evenly
        between .12 and .6 of the input, as in 0.1.0.
    size_unit: sizes of boxes are shares of the input, or counted in cells.
    """

    backbone: str
    classes: Mapping[Task, Sequence[str]]
    boxes_per_cell: int
    tasks: tuple[Task, ...]
    skip: bool = False
    priors: tuple[tuple[float, float], ...] = ()
    size_unit: SizeUnit = "input"

    @property
    def channels(self) -> dict[Task, int]:
        """Channels of each task's map."""
        counts = {task: len(self.classes[task]) for task in TASKS if task in self.classes}
        if Task.DET in counts:
            counts[Task.DET] += self.boxes_per_cell * BOX_CHANNELS
        return counts

    @property
    def width(self) -> int:
        """N, the channels of a group of the head."""
        return max(self.channels.values())
