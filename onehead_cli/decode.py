"""Reading the H/16 x W/16 maps: classes, masks and boxes. Training pools and decodes in the same way.

Channels of the detection map, per cell: one set of class scores, then for each of the n_bbox boxes
(x, y, width, height, confidence), as in YOLOv1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from onehead_cli.datasets.geometry import Fit

#: Numbers that describe one box of a cell: x, y, width, height, confidence.
BOX_CHANNELS = 5
#: exp() of a size is kept below three times the picture, so that a wild logit stays finite.
_MAX_LOG_SIZE = 1.1
#: Pixels whose logits are upsampled at once when a mask is read.
_BAND_PIXELS = 1_000_000


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


def pool_classes(class_map: Tensor, threshold: float) -> Tensor:
    """Average the logits of the cells that are sure of their class.

    Args:
        class_map: float [B, C, h, w], logits a cell.
        threshold: cells whose largest softmax value is below it are left out; where none is left, all are averaged.

    Returns:
        Logits, float [B, C].
    """
    logits = class_map.float().flatten(2)  # [B, C, h*w]
    with torch.no_grad():
        sure = logits.softmax(1).amax(1, keepdim=True) >= threshold  # [B, 1, h*w]
        keep = (sure | ~sure.any(2, keepdim=True)).to(logits.dtype)
    return (logits * keep).sum(2) / keep.sum(2)


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


def decode_boxes(detection_map: Tensor, num_classes: int) -> BoxMap:
    """Take a detection map [B, C + 5n, h, w] apart.

    The centre may lie up to one cell outside its own: centre = cell + 3 sigmoid(t) - 1, in cells; the size is
    exp(t) of the input. Both hold for every n.
    """
    detection_map = detection_map.float()
    classes, rest = detection_map[:, :num_classes], detection_map[:, num_classes:]
    batch, _, h, w = rest.shape
    rest = rest.reshape(batch, -1, BOX_CHANNELS, h, w)  # [B, n, 5, h, w]
    tx, ty, tw, th, confidence = rest.unbind(2)
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
    size, device = fit.size, segmentation_map.device
    xs = (torch.arange(fit.width, device=device) + 0.5) * fit.scale_x + fit.offset_x
    ys = (torch.arange(fit.height, device=device) + 0.5) * fit.scale_y + fit.offset_y
    logits, bands = segmentation_map[None].float(), []
    # In bands: the logits of all classes for a whole photo of 20 megapixels would take gigabytes.
    for band in torch.split(ys, max(1, _BAND_PIXELS // fit.width)):
        grid_x = (xs * 2 / size - 1)[None, :].expand(len(band), -1)
        grid_y = (band * 2 / size - 1)[:, None].expand(-1, fit.width)
        grid = torch.stack([grid_x, grid_y], dim=-1)[None].float()  # [1, rows, width, 2]
        upsampled = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)[0]
        bands.append(upsampled.argmax(0).to(torch.uint8).cpu())
    mask: NDArray[np.uint8] = torch.cat(bands).numpy()
    return mask


def read_boxes(
    detection_map: Tensor, fits: list[Fit], *, num_classes: int, score_min: float, nms_iou: float, max_detections: int
) -> list[Detections]:
    """Boxes of a batch in pixels of the original pictures, after NMS within each class.

    Args:
        detection_map: float [B, C + 5n, h, w].
        fits: how each picture was fitted into the input.
        score_min: class probability (softmax) times confidence (sigmoid) below which a box is dropped.
        nms_iou: overlap above which the lower of two boxes of a class is dropped.
        max_detections: boxes kept a picture.
    """
    decoded = decode_boxes(detection_map, num_classes)
    probabilities = decoded.classes.softmax(1)[:, None]  # [B, 1, C, h, w]
    scores = decoded.confidence.sigmoid()[:, :, None] * probabilities  # [B, n, C, h, w]
    found = []
    for picture, fit in enumerate(fits):
        box_index, label, row, column = torch.nonzero(scores[picture] >= score_min, as_tuple=True)
        kept_scores = scores[picture, box_index, label, row, column]
        boxes = decoded.boxes[picture, box_index, row, column] * fit.size
        # Clipped before NMS: what leaves the picture must not count as overlap.
        boxes_np = fit.to_picture(boxes.cpu().double().numpy())
        clipped = torch.from_numpy(boxes_np)
        solid = ((clipped[:, 2] - clipped[:, 0]) > 0) & ((clipped[:, 3] - clipped[:, 1]) > 0)
        clipped, kept_scores, label = clipped[solid], kept_scores.cpu().double()[solid], label.cpu()[solid]
        keep = batched_nms(clipped.float(), kept_scores.float(), label, nms_iou)[:max_detections]
        found.append(Detections(clipped[keep].numpy(), kept_scores[keep].numpy(), label[keep].numpy()))
    return found
