"""What a task is. Whoever needs something that is particular to one asks its object; nobody asks which one it is."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli import registry
from onehead_cli.config.sections import Config, EvaluationConfig
from onehead_cli.config.training import ScheduleConfig
from onehead_cli.data.batch import Target
from onehead_cli.data.format import Listing
from onehead_cli.data.split import Loading, Split
from onehead_cli.errors import ConfigError
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.exported import MapReading
from onehead_cli.tasks.figures import Figure
from onehead_cli.tasks.labels import Histogram, Label, LabelCounts
from onehead_cli.tasks.reader import Reader, Result


@dataclass(frozen=True)
class Metric:
    """A score.

    key: in JSON; no two tasks have the same. label: in tables. higher_is_better: which direction is a gain.
    unit: of the score and so of the drop limit; empty for a share of 1.
    """

    key: str
    label: str
    higher_is_better: bool = True
    unit: str = ""

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.higher_is_better else -1


@dataclass(frozen=True)
class Reading:
    """How a network's map of one task is read.

    values: from `Task.changed_reading`. thresholds: of the checkpoint.
    score_threshold: for what is shown of an image, instead of the checkpoint's.
    """

    architecture: Architecture
    values: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    config: EvaluationConfig
    score_threshold: float | None = None


@dataclass(frozen=True)
class Setting:
    """What a network is trained for and with."""

    architecture: Architecture
    config: Config
    schedule: ScheduleConfig


class Task(ABC):
    """One task.

    name: in commands, files and JSON. title: in tables.
    metrics: its scores in reports; the first one stands for it in the drop check and in the choice of weights.
    class_scores: label of each score per class, by key. counted: what the counts per class are, in tables.
    section: of the config, which only its networks read; None for none.
    files: kinds of images that a prediction writes; see `Found.record`.
    names_images: a class is of a whole image, so that ImageNet's classes may be its own.
    names_things: a class is of things in an image, whose evidence ImageNet's classifier may give.
    reference_classes: classes in the reference system; the cost of a network that was not trained is given for them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    class_scores: ClassVar[Mapping[str, str]] = {}
    counted: ClassVar[str] = "Images"
    section: ClassVar[str | None] = None
    files: ClassVar[tuple[str, ...]] = ()
    names_images: ClassVar[bool] = False
    names_things: ClassVar[bool] = False
    reference_classes: ClassVar[int] = 10

    @property
    def metric(self) -> Metric:
        """The score that stands for the task."""
        return self.metrics[0]

    # The network

    def of_config(self, config: Config, listing: Callable[[], Listing] | None) -> dict[str, Any]:
        """What it adds to an architecture, as plain values by name; see `Architecture.of_tasks`.

        Args: listing: gives its training split; None where there is no data for it.
        """
        return {}

    def check(self, of_tasks: Mapping[str, Any]) -> None:
        """Raises: ValueError, KeyError or TypeError: a checkpoint holds something else than `of_config` gives."""
        return None

    def channels(self, architecture: Architecture) -> int:
        """Channels of its map; those of the classes come first."""
        return len(architecture.classes[self.name])

    def set_first_bias(self, bias: Tensor, architecture: Architecture) -> None:
        """Set what a new network begins with, in place; bias: of its map, float [channels]."""
        return None

    def difference(self, mine: Architecture, other: Architecture) -> str | None:
        """What the other network has, where the channels behind the classes mean something else there; else None."""
        return None

    # The data

    @abstractmethod
    def load(self, listing: Listing, config: Config, loading: Loading) -> Split:
        """A split, ready to be read.

        Raises:
            DataError: an image lies outside its folder, or labels that are needed at once cannot be read.
        """

    def borrows(self, schedule: ScheduleConfig) -> tuple[str, ...]:
        """Tasks whose training data it learns from too."""
        return ()

    def borrow(self, split: Split, setting: Setting) -> None:
        """Let a split of another task carry labels for this one."""
        return None

    def check_borrowing(self, setting: Setting) -> None:
        """Raises: ConfigError: the tasks of `borrows` have nothing to lend."""
        return None

    # The training

    @abstractmethod
    def loss(self, task_map: Tensor, target: Target, image_size: int, setting: Setting) -> Tensor:
        """Loss per image, float [B].

        Args:
            task_map: float [B, C, h, w].
            target: what `Split.target` gives, seen through the views; B images.
            image_size: side of the input in pixels.
        """

    @abstractmethod
    def distil(self, student_map: Tensor, teacher_map: Tensor, setting: Setting) -> Tensor:
        """What a student lacks against a teacher's map, per image, float [B]."""

    def cells_weight(self, config: Config) -> float:
        """How much its networks learn of what the ImageNet classifier says of each cell."""
        return 0.0

    def teacher_reads(self, config: Config) -> tuple[str, ...]:
        """Keys outside `teacher` and its section that its teacher's training depends on."""
        return ()

    # The reading of its map

    def first_reading(self, config: Config) -> dict[str, Any]:
        """How a network that is trained now is read, as plain values by name, stored in its checkpoint."""
        return {}

    def changed_reading(self, stored: Mapping[str, Any], config: EvaluationConfig) -> dict[str, Any]:
        """Its part of a stored reading, with what the config sets."""
        return {}

    def first_thresholds(self, config: Config) -> dict[str, Any]:
        """Before val has chosen any; stored in a checkpoint, by name."""
        return {}

    @abstractmethod
    def reader(self, reading: Reading) -> Reader:
        """Reads the maps of a network."""

    # Its part of an exported file

    def exported(self, reading: Reading) -> MapReading | None:
        """What reads the map inside the file; None: the task is left out of it."""
        return None

    def fixed_reading(self, reading: Reading) -> dict[str, Any]:
        """How the file reads the map for good, as plain values by name, stored in it."""
        return dict(reading.values)

    def exported_reader(self, reading: Reading, fixed: Mapping[str, Any]) -> Reader:
        """Reads what the file gives.

        Args: fixed: from `fixed_reading`.

        Raises:
            ConfigError: the config wants what the file no longer can.
        """
        raise ConfigError(f"task '{self.name}': its package cannot read an exported file")

    # What people look at

    def figures(self, result: Result, thresholds: Mapping[str, Any]) -> list[Figure]:
        """Diagrams of a result. Args: thresholds: of the checkpoint."""
        return []

    @property
    def histogram(self) -> Histogram:
        """How its labels are counted in a diagram."""
        return Histogram()

    def counts_document(self, counts: LabelCounts) -> dict[str, Any]:
        """Further counts of a split's labels, as plain values by key."""
        return {}

    #: The column of a prediction in tables.
    record_column: ClassVar[str]

    @abstractmethod
    def record_cell(self, record: Mapping[str, Any]) -> str:
        """What that column says of an image's record; empty where there is nothing of it."""

    #: What the table of a split's labels counts.
    counts_title: ClassVar[str] = "images"

    def counts_cell(self, found: Mapping[str, int], split: Mapping[str, Any]) -> str:
        """What that table says of a class. Args: found: its counts. split: all counts of the split."""
        return str(found["pictures"])

    def counts_rows(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        """Further rows of that table: a cell from the counts of a split."""
        return {}

    def show_label(self, split: Split, index: int) -> Label:
        """The label of an image, for a drawing."""
        return Label()

    def colour_names(self, classes: Sequence[str]) -> Sequence[str]:
        """The classes that drawings have a colour for."""
        return ()


@functools.cache
def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        ConfigError: there is none, or a score of it has the key of another task's.
    """
    task: Task = registry.load_task(name)
    if name not in registry.OWN_TASKS:
        mine = {metric.key for metric in task.metrics}
        for other in registry.TASKS[: registry.TASKS.index(name)]:
            if same := mine & {metric.key for metric in get_task(other).metrics}:
                raise ConfigError(f"task '{name}': its score {same.pop()} has the key of one of the task '{other}'")
    return task


def all_tasks(names: Sequence[str]) -> list[Task]:
    """onehead's own tasks and those that are named, in the order of the head's groups."""
    return [get_task(name) for name in registry.TASKS if name in registry.OWN_TASKS or name in names]


def confusion_rows(matrix: NDArray[np.int64], class_names: Sequence[str]) -> list[list[Any]]:
    """A confusion matrix [C, C] as a table: a row per true class, a column per predicted one."""
    rows: list[list[Any]] = [["true class", *class_names]]
    return rows + [[name, *counts] for name, counts in zip(class_names, matrix.tolist(), strict=True)]
