"""The default detection loss: positives round the centre, dynamic top-k assignment, GIoU, quality-aware focal target.

Assignment after SimOTA (Ge et al., YOLOX, arXiv 2107.08430), confidence after the quality focal loss (Li et al.,
arXiv 2006.04388). `yolov1.py` holds the other form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import SizeUnit
from onehead_cli.tasks.detection.decode import BoxMap, decode_boxes
from onehead_cli.tasks.detection.overlaps import generalised_iou, iou
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.soft_targets import kl

#: How much a poor box costs against a wrong class when cells are assigned.
_IOU_COST = 3.0
#: The overlaps that are summed to say how many boxes a true box may claim.
_TOP_K = 10
_BOX_WEIGHT = 2.0
#: What a negative weighs in the varifocal loss.
_NEGATIVE_SHARE = 0.75


@dataclass
class Assignment:
    """Which predicted boxes answer for which true boxes; P pairs.

    image, box, row, column: int64 [P], indices of the predicted box.
    truth: int64 [P], index of the true box in its image.
    """

    image: Tensor
    box: Tensor
    row: Tensor
    column: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Teaching:
    """How the detection map is taught; see `config.DetectionConfig`, whose defaults these are."""

    confidence: Literal["quality", "varifocal"] = "varifocal"
    confidence_cost: float = 0.5
    ignore_iou: float = 0.5
    every_box: bool = False
    smallest: float = 0.0
    size_unit: SizeUnit = "input"


_DEFAULT = Teaching()


def detection_loss(
    detection_map: Tensor,
    target: DetectionTarget,
    *,
    num_classes: int,
    image_size: int,
    teaching: Teaching = _DEFAULT,
) -> Tensor:
    """Confidence + 2 GIoU + class loss per image, float [B].

    Each term is divided by the number of positives of its image (at least 1), so that a buffer of small batches
    equals one large batch. No negatives are: cells whose centre lies in a crowd region, and unassigned boxes that
    overlap a true box by more than `teaching.ignore_iou`.

    Args:
        detection_map: float [B, C + 5n, h, w].
        target: boxes in pixels of the input, padded. Where its images are labelled for some classes only, nothing is
            labelled, and the network sees another class, it is not told that there is nothing: a cell is a negative
            as much as it believes in the labelled classes.
        num_classes: C.
        image_size: S, the side of the input in pixels.
    """
    decoded = decode_boxes(detection_map, num_classes, teaching.size_unit)
    if teaching.smallest:
        target = _without_tiny(target, teaching.smallest, cell=image_size / detection_map.shape[-1])
    truth = target.boxes.to(decoded.boxes.dtype) / image_size
    wanted = (target.labels >= 0) & ~target.crowd
    found = assign(
        decoded,
        truth,
        target.labels,
        wanted,
        confidence_cost=teaching.confidence_cost,
        every_box=teaching.every_box,
    )

    batch = detection_map.shape[0]
    at = (found.image, found.box, found.row, found.column)
    predicted, true_boxes = decoded.boxes[at], truth[found.image, found.truth]
    quality = torch.zeros_like(decoded.confidence)
    quality[at] = iou(predicted.detach(), true_boxes)
    counted = ~crowd_cells(target, quality.shape[-2:], image_size)[:, None].expand_as(quality)
    counted = counted.float()
    if target.labelled is not None:
        counted *= decoded.classes.detach().softmax(1)[:, list(target.labelled)].sum(1, keepdim=True)
    if teaching.ignore_iou < 1:
        counted *= best_overlap(decoded.boxes.detach(), truth, wanted) <= teaching.ignore_iou
    counted[at] = 1.0

    positive = torch.zeros_like(quality, dtype=torch.bool)
    positive[at] = True
    weigh = _varifocal_weight if teaching.confidence == "varifocal" else _quality_weight
    weight = weigh(decoded.confidence.sigmoid(), quality, positive)
    confidence = weight * F.binary_cross_entropy_with_logits(decoded.confidence, quality, reduction="none")
    confidence = (confidence * counted).flatten(1).sum(1)

    # index_add, not a mask: a cell may answer for two true boxes with its two boxes.
    box_loss = confidence.new_zeros(batch).index_add(0, found.image, 1 - generalised_iou(predicted, true_boxes))
    class_logits = decoded.classes[found.image, :, found.row, found.column]  # [P, C]
    class_loss = F.cross_entropy(class_logits, target.labels[found.image, found.truth], reduction="none")
    classes = confidence.new_zeros(batch).index_add(0, found.image, class_loss)

    positives = torch.bincount(found.image, minlength=batch).clamp(min=1)
    return (confidence + _BOX_WEIGHT * box_loss + classes) / positives


def _quality_weight(probability: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
    """|p - q|^2 of the quality focal loss; it has a gradient of its own."""
    return (probability - quality).abs().square()


def _varifocal_weight(probability: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
    """q where a box is assigned, .75 p^2 elsewhere (Zhang et al., VarifocalNet, arXiv 2008.13367, equation 2).

    As in its authors' code, p^2 has a gradient of its own: a sure negative is pushed three times as hard.
    """
    return torch.where(positive, quality, _NEGATIVE_SHARE * probability.square())


def best_overlap(boxes: Tensor, truth: Tensor, wanted: Tensor) -> Tensor:
    """The largest IoU of each predicted box with a wanted true box of its image, 0 where there is none.

    Args:
        boxes: float [B, n, h, w, 4]. truth: float [B, M, 4], in the same unit. wanted: bool [B, M].

    Returns:
        float [B, n, h, w].
    """
    best = boxes.new_zeros(boxes.shape[:-1])
    for index in range(truth.shape[1]):  # one true box at a time: all at once would take M times the memory
        overlap = iou(boxes, truth[:, index, None, None, None])
        best = torch.maximum(best, overlap * wanted[:, index, None, None, None])
    return best


def _without_tiny(target: DetectionTarget, smallest: float, *, cell: float) -> DetectionTarget:
    """The target with boxes whose shorter side is below `smallest` cells as regions to ignore.

    Such a region is at least a cell wide and high round the box's centre: only a cell whose centre lies in a region is
    ignored, and a tiny box seldom holds one.

    Args: cell: the side of a cell in pixels of the input.
    """
    low, high = target.boxes[..., :2], target.boxes[..., 2:]
    tiny = ((high - low).amin(-1) < smallest * cell) & (target.labels >= 0)
    centre, half = (low + high) / 2, (high - low).clamp(min=cell) / 2
    regions = torch.cat([centre - half, centre + half], dim=-1)
    boxes = torch.where(tiny[..., None], regions, target.boxes)
    return replace(target, boxes=boxes, crowd=target.crowd | tiny)


@torch.no_grad()
def assign(
    decoded: BoxMap,
    truth: Tensor,
    labels: Tensor,
    wanted: Tensor,
    *,
    confidence_cost: float = 0.0,
    every_box: bool = False,
) -> Assignment:
    """Give each true box the k cheapest predicted boxes of the 3 x 3 cells round its centre.

    The cost is the class cross-entropy minus 3 log IoU minus `confidence_cost` log confidence; k is the sum of the ten
    largest overlaps, at least 1. A predicted box claimed twice goes to the cheaper claim.

    Args:
        decoded: the predictions, n boxes in each of h x w cells.
        truth: float [B, M, 4] in 0..1 of the input.
        labels: int64 [B, M].
        wanted: bool [B, M], False for padding and crowd regions.
        every_box: a true box that lost all its claims gets the cheapest of its candidates that no one has; such boxes
            are served in their order, and where no candidate is free, one goes without.
    """
    _, per_cell, h, w = decoded.confidence.shape
    image, index = torch.nonzero(wanted, as_tuple=True)  # [G] each
    boxes, classes = truth[image, index], labels[image, index]
    rows, columns, inside = candidate_cells(boxes, torch.Size((h, w)))  # [G, 9] each

    candidates = decoded.boxes[image[:, None], :, rows, columns]  # [G, 9, n, 4]
    overlap = iou(candidates, boxes[:, None, None]) * inside[..., None]  # [G, 9, n]
    log_class = decoded.classes.log_softmax(1)[image[:, None], classes[:, None], rows, columns]  # [G, 9]
    cost = -log_class[..., None] - _IOU_COST * overlap.clamp(min=1e-8).log()
    if confidence_cost:
        sure = decoded.confidence[image[:, None], :, rows, columns]  # [G, 9, n]
        cost = cost - confidence_cost * F.logsigmoid(sure)
    cost = cost.masked_fill(~inside[..., None], torch.inf).flatten(1)  # [G, 9n]

    k = overlap.flatten(1).topk(min(_TOP_K, cost.shape[1]), dim=1).values.sum(1).long().clamp(min=1)
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1)
    chosen = (rank < k[:, None]) & cost.isfinite()
    claim, slot = torch.nonzero(chosen, as_tuple=True)
    slots = torch.arange(cost.shape[1], device=cost.device)
    places = (image[:, None] * per_cell + slots % per_cell) * h + rows[:, slots // per_cell]
    places = places * w + columns[:, slots // per_cell]  # [G, 9n], the number of each candidate in the whole batch
    place = places[claim, slot]

    # The cheapest claim of a place comes first in a stable sort by (place, cost), and only it is kept.
    order = cost[claim, slot].argsort(stable=True)
    order = order[place[order].argsort(stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = place[order][1:] != place[order][:-1]
    kept = order[first]
    claim, slot = claim[kept], slot[kept]
    if every_box:
        claim, slot = _serve_losers(claim, slot, places, cost)
    cell, box = slot // per_cell, slot % per_cell
    return Assignment(
        image=image[claim], box=box, row=rows[claim, cell], column=columns[claim, cell], truth=index[claim]
    )


def candidate_cells(boxes: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the 3 x 3 cells round each box's centre, int64 [G, 9], and which lie in the map, bool [G, 9].

    boxes: float [G, 4] in 0..1 of the input. Cells outside the map are given as the nearest inside.
    """
    h, w = shape
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    column = (centre[:, 0] * w).long().clamp(0, w - 1)
    row = (centre[:, 1] * h).long().clamp(0, h - 1)

    step = torch.arange(-1, 2, device=boxes.device)
    rows = (row[:, None, None] + step[None, :, None]).expand(-1, 3, 3).flatten(1)
    columns = (column[:, None, None] + step[None, None, :]).expand(-1, 3, 3).flatten(1)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    return rows.clamp(0, h - 1), columns.clamp(0, w - 1), inside


