"""How the maps of a network are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.types import Pooling


@dataclass(frozen=True)
class Reading:
    """How the maps of a network are read; stored in its checkpoint. The defaults are how 0.1.0 read.

    pooling: see `pool_classes`. best_class, nms_iou, vote_iou: see `read_boxes`. predict_nms_iou: the NMS where boxes
    are drawn, and where the scores are chosen from which one is.
    """

    pooling: Pooling = "gate"
    best_class: bool = False
    nms_iou: float = 0.6
    predict_nms_iou: float = 0.4
    vote_iou: float = 1.0

    def changed_by(self, config: EvaluationConfig) -> Reading:
        """The same but for the fields that the config sets."""
        names = ("best_class", "nms_iou", "predict_nms_iou", "vote_iou")
        given = {name: getattr(config, name) for name in names}
        return replace(self, **{name: value for name, value in given.items() if value is not None})
