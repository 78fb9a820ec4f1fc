"""What reads a network's maps for a task, and what it finds: on labelled splits, and on images without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split

if TYPE_CHECKING:
    from PIL import Image

    from onehead_cli.coco_results import CocoResults
    from onehead_cli.tasks.canvas import Canvas

#: A row of a table with a row per class: its name, counts and scores.
Row = dict[str, float | int | str | None]


class Result(Protocol):
    """How a network did on a split. task: its name."""

    task: ClassVar[str]

    def __len__(self) -> int:
        """Images of the split."""

    def scores(self) -> dict[str, float | None]:
        """Every score of the task by its key; None where the truth has nothing to score."""

    def per_class(self) -> list[Row]:
        """A row per class: its name, `count`, and scores that `Task.class_scores` names."""

    def resampled(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """The main score when image i is taken counts[r, i] times; counts int [R, n], returns float64 [R]."""

    def curves(self) -> dict[str, list[list[Any]]]:
        """Further tables, rows of cells with the header first, by the beginning of their file's name."""


@dataclass(frozen=True)
class Choice:
    """What val decides about the reading of one task. diagnostics: what shows whether it is taught well."""

    result: Result
    thresholds: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, float | None] = field(default_factory=dict)


class Found(Protocol):
    """What a network says about one image without labels."""

    def record(self, save: Callable[[str, Image.Image], str | None]) -> dict[str, Any]:
        """Its part of the image's record, as plain values by key.

        Args: save: writes an image of a kind ("mask") beside the record and gives its file's name; None where no such
            files are wanted.
        """

    def paint(self, canvas: Canvas) -> None:
        """Put it on the drawing of the image."""

    def add_to_coco(self, results: CocoResults, *, masks: bool) -> None:
        """Put what a COCO dataset can hold into it, as of its last image. Args: masks: regions of pixels too."""


NO_INPUTS: Mapping[str, float] = MappingProxyType({})


class Reader(ABC):
    """Reads the maps of one network for one task: on labelled splits, and on images without labels.

    Of an exported file it reads what the file gives instead, a `FileOutputs` per image.
    """

    #: By name, the further inputs of the file that `observe` and `predict` need.
    observe_inputs: Mapping[str, float] = NO_INPUTS
    predict_inputs: Mapping[str, float] = NO_INPUTS
    #: Whether it reads an output of the file that has a value per pixel.
    reads_pixels: bool = False

    @abstractmethod
    def observe(self, maps: Any, split: Split, indices: Sequence[int], *, choosing: bool = False) -> Sequence[Any]:
        """What is kept of each image's map, on the CPU.

        Args:
            maps: float [B, C, h, w], or B `FileOutputs`.
            indices: of the images in the split.
            choosing: `choose` will be asked, not `result`.
        """

    @abstractmethod
    def result(self, observations: Sequence[Any], splits: Sequence[Split]) -> Result:
        """The result over all images of the splits, pooled."""

    def choose(self, observations: Sequence[Any], split: Split) -> Choice:
        """The result on val and the thresholds that are best there."""
        return Choice(self.result(observations, [split]))

    @abstractmethod
    def predict(self, maps: Any, fits: Sequence[Fit]) -> Iterator[Found]:
        """What the maps of some images say, one image at a time."""
