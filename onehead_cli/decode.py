"""Reading the H/16 x W/16 maps: classes, masks and boxes. Training pools and decodes in the same way.

Channels of the detection map, per cell: one set of class scores, then for each of the n_bbox boxes
(x, y, width, height, confidence), as in YOLOv1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from onehead_cli.config import EvaluationConfig
from onehead_cli.datasets.geometry import Fit
from onehead_cli.types import Pooling, SizeUnit

#: Numbers that describe one box of a cell: x, y, width, height, confidence.
BOX_CHANNELS = 5
#: exp() of a size is kept below three times the picture, so that a wild logit stays finite.
_MAX_LOG_SIZE = 1.1
#: Pixels whose logits are upsampled at once when a mask is read.
_BAND_PIXELS = 1_000_000
#: No cell is less sure than one part in as many classes; it stands for a threshold of 0.
_SMALLEST_THRESHOLD = 1e-6


@dataclass
class Detections:
    """The boxes of one picture, best first.

    boxes: float64 [n, 4], x1 y1 x2 y2 in pixels of the original picture.
    scores: float64 [n], class probability times confidence, in 0..1.
    labels: int64 [n], class indices.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


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


def pool_classes(class_map: Tensor, threshold: float, *, pooling: Pooling = "gate") -> Tensor:
    """Average the logits of the cells, those that are sure of their class above all.

    Args:
        class_map: float [B, C, h, w], logits per cell.
        threshold: gate: cells whose largest softmax value is below it are left out; where none is left, all are
            averaged. soft: such a cell counts by its share of the threshold, so that a cell that crosses it changes
            nothing at once.

    Returns:
        Logits, float [B, C].
    """
    logits = class_map.float().flatten(2)  # [B, C, h*w]
    with torch.no_grad():
        sureness = logits.softmax(1).amax(1, keepdim=True)  # [B, 1, h*w]
        if pooling == "soft":
            weight = (sureness / max(threshold, _SMALLEST_THRESHOLD)).clamp(max=1)
        else:
            sure = sureness >= threshold
            weight = (sure | ~sure.any(2, keepdim=True)).to(logits.dtype)
    return (logits * weight).sum(2) / weight.sum(2)


@dataclass
class BoxMap:
    """The detection map taken apart; h x w cells, n boxes a cell.

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


def read_mask(segmentation_map: Tensor, fit: Fit) -> NDArray[np.uint8]:
    """The class of each pixel of the original picture.

    Args:
        segmentation_map: logits of one picture, float [C, h, w], h = w = S / 16.
        fit: how the picture was fitted into the input.

    Returns:
        uint8 [height, width], class indices; the logits are upsampled bilinearly at the pixel centres.
    """
    logits = segmentation_map.float()
    across = _interpolation(fit.width, fit.scale_x, fit.offset_x, fit.size, logits.shape[2]).to(logits.device)
    down = _interpolation(fit.height, fit.scale_y, fit.offset_y, fit.size, logits.shape[1]).to(logits.device)
    bands = []
    # In bands: a whole photo of 20 megapixels would take a lot of memory.
    for band in torch.split(down, max(1, _BAND_PIXELS // fit.width)):
        # Class by class, which is five times as fast as an argmax over the classes of each pixel.
        best = band @ logits[0] @ across.T
        labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for label in range(1, len(logits)):
            upsampled = band @ logits[label] @ across.T
            labels.masked_fill_(upsampled > best, label)
            torch.maximum(best, upsampled, out=best)
        bands.append(labels.cpu())
    mask: NDArray[np.uint8] = torch.cat(bands).numpy()
    return mask


def _interpolation(pixels: int, scale: float, offset: int, size: int, cells: int) -> Tensor:
    """What each cell of a row adds to each pixel, float [pixels, cells]: bilinear, at the pixels' centres."""
    place = ((torch.arange(pixels) + 0.5) * scale + offset) * cells / size - 0.5
    place = place.clamp(0, cells - 1)
    low = place.long()
    weights, row = torch.zeros(pixels, cells), torch.arange(pixels)
    weights[row, low] = 1 - (place - low)
    weights[row, (low + 1).clamp(max=cells - 1)] += place - low
    return weights


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
    probabilities = decoded.classes.softmax(1)  # [B, C, h, w]
    if best_class:
        best = probabilities.argmax(1, keepdim=True)
        probabilities = torch.full_like(probabilities, -1.0).scatter_(1, best, probabilities.gather(1, best))
    scores = decoded.confidence.sigmoid()[:, :, None] * probabilities[:, None]  # [B, n, C, h, w]
    found = []
    for image, fit in enumerate(fits):
        box_index, label, row, column = torch.nonzero(scores[image] >= score_min, as_tuple=True)
        kept_scores = scores[image, box_index, label, row, column]
        boxes = decoded.boxes[image, box_index, row, column] * fit.size
        # Clipped before NMS: what leaves the image must not count as overlap.
        clipped = torch.from_numpy(fit.to_picture(boxes.cpu().double().numpy()))
        solid = ((clipped[:, 2] - clipped[:, 0]) > 0) & ((clipped[:, 3] - clipped[:, 1]) > 0)
        clipped, kept_scores, label = clipped[solid], kept_scores.cpu().double()[solid], label.cpu()[solid]
        keep = batched_nms(clipped.float(), kept_scores.float(), label, nms_iou)[:max_detections]
        voted = clipped[keep] if vote_iou == 1 else _voted(clipped, kept_scores, label, keep, vote_iou)
        found.append(Detections(voted.numpy(), kept_scores[keep].numpy(), label[keep].numpy()))
    return found


def _voted(boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, vote_iou: float) -> Tensor:
    """The kept boxes [k, 4], each moved to the mean of those that vote for it; float64 [n, 4], [n], int64 [n], [k]."""
    votes = (box_iou(boxes[keep], boxes) >= vote_iou) & (labels[keep][:, None] == labels)  # [k, n]
    votes[torch.arange(len(keep)), keep] = True
    weights = votes * scores
    moved: Tensor = weights @ boxes / weights.sum(1, keepdim=True)
    return moved
