"""A checkpoint as an object that reads images, for programs and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.checkpoint.exported import load_network
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import default_config
from onehead_cli.config.sections import Config
from onehead_cli.prediction.predictor import Prediction, Predictor


class Network:
    """checkpoint: what it was made of."""

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self.checkpoint = checkpoint
        self._predictor = Predictor(checkpoint, config)

    @classmethod
    def load(cls, path: str | Path | None, config: Config | None = None) -> Network:
        """See `onehead_cli.load`."""
        config = config or default_config()
        return cls(load_network(Path(path) if path else shipped_student(), threads=config.threads), config)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.checkpoint.architecture.tasks

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """The class names of each task."""
        return self._predictor.classes

    def predict(self, image: Image.Image | NDArray[np.uint8] | str | Path) -> Prediction:
        """What the network says about one image: a file, Pillow's, or an array uint8 [height, width, 3] or [height,
        width], in one forward pass.

        Raises:
            DataError: the file cannot be read, or the array is no such image.
        """
        return self._predictor.predict_one(image)
