"""One small network with one head for classification, segmentation and detection.

From Python: `onehead_cli.load(checkpoint).predict(image)`, and `onehead_cli.engine` for what the commands do; see
docs/api.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onehead_cli.config.sections import Config
    from onehead_cli.prediction.network import Network

__version__ = "0.2.0"


def load(checkpoint: str | Path | None = None, config: Config | None = None) -> Network:
    """A network ready to read images.

    Args:
        checkpoint: a .pth or .safetensors file; None for the student that comes with onehead.
        config: how it runs and how boxes are read, in `device`, `model.precision` and `evaluation`; None for the
            defaults.

    Raises:
        CheckpointError: the file cannot be used.
    """
    from onehead_cli.prediction.network import Network

    return Network.load(checkpoint, config)
