"""The YOLOv1 form of the detection loss (Redmon et al., arXiv 1506.02640, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from onehead_cli.config.sections import SizeUnit
from onehead_cli.tasks.detection.decode import decode_boxes
from onehead_cli.tasks.detection.loss import crowd_cells
from onehead_cli.tasks.detection.overlaps import iou
from onehead_cli.tasks.detection.target import DetectionTarget

_COORD = 5.0
_NO_OBJECT = 0.5


def yolov1_loss(
    detection_map: Tensor,
    target: DetectionTarget,
    *,
    num_classes: int,
    image_size: int,
    size_unit: SizeUnit = "input",
) -> Tensor:
    """Squared errors of centre, root of size, confidence and class probabilities, summed per image, float [B].

    The cell that holds a true box's centre answers for it, with the box of the highest IoU; where two centres share a
    cell the later true box has it. Centres are in cells, sizes in 0..1 of the input. Cells in crowd regions are no
    negatives. Arguments as in `detection.detection_loss`.
    """
    decoded = decode_boxes(detection_map, num_classes, size_unit)
    batch, _, h, w = decoded.confidence.shape
    truth = target.boxes.to(decoded.boxes.dtype) / image_size
    image, index = torch.nonzero((target.labels >= 0) & ~target.crowd, as_tuple=True)
    boxes = truth[image, index]
    grid = boxes.new_tensor([w, h])
    cell = ((boxes[:, :2] + boxes[:, 2:]) / 2 * grid).long()
    column, row = cell[:, 0].clamp(0, w - 1), cell[:, 1].clamp(0, h - 1)

    # A cell is given to the last box that claims it before it is written: written twice, a GPU may keep either.
    order, place = torch.arange(len(image), device=boxes.device), (image * h + row) * w + column
    last = order[~((place[:, None] == place) & (order[:, None] < order)).any(1)]
    owner = torch.full((batch, h, w), -1, device=boxes.device)
    owner[image[last], row[last], column[last]] = last
    has_object = owner >= 0
    claim = owner[has_object]  # [P], in the order of the cells
    p, r, c = torch.nonzero(has_object, as_tuple=True)
    true_boxes = boxes[claim]  # [P, 4]
    overlaps = iou(decoded.boxes[p, :, r, c].detach(), true_boxes[:, None])  # [P, n]
    best = overlaps.argmax(1)
    predicted = decoded.boxes[p, best, r, c]

    centre = ((predicted[:, :2] + predicted[:, 2:]) - (true_boxes[:, :2] + true_boxes[:, 2:])) / 2 * grid
    # The root of a size near 0 has no finite slope.
    size = (predicted[:, 2:] - predicted[:, :2]).clamp(min=1e-6).sqrt() - (true_boxes[:, 2:] - true_boxes[:, :2]).sqrt()
    coordinates = _COORD * (centre.square() + size.square()).sum(1)

    confidence = decoded.confidence.sigmoid()
    wanted = torch.zeros_like(confidence)
    weight = torch.full_like(confidence, _NO_OBJECT)
    weight[crowd_cells(target, confidence.shape[-2:], image_size)[:, None].expand_as(weight)] = 0
    wanted[p, best, r, c] = overlaps.gather(1, best[:, None])[:, 0]
    weight[p, best, r, c] = 1
    objectness = (weight * (confidence - wanted).square()).flatten(1).sum(1)

    probabilities = decoded.classes.softmax(1)[p, :, r, c]  # [P, C]
    one_hot = torch.nn.functional.one_hot(target.labels[image, index][claim], num_classes)
    classes = (probabilities - one_hot).square().sum(1)
    return objectness.index_add(0, p, coordinates + classes)
