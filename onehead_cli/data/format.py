"""What a format on disk is: it lists, checks and counts the images and labels of a split. Without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import BaseModel

from onehead_cli import registry
from onehead_cli.config.sections import Config
from onehead_cli.data.folders import PassedOver
from onehead_cli.data.nearest import near_folder
from onehead_cli.errors import DataError

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts


@dataclass(frozen=True)
class Fault:
    """What is wrong with one image or its label. kind: in one or two words, for scripts. path: the file at fault."""

    kind: str
    reason: str
    path: Path


@dataclass(frozen=True)
class Contents:
    """What the label of one image holds.

    amounts: how much of each class; None stands for what belongs to no class.
    further: counts of other things, by what they are.
    """

    amounts: Counter[str | None]
    further: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Listing(ABC):
    """One split of one task as it lies on disk; no image was opened.

    classes: names, in the order of the labels; a task without classes has none.
    images: their paths.
    passed_over: what lies in the split's folders and is not used, by folder.
    """

    classes: list[str]
    images: list[Path]
    passed_over: Sequence[PassedOver] = field(default=(), kw_only=True)

    #: What `Contents.amounts` counts, where it is more than images.
    unit: ClassVar[str | None] = None

    @property
    def outside(self) -> Collection[Path]:
        """Images whose name leads out of their folder; they must not be opened."""
        return ()

    @property
    def warnings(self) -> list[str]:
        """What of the labels was dropped or clipped, and how often; folders of which most is passed over."""
        return [str(part) for part in self.passed_over if part.is_most]

    @abstractmethod
    def without(self, skip: Collection[Path]) -> Self:
        """The same without some images and their labels."""

    def with_classes(self, classes: Sequence[str]) -> Self:
        """The same with its labels numbered as in `classes`, which has all of its names and perhaps more; unchanged
        where the numbers are in the files."""
        return self

    def home(self, index: int) -> Path:
        """The folder that an image's name is relative to."""
        return self.images[index].parent

    def doubts(self, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        """What can be used and is hardly meant: labels of a whole split that say nothing. `--check` fails at it, a
        training warns."""
        yield from ()

    def label_file(self, index: int) -> Path | None:
        """The file that holds an image's label, where each image has one of its own."""
        return None

    def faults(self, index: int, size: tuple[int, int] | None, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        """What is wrong with an image's label, or with the image for its label.

        Args:
            size: width and height of the image; None where it cannot be read.
            facts: of a file.
        """
        yield from ()

    @abstractmethod
    def present(self, facts: Callable[[Path], Facts]) -> Collection[int] | None:
        """The classes that have an example; None where that is not known."""

    @abstractmethod
    def contents(self, index: int, size: tuple[int, int]) -> Contents:
        """What an image's label holds.

        Args: size: width and height of the image.

        Raises:
            DataError: the label cannot be read, or does not fit the image or the classes.
        """


class Format(ABC):
    """How the data of a task lie on disk.

    section: what it adds to the config under the task's name; None for onehead's own, whose keys are in `data`.
    """

    section: ClassVar[type[BaseModel] | None] = None
    #: Keys of the config that only say where the data lie.
    locations: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def places(self, config: Config, split: str) -> Sequence[Path]:
        """The folders and files that a split is read from."""

    @abstractmethod
    def is_there(self, config: Config, split: str) -> bool:
        """Whether anything of a split is there, usable or not."""

    @abstractmethod
    def list(self, config: Config, split: str) -> Listing:
        """One split.

        Raises:
            DataError: a folder or file is missing or cannot be used.
        """

    def classes(self, config: Config, split: str) -> Sequence[str]:
        """The class names of a split, in the order of the labels.

        Raises:
            DataError: a folder or file is missing or cannot be used.
        """
        return self.list(config, split).classes


def get_format(task: str) -> Format:
    """The format of a task's data. Raises: ConfigError: there is no such task."""
    found: Format = registry.load_format(task)
    return found


def reads_root(task: str, config: Config) -> bool:
    """Whether images or labels of a task are read from its folder in `data.root`, which the manifest tells of."""
    from onehead_cli.data.layout import DATASET_FOLDERS

    if task not in DATASET_FOLDERS:
        return False
    prepared = (config.data.root / DATASET_FOLDERS[task]).absolute()
    places = get_format(task).places(config, config.data.train_split)
    return any(place.absolute().is_relative_to(prepared) for place in places)


def of_split(path: Path, split: str) -> Path:
    """The path with {split} filled in, or, where it has none, the split's folder inside."""
    return filled_in(path, split) if "{split}" in str(path) else path / split


def filled_in(path: Path, split: str) -> Path:
    """The path with {split} filled in."""
    return Path(str(path).replace("{split}", split))


def missing(path: Path, what: str, task: str) -> str:
    """What is said of a folder or file that is not there."""
    near = near_folder(path)
    hint = "" if near is None else f"; found {near}"
    return f"{path}: no such {what}{hint}; create it with `onehead prepare-data`, or leave {task} out of data.tasks"


def describe_difference(task: str, what: str, found: Sequence[str], wanted: Sequence[str]) -> str:
    """Both lists of class names in one line."""
    return f"{task} classes of the {what} differ: it has {', '.join(found)}; expected {', '.join(wanted)}"


def check_classes(task: str, found: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """Raises: DataError: the class names of a split are not those of the network, so labels would change meaning."""
    if list(found) != list(wanted):
        raise DataError(describe_difference(task, what, found, wanted))
