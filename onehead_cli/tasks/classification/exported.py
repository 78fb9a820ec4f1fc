"""Classification in an exported file, which gives the probabilities of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.config.sections import Pooling
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.classification.reader import FoundClass, labels_of
from onehead_cli.tasks.classification.scores import ClassificationResult
from onehead_cli.tasks.exported import FileOutputs, MapReading, PlaceInInput
from onehead_cli.tasks.reader import Reader


class ClassReading(MapReading):
    """Pools the class map; see `pool_classes`."""

    def __init__(self, classes: int, threshold: float, pooling: Pooling) -> None:
        super().__init__({"probabilities": [classes]})
        self.threshold, self.pooling = threshold, pooling

    def forward(self, task_map: Tensor, place: PlaceInInput, mask_size: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (pool_classes(task_map, self.threshold, pooling=self.pooling).softmax(1)[0],)

    tolerances: ClassVar[Mapping[str, tuple[float, float]]] = {"probability": (1e-5, 2e-3)}
    int8_limits: ClassVar[Mapping[str, float]] = {"top1_equal": 0.95}

    def differences(self, torch_says: FoundClass, file_says: FoundClass) -> dict[str, float]:
        """The largest difference of a probability."""
        return {"probability": float(np.abs(torch_says.probabilities - file_says.probabilities).max())}

    def compared(self, torch_says: FoundClass, file_says: FoundClass) -> bool:
        """Whether both give the image the same class."""
        return bool(torch_says.probabilities.argmax() == file_says.probabilities.argmax())

    def agreement(self, compared: Sequence[bool]) -> dict[str, float]:
        """The share of the images that are given the same class."""
        return {"top1_equal": float(np.mean(compared))}


@dataclass
class ProbabilityReader(Reader):
    """Takes the probabilities as the file gives them."""

    classes: Sequence[str]

    def observe(
        self, maps: Sequence[FileOutputs], split: Split, indices: Sequence[int], *, choosing: bool = False
    ) -> list[NDArray[np.float32]]:
        return [each["probabilities"] for each in maps]

    def result(self, observations: Sequence[NDArray[np.float32]], splits: Sequence[Split]) -> ClassificationResult:
        # Their logarithms are the logits but for a constant; a probability of 0 stays finite.
        logits = np.log(np.maximum(np.stack(observations), np.finfo(np.float32).tiny))
        return ClassificationResult(logits, np.array(labels_of(splits)), self.classes)

    def predict(self, maps: Sequence[FileOutputs], fits: Sequence[Fit]) -> Iterator[FoundClass]:
        return (FoundClass(self.classes, each["probabilities"]) for each in maps)
