"""What an exported file says, against what its checkpoint says in torch in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.checkpoint.exported import ExportedNetwork
from onehead_cli.config.sections import Config
from onehead_cli.data.prepare.outlines import CLASSES
from onehead_cli.data.prepare.scenes import draw_classification
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.tasks.exported import MapReading

Weights = Literal["float32", "float16"]


@dataclass(frozen=True)
class Agreement:
    """One figure of how near the file comes to the checkpoint. limit: the largest that passes, or the least.

    of: the task.
    """

    of: str
    name: str
    value: float
    limit: float
    more_is_better: bool

    @property
    def ok(self) -> bool:
        """False for NaN."""
        return self.value >= self.limit if self.more_is_better else self.value <= self.limit


def in_float32(config: Config) -> Config:
    """The config of what a file is measured against."""
    precision = config.model.model_copy(update={"precision": "fp32"})
    return config.model_copy(update={"device": "cpu", "model": precision})


def drawn_images() -> Iterator[Image.Image]:
    """Eight painted scenes of different sizes, the same each time, and a black image in which there is nothing."""
    for number in range(8):
        rng = np.random.default_rng([55, number])
        scene = draw_classification(rng, CLASSES[number % len(CLASSES)], image_size=160 + 80 * number)
        yield Image.fromarray(scene.image)
    yield Image.new("RGB", (300, 200))


def measure_floats(
    checkpoint: Checkpoint,
    network: ExportedNetwork,
    readings: Mapping[str, MapReading],
    config: Config,
    *,
    weights: Weights,
) -> list[Agreement]:
    """The largest differences over `drawn_images`, boxes from the lowest score on."""
    largest: dict[tuple[str, str], float] = {}
    lowest = config.evaluation.score_min
    for found in _found_by_both(checkpoint, network, config, drawn_images(), score_threshold=lowest):
        for task, reading in readings.items():
            for name, value in reading.differences(*found[task]).items():
                # Of NaN and a number, NaN.
                largest[task, name] = float(np.maximum(largest.get((task, name), 0.0), value))
    which = 0 if weights == "float32" else 1
    return [
        Agreement(task, name, value, readings[task].tolerances[name][which], more_is_better=False)
        for (task, name), value in largest.items()
    ]


def measure_int8(
    checkpoint: Checkpoint,
    network: ExportedNetwork,
    readings: Mapping[str, MapReading],
    config: Config,
    images: Iterable[Image.Image],
) -> list[Agreement]:
    """How well what is shown of images agrees."""
    compared: dict[str, list[Any]] = {task: [] for task in readings}
    for found in _found_by_both(checkpoint, network, config, images):
        for task, both in found.items():
            compared[task].append(readings[task].compared(*both))
    return [
        Agreement(task, name, value, reading.int8_limits[name], more_is_better=True)
        for task, reading in readings.items()
        for name, value in reading.agreement(compared[task]).items()
    ]


def _found_by_both(
    checkpoint: Checkpoint,
    network: ExportedNetwork,
    config: Config,
    images: Iterable[Image.Image],
    *,
    score_threshold: float | None = None,
) -> Iterator[dict[str, tuple[Any, Any]]]:
    """What torch and the file say of each image, by task."""
    theirs = [Predictor(each, in_float32(config), score_threshold=score_threshold) for each in (checkpoint, network)]
    for image in images:
        inputs, fit = theirs[0].fit(image)
        (one,), (other,) = (list(predictor.predict([inputs], [fit])) for predictor in theirs)
        yield {task: (one.found[task], found) for task, found in other.found.items()}