def _serve_losers(claim: Tensor, slot: Tensor, places: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Claims and slots, [P] each, with one more for every true box that has none and a candidate that is free.

    places: int64 [G, 9n], the predicted box behind each candidate. cost: float [G, 9n].
    """
    taken = set(places[claim, slot].tolist())
    more = []
    for loser in sorted(set(range(len(cost))) - set(claim.tolist())):
        for candidate in cost[loser].argsort(stable=True).tolist():
            place = int(places[loser, candidate])
            if place not in taken and bool(cost[loser, candidate].isfinite()):
                taken.add(place)
                more.append((loser, candidate))
                break
    if not more:
        return claim, slot
    extra = torch.tensor(more, device=claim.device)
    return torch.cat([claim, extra[:, 0]]), torch.cat([slot, extra[:, 1]])


def crowd_cells(target: DetectionTarget, shape: torch.Size, image_size: int) -> Tensor:
    """Cells whose centre lies in a crowd region, bool [B, h, w]."""
    h, w = shape
    device = target.boxes.device
    xs = (torch.arange(w, device=device) + 0.5) * image_size / w
    ys = (torch.arange(h, device=device) + 0.5) * image_size / h
    x1, y1, x2, y2 = (target.boxes[..., i, None, None] for i in range(4))  # [B, M, 1, 1]
    inside = (xs >= x1) & (xs <= x2) & (ys[:, None] >= y1) & (ys[:, None] <= y2)
    return (inside & target.crowd[..., None, None]).any(1)


def distil_boxes(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    num_classes: int,
    temperature: float,
    size_unit: SizeUnit = "input",
    sure: float = 0.0,
) -> Tensor:
    """Scores, boxes and classes of the teacher's detection map [B, C + 5n, h, w], weighted by its confidence.

    Returns float [B], the sum of three terms.
    score: cross-entropy to the teacher's confidence, weighted by the squared difference, so that the many cells on
    which both agree cost nothing. box: 1 - GIoU. class: T^2 KL. The last two count as much as the teacher is sure
    of the box; all are divided by the sum of its confidences (at least 1).

    Args:
        sure: boxes that the teacher is less sure of than this count in none of the terms.
    """
    student, teacher = (decode_boxes(each, num_classes, size_unit) for each in (student_map, teacher_map))
    quality = teacher.confidence.sigmoid()  # [B, n, h, w]
    difference = (student.confidence.sigmoid() - quality).square()
    score = difference * F.binary_cross_entropy_with_logits(student.confidence, quality, reduction="none")
    box = quality * (1 - generalised_iou(student.boxes, teacher.boxes))
    classes = quality * kl(student.classes, teacher.classes, temperature)[:, None]
    terms = score + box + classes
    if sure:
        counted = quality >= sure
        terms, quality = terms * counted, quality * counted
    total = terms.flatten(1).sum(1)
    return total / quality.flatten(1).sum(1).clamp(min=1)
