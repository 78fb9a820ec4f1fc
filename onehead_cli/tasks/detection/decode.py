"""Reading the H/16 x W/16 maps: classes, masks and boxes. Training pools and decodes in the same way.

Channels of the detection map, per cell: one set of class scores, then for each of the n_bbox boxes
(x, y, width, height, confidence), as in YOLOv1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from onehead_cli.config.sections import SizeUnit
from onehead_cli.data.geometry import Fit

#: Numbers that describe one box of a cell: x, y, width, height, confidence.
BOX_CHANNELS = 5
#: exp() of a size is kept below three times the image, so that a wild logit stays finite.
_MAX_LOG_SIZE = 1.1


@dataclass
class Detections:
    """The boxes of one image, best first.

    boxes: float64 [n, 4], x1 y1 x2 y2 in pixels of the original image.
    scores: float64 [n], class probability times confidence, in 0..1.
    labels: int64 [n], class indices.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass
class BoxMap:
    """The detection map taken apart; h x w cells, n boxes per cell.

    classes: logits, float [B, C, h, w].
    boxes: x1 y1 x2 y2 in 0..1 of the input (not clipped), float [B, n, h, w, 4].
    confidence: logits, float [B, n, h, w].
    """

    classes: Tensor
    boxes: Tensor
    confidence: Tensor


def decode_boxes(detection_map: Tensor, num_classes: int, size_unit: SizeUnit = "input") -> BoxMap:
    """Take a detection map [B, C + 5n, h, w] apart.

    The centre may lie up to one cell outside its own: centre = cell + 3 sigmoid(t) - 1, in cells; the size is
    exp(t) of the input, or exp(t) cells. Both hold for every n.
    """
    detection_map = detection_map.float()
    classes, rest = detection_map[:, :num_classes], detection_map[:, num_classes:]
    batch, _, h, w = rest.shape
    rest = rest.reshape(batch, -1, BOX_CHANNELS, h, w)  # [B, n, 5, h, w]
    tx, ty, tw, th, confidence = rest.unbind(2)
    if size_unit == "cells":
        tw, th = tw - math.log(w), th - math.log(h)
    columns = torch.arange(w, device=rest.device, dtype=rest.dtype)
    rows = torch.arange(h, device=rest.device, dtype=rest.dtype)[:, None]
    cx, cy = (columns + 3 * tx.sigmoid() - 1) / w, (rows + 3 * ty.sigmoid() - 1) / h
    half_w, half_h = tw.clamp(max=_MAX_LOG_SIZE).exp() / 2, th.clamp(max=_MAX_LOG_SIZE).exp() / 2
    boxes = torch.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], dim=-1)
    return BoxMap(classes=classes, boxes=boxes, confidence=confidence)


def read_boxes(
    decoded: BoxMap,
    fits: Sequence[Fit],
    *,
    nms_iou: float,
    score_min: float,
    max_detections: int,
    best_class: bool = False,
    vote_iou: float = 1.0,
) -> list[Detections]:
    """Boxes of a batch in pixels of the original images, after NMS within each class.

    Args:
        decoded: the detection maps of the batch, taken apart.
        fits: how each image was fitted into the input.
        nms_iou: overlap above which the lower of two boxes of a class is dropped.
        score_min: class probability (softmax) times confidence (sigmoid) below which a box is dropped.
        max_detections: boxes kept per image.
        best_class: only the likeliest class of a cell gives boxes.
        vote_iou: after NMS each box becomes the mean, weighted by score, of those of its class, dropped ones too, that
            overlap it by as much or more; its score stays (Gidaris and Komodakis, arXiv 1505.01749). 1: no box moves.
    """
    scores = cell_scores(decoded, best_class=best_class)
    found = []
    for image, fit in enumerate(fits):
        box_index, label, row, column = torch.nonzero(scores[image] >= score_min, as_tuple=True)
        kept_scores = scores[image, box_index, label, row, column]
        boxes = decoded.boxes[image, box_index, row, column] * fit.size
        # Clipped before NMS: what leaves the image must not count as overlap.
        clipped = torch.from_numpy(fit.to_image(boxes.cpu().double().numpy()))
        solid = ((clipped[:, 2] - clipped[:, 0]) > 0) & ((clipped[:, 3] - clipped[:, 1]) > 0)
        clipped, kept_scores, label = clipped[solid], kept_scores.cpu().double()[solid], label.cpu()[solid]
        keep = batched_nms(clipped.float(), kept_scores.float(), label, nms_iou)[:max_detections]
        voted = clipped[keep] if vote_iou == 1 else _voted(clipped, kept_scores, label, keep, vote_iou)
        found.append(Detections(voted.numpy(), kept_scores[keep].numpy(), label[keep].numpy()))
    return found


def cell_scores(decoded: BoxMap, *, best_class: bool) -> Tensor:
    """Class probability times confidence, float [B, n, C, h, w]; below 0 where a class is not to give a box."""
    probabilities = decoded.classes.softmax(1)  # [B, C, h, w]
    if best_class:
        best = probabilities.argmax(1, keepdim=True)
        probabilities = torch.full_like(probabilities, -1.0).scatter(1, best, probabilities.gather(1, best))
    return decoded.confidence.sigmoid()[:, :, None] * probabilities[:, None]


def _voted(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, vote_iou: float) -> Tensor:
    """The kept boxes [k, 4], each moved to the mean of those that vote for it; float64 [n, 4], [n], int64 [n], [k].

    Where all these have a score of 0, a box stays as it is.
    """
    votes = (box_iou(boxes[keep], boxes) >= vote_iou) & (labels[keep][:, None] == labels)  # [k, n]
    votes[torch.arange(len(keep)), keep] = True
    weights = votes * scores
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights @ boxes / total, boxes[keep])
