"""Whether confidence tells good boxes from poor ones, before NMS: what mAP shows only late and by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from onehead_cli.tasks.detection.decode import BoxMap
from onehead_cli.tasks.detection.loss import candidate_cells
from onehead_cli.tasks.detection.overlaps import iou
from onehead_cli.tasks.detection.target import DetectionTarget


@dataclass(frozen=True)
class BoxRanking:
    """Of some images: `spearmans`, one per true box, and the highest confidence of all boxes, 0..1."""

    spearmans: list[float]
    top_confidence: float


def rank_boxes(decoded: BoxMap, target: DetectionTarget, image_size: int) -> BoxRanking:
    """Spearman's correlation of confidence with IoU over the candidates of each true box: the n boxes of the 3 x 3
    cells round its centre.

    Crowd regions are left out, and true boxes whose candidates are all equally sure or equally good.

    Args:
        target: boxes in pixels of the input, padded.
        image_size: S.
    """
    from scipy import stats  # takes longer to import than most commands need it

    truth = target.boxes.to(decoded.boxes) / image_size
    spearmans = []
    for image, index in ((target.labels >= 0) & ~target.crowd).nonzero().tolist():
        rows, columns, inside = candidate_cells(truth[image, index][None], decoded.confidence.shape[-2:])
        rows, columns = rows[inside], columns[inside]
        overlap: Tensor = iou(decoded.boxes[image, :, rows, columns], truth[image, index]).flatten()
        sure = decoded.confidence[image, :, rows, columns].flatten()
        if overlap.max() > overlap.min() and sure.max() > sure.min():
            spearmans.append(float(stats.spearmanr(sure.cpu().numpy(), overlap.cpu().numpy()).statistic))
    return BoxRanking(spearmans, float(decoded.confidence.sigmoid().max()) if decoded.confidence.numel() else 0.0)


def summarise(rankings: Sequence[BoxRanking]) -> dict[str, float | None]:
    """`box_spearman`, the mean over all true boxes, and `box_confidence`, the highest; None where there is none."""
    spearmans = [value for ranking in rankings for value in ranking.spearmans]
    return {
        "box_spearman": float(np.mean(spearmans)) if spearmans else None,
        "box_confidence": max((ranking.top_confidence for ranking in rankings), default=None),
    }
