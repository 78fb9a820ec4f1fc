"""Task losses against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from teaching import AS_0_1_0

from onehead_cli.tasks.classification.loss import classification_loss
from onehead_cli.tasks.detection.decode import BoxMap, decode_boxes
from onehead_cli.tasks.detection.loss import Teaching, assign, detection_loss
from onehead_cli.tasks.detection.overlaps import generalised_iou, iou
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.detection.yolov1 import yolov1_loss
from onehead_cli.tasks.segmentation.loss import segmentation_loss

S = 64


def one_cell_map(*, classes=(0.0, 0.0), centre=(0.0, 0.0), size=(0.5, 0.5), confidence=0.0):
    """A 1 x 1 map of two classes and one box; centre 0 lies in the middle of the cell."""
    values = [*classes, *centre, math.log(size[0]), math.log(size[1]), confidence]
    return torch.tensor(values).view(1, -1, 1, 1)


def target(*boxes, labels=None, crowd=None):
    """Boxes in 0..1 of the input."""
    count = max(len(boxes), 1)
    t = DetectionTarget(torch.zeros(1, count, 4), torch.full((1, count), -1), torch.zeros(1, count, dtype=torch.bool))
    for i, box in enumerate(boxes):
        t.boxes[0, i] = torch.tensor(box) * S
        t.labels[0, i] = labels[i] if labels else 0
        t.crowd[0, i] = crowd[i] if crowd else False
    return t


def test_overlaps_by_hand():
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert iou(a, b).item() == pytest.approx(1 / 7)
    assert generalised_iou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)
    apart = torch.tensor([3.0, 0, 4, 1])
    assert iou(a, apart).item() == 0
    assert generalised_iou(a, apart).item() == pytest.approx(-(8 - 5) / 8)


def test_classification_by_hand():
    # Cell 1 is sure (softmax .953), cell 2 is not (.5): only cell 1 counts at a threshold of .6, both at 0.
    maps = torch.tensor([[[3.0, 0.0]], [[0.0, 0.0]]])[None]  # [1, 2, 1, 2]
    label = torch.tensor([1])
    strict = classification_loss(maps, label, cell_threshold=0.6)
    assert strict.item() == pytest.approx(math.log(1 + math.exp(3)))
    every = classification_loss(maps, label, cell_threshold=0.0)
    assert every.item() == pytest.approx(math.log(1 + math.exp(1.5)))
    # No cell is sure enough: all are averaged.
    none = classification_loss(maps, label, cell_threshold=0.99)
    assert none.item() == pytest.approx(every.item())


def test_segmentation_counts_each_image_alike_and_leaves_void_out():
    maps = torch.zeros(3, 4, 2, 2)
    maps[1, 2] = 2.0
    masks = torch.zeros(3, 8, 8, dtype=torch.int64)
    masks[1] = 255
    masks[1, 0, 0] = 2
    masks[2] = 255
    losses = segmentation_loss(maps, masks)
    assert losses[0].item() == pytest.approx(math.log(4))
    assert losses[1].item() == pytest.approx(math.log(3 + math.exp(2)) - 2)
    assert losses[2].item() == 0


def test_fault_26_mask_all_void_gives_loss_zero_with_a_gradient_of_zero():
    """A mask that is all void adds a loss of exactly 0 and a gradient of 0, never NaN."""
    maps = torch.randn(1, 3, 2, 2, requires_grad=True)
    segmentation_loss(maps, torch.full((1, 8, 8), 255)).sum().backward()
    assert maps.grad is not None and not maps.grad.any()


def test_quality_loss_by_hand():
    # The box is the middle half; the true box reaches down to the edge: IoU 2/3, GIoU 2/3.
    loss = detection_loss(
        one_cell_map(), target((0.25, 0.25, 0.75, 1.0)), num_classes=2, image_size=S, teaching=AS_0_1_0
    )
    confidence = (0.5 - 2 / 3) ** 2 * math.log(2)
    assert loss.item() == pytest.approx(confidence + 2 * (1 / 3) + math.log(2), abs=1e-5)


def test_fault_33_no_positive_in_a_batch_gives_a_finite_loss():
    """A batch without a single box gives the finite loss of an image that is all background."""
    loss = detection_loss(one_cell_map(), target(), num_classes=2, image_size=S, teaching=AS_0_1_0)
    assert loss.item() == pytest.approx(0.25 * math.log(2))
    plain = yolov1_loss(one_cell_map(), target(), num_classes=2, image_size=S)
    assert plain.item() == pytest.approx(0.5 * 0.25)


def test_fault_17_crowd_region_is_neither_positive_nor_negative():
    """A box with `iscrowd` is an ignored region: it is not a positive, and detections in it are not penalised."""
    crowd = target((0.0, 0.0, 1.0, 1.0), crowd=[True])
    for loss in (detection_loss, yolov1_loss):
        assert loss(one_cell_map(), crowd, num_classes=2, image_size=S).item() == 0


def test_yolov1_loss_by_hand():
    loss = yolov1_loss(one_cell_map(), target((0.25, 0.25, 0.75, 1.0), labels=[1]), num_classes=2, image_size=S)
    coordinates = 5 * (0.125**2 + (math.sqrt(0.5) - math.sqrt(0.75)) ** 2)
    confidence = (0.5 - 2 / 3) ** 2
    classes = 0.5**2 + 0.5**2
    assert loss.item() == pytest.approx(coordinates + confidence + classes, abs=1e-6)


def test_yolov1_gives_a_cell_to_the_later_of_two_boxes():
    early, late = (0.25, 0.25, 0.75, 1.0), (0.25, 0.25, 0.75, 0.75)
    both = yolov1_loss(one_cell_map(), target(early, late, labels=[0, 1]), num_classes=2, image_size=S)
    one = yolov1_loss(one_cell_map(), target(late, labels=[1]), num_classes=2, image_size=S)
    assert both.item() == one.item() > 0


def test_yolov1_gives_the_box_to_the_better_predictor():
    # Two boxes in the cell: the second fits the true box exactly and is the one that answers for it.
    fits = torch.tensor([0.0, 0.0, 0, 0, math.log(0.1), math.log(0.1), 0, 0, 0, math.log(0.5), math.log(0.5), 0])
    loss = yolov1_loss(fits.view(1, -1, 1, 1), target((0.25, 0.25, 0.75, 0.75)), num_classes=2, image_size=S)
    assert loss.item() == pytest.approx(0.5 * 0.25 + 0.25 + 0.5, abs=1e-6)


def slow_assign(decoded: BoxMap, boxes, labels, *, confidence_cost=0.0, every_box=False):
    """The same rule, one true box and one candidate at a time."""
    n, h, w = decoded.confidence.shape[1:]
    log_class = decoded.classes.log_softmax(1)[0]
    claims: dict[tuple[int, int, int], tuple[float, int]] = {}
    by_cost = []
    for g, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        column = min(int((box[0] + box[2]) / 2 * w), w - 1)
        row = min(int((box[1] + box[3]) / 2 * h), h - 1)
        candidates = []
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                if not (0 <= r < h and 0 <= c < w):
                    continue
                for b in range(n):
                    overlap = float(iou(decoded.boxes[0, b, r, c], box))
                    cost = -float(log_class[label, r, c]) - 3 * math.log(max(overlap, 1e-8))
                    cost -= confidence_cost * math.log(float(decoded.confidence[0, b, r, c].double().sigmoid()))
                    candidates.append((cost, overlap, (b, r, c)))
        k = max(1, int(sum(sorted((o for _, o, _ in candidates), reverse=True)[:10])))
        by_cost.append(sorted(candidates))
        for cost, _, place in by_cost[g][:k]:
            if place not in claims or cost < claims[place][0]:
                claims[place] = (cost, g)
    losers = set(range(len(boxes))) - {g for _, g in claims.values()}
    for g in sorted(losers) if every_box else ():
        free = [(cost, place) for cost, _, place in by_cost[g] if place not in claims]
        if free:
            claims[free[0][1]] = (free[0][0], g)
    return {(place, g) for place, (_, g) in claims.items()}


@pytest.mark.parametrize(
    "how", [{}, {"confidence_cost": 0.5}, {"every_box": True}, {"confidence_cost": 2.0, "every_box": True}]
)
@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_assignment_equals_the_slow_one(seed, crowded, how):
    generator = torch.Generator().manual_seed(seed)
    detection_map = torch.randn(1, 3 + 2 * 5, 4, 5, generator=generator)
    detection_map[:, [5, 6, 10, 11]] -= 1
    decoded = decode_boxes(detection_map, 3)
    corner, size = torch.rand(6, 2, generator=generator) * 0.7, torch.rand(6, 2, generator=generator) * 0.3 + 0.02
    if crowded:
        corner = 0.4 + corner / 20  # all claim the same few boxes
    boxes, labels = torch.cat([corner, corner + size], 1), torch.randint(3, (6,), generator=generator)
    found = assign(decoded, boxes[None], labels[None], torch.ones(1, 6, dtype=torch.bool), **how)
    fast = {
        ((int(b), int(r), int(c)), int(g))
        for b, r, c, g in zip(found.box, found.row, found.column, found.truth, strict=True)
    }
    assert fast == slow_assign(decoded, boxes, labels.tolist(), **how)
    assert len(set(found.truth.tolist())) == 6 or not how.get("every_box")


def test_losses_of_images_do_not_depend_on_their_neighbours():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2 + 5, 4, 4, generator=generator)
    both = DetectionTarget(
        torch.tensor([[[4.0, 4, 30, 40], [20, 20, 60, 60]], [[10.0, 5, 50, 20], [0, 0, 0, 0]]]),
        torch.tensor([[0, 1], [1, -1]]),
        torch.zeros(2, 2, dtype=torch.bool),
    )
    for loss in (detection_loss, yolov1_loss):
        together = loss(maps, both, num_classes=2, image_size=S)
        for i in range(2):
            alone = DetectionTarget(both.boxes[i : i + 1], both.labels[i : i + 1], both.crowd[i : i + 1])
            single = loss(maps[i : i + 1], alone, num_classes=2, image_size=S)
            torch.testing.assert_close(together[i : i + 1], single)


@pytest.mark.parametrize("teaching", [AS_0_1_0, Teaching()], ids=["as 0.1.0", "default"])
def test_training_on_the_quality_loss_finds_the_box(teaching):
    torch.manual_seed(0)
    detection_map = torch.randn(1, 2 + 10, 4, 4).requires_grad_()
    truth = target((0.3, 0.2, 0.8, 0.9), labels=[1])
    optimizer = torch.optim.Adam([detection_map], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        detection_loss(detection_map, truth, num_classes=2, image_size=S, teaching=teaching).sum().backward()
        optimizer.step()
    decoded = decode_boxes(detection_map.detach(), 2)
    best = decoded.confidence.flatten().argmax()
    box = decoded.boxes.flatten(0, 3)[best]
    assert iou(box, truth.boxes[0, 0] / S).item() > 0.9
    assert decoded.confidence.sigmoid().max().item() > 0.8


def test_a_cell_that_sees_an_unlabelled_class_is_no_negative():
    # No box. Class logits (0, ln 3): a quarter of the belief is in class 0. Confidence p = 1/2 against quality 0.
    seen = one_cell_map(classes=(0.0, math.log(3)))
    whole = detection_loss(seen, target(), num_classes=2, image_size=S, teaching=AS_0_1_0)
    assert whole.item() == pytest.approx(0.5**2 * math.log(2))
    only_first = detection_loss(seen, replace(target(), labelled=(0,)), num_classes=2, image_size=S, teaching=AS_0_1_0)
    assert only_first.item() == pytest.approx(0.25 * whole.item())
    both = detection_loss(seen, replace(target(), labelled=(0, 1)), num_classes=2, image_size=S, teaching=AS_0_1_0)
    assert both.item() == pytest.approx(whole.item())


def test_a_positive_counts_in_full_whatever_is_labelled():
    seen, truth = one_cell_map(classes=(0.0, math.log(3))), target((0.25, 0.25, 0.75, 1.0))
    whole = detection_loss(seen, truth, num_classes=2, image_size=S, teaching=AS_0_1_0)
    partly = detection_loss(seen, replace(truth, labelled=(0,)), num_classes=2, image_size=S, teaching=AS_0_1_0)
    assert partly.item() == pytest.approx(whole.item())
