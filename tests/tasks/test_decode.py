"""Reading the maps: against torch's own interpolation, brute-force NMS and round trips."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from onehead_cli.data.geometry import Fit
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.detection.decode import decode_boxes, read_boxes
from onehead_cli.tasks.detection.overlaps import iou
from onehead_cli.tasks.segmentation.reading import read_mask

sides = st.integers(1, 400)


@settings(max_examples=100, deadline=None)
@given(width=sides, height=sides, size=st.sampled_from([32, 64, 224]), mode=st.sampled_from(["resize", "letterbox"]))
def test_boxes_come_back_from_the_input(width, height, size, mode):
    fit = Fit.of(width, height, size, mode)
    rng = np.random.default_rng(width * 1000 + height)
    corners = np.sort(rng.random((5, 2, 2)), axis=1).reshape(5, 4) * [width, height, width, height]
    there = fit.to_input(corners)
    assert (there >= -1e-9).all() and (there <= size + 1e-9).all()
    np.testing.assert_allclose(fit.to_image(there), corners, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(100, 60), (33, 200), (320, 320)])
def test_mask_of_a_stretched_image_is_bilinear_interpolation(width, height):
    maps = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0].argmax(0)
    found = torch.from_numpy(read_mask(maps, Fit.of(width, height, 128, "resize")))
    assert (found == expected).float().mean() > 0.999  # float ties at the border between classes


def test_mask_of_a_letterboxed_image_lies_where_the_image_was():
    # 64 x 32 in 64 x 64: the image fills rows 16..48 of the input, cells 1 and 2 of four.
    maps = torch.zeros(3, 4, 4)
    maps[1, 1], maps[2, 2] = 5.0, 5.0
    maps[0, 0], maps[0, 3] = 9.0, 9.0
    mask = read_mask(maps, Fit.of(64, 32, 64, "letterbox"))
    assert mask.shape == (32, 64)
    assert (mask[8:15] == 1).all() and (mask[17:24] == 2).all()


def test_decoded_boxes_by_hand():
    maps = torch.zeros(1, 2 + 5, 2, 2)
    maps[0, 4] = np.log(0.5)
    maps[0, 5] = np.log(0.25)
    boxes = decode_boxes(maps, 2).boxes
    # sigmoid(0) = 1/2 puts the centre into the middle of the cell.
    torch.testing.assert_close(boxes[0, 0, 0, 1], torch.tensor([0.5, 0.125, 1.0, 0.375]))


def test_decoded_boxes_in_cells_by_hand():
    # A map of 4 x 2 cells; the box is 2 cells wide and half a cell high, in the cell of row 1, column 2.
    maps = torch.zeros(1, 2 + 5, 2, 4)
    maps[0, 4] = np.log(2)
    maps[0, 5] = np.log(0.5)
    boxes = decode_boxes(maps, 2, "cells").boxes
    torch.testing.assert_close(boxes[0, 0, 1, 2], torch.tensor([1.5 / 4, 1.25 / 2, 3.5 / 4, 1.75 / 2]))
    # On a larger map the same numbers are as many cells, and a smaller share of the input.
    larger = decode_boxes(torch.nn.functional.pad(maps, (0, 4, 0, 2), mode="replicate"), 2, "cells").boxes
    torch.testing.assert_close(larger[0, 0, 1, 2], boxes[0, 0, 1, 2] / 2)


@pytest.mark.parametrize("unit", ["input", "cells"])
def test_a_wild_size_stays_below_about_three_times_the_input(unit):
    maps = torch.zeros(1, 2 + 5, 4, 8)
    maps[0, 4:6] = 100.0
    boxes = decode_boxes(maps, 2, unit).boxes
    torch.testing.assert_close(boxes[..., 2:] - boxes[..., :2], torch.full((1, 1, 4, 8, 2), float(np.exp(1.1))))


def slow_nms(boxes, scores, labels, limit):
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[k] or iou(boxes[i], boxes[k]) <= limit for k in kept):
            kept.append(i)
    return kept


def test_boxes_equal_the_slow_reading():
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(1, 3 + 10, 4, 4, generator=generator, dtype=torch.float64).float()
    fit = Fit.of(90, 120, 64, "resize")
    found = read_boxes(decode_boxes(maps, 3), [fit], score_min=0.1, nms_iou=0.4, max_detections=1000)[0]
    decoded = decode_boxes(maps, 3)
    boxes, scores, labels = [], [], []
    for b in range(2):
        for r in range(4):
            for c in range(4):
                for k in range(3):
                    score = decoded.confidence[0, b, r, c].sigmoid() * decoded.classes[0, :, r, c].softmax(0)[k]
                    box = fit.to_image((decoded.boxes[0, b, r, c] * 64).double().numpy()[None])[0]
                    if score >= 0.1 and box[2] > box[0] and box[3] > box[1]:
                        boxes.append(torch.from_numpy(box).float())
                        scores.append(float(score))
                        labels.append(k)
    kept = slow_nms(boxes, scores, labels, 0.4)
    np.testing.assert_allclose(found.scores, [scores[i] for i in kept], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, torch.stack([boxes[i] for i in kept]).numpy(), atol=1e-3)
    assert found.labels.tolist() == [labels[i] for i in kept]


def test_fault_22_no_detection_at_all_is_an_empty_list():
    """An image in which nothing is found gives an empty list of boxes and an AP of 0, not a crash."""
    maps = torch.full((1, 2 + 5, 2, 2), -20.0)
    fit = Fit.of(10, 10, 32, "resize")
    found = read_boxes(decode_boxes(maps, 2), [fit], score_min=0.1, nms_iou=0.5, max_detections=10)[0]
    assert found.boxes.shape == (0, 4) and len(found.scores) == 0


def slow_read(decoded, fit, *, best_class, nms_iou, vote_iou, score_min):
    """Boxes, scores and labels of one image, one box at a time."""
    found = []
    n, h, w = decoded.confidence.shape[1:]
    for b in range(n):
        for r in range(h):
            for c in range(w):
                probabilities = decoded.classes[0, :, r, c].softmax(0)
                classes = [int(probabilities.argmax())] if best_class else range(len(probabilities))
                box = fit.to_image((decoded.boxes[0, b, r, c] * fit.size).double().numpy()[None])[0]
                for k in classes:
                    score = float(decoded.confidence[0, b, r, c].sigmoid() * probabilities[k])
                    if score >= score_min and box[2] > box[0] and box[3] > box[1]:
                        found.append((torch.from_numpy(box), score, k))
    boxes, scores, labels = zip(*found, strict=True)
    read = []
    for i in slow_nms(boxes, scores, labels, nms_iou):
        voters = [j for j in range(len(boxes)) if labels[j] == labels[i] and iou(boxes[i], boxes[j]) >= vote_iou]
        voters = sorted({i, *voters}) if vote_iou < 1 else [i]
        total = sum(scores[j] for j in voters)
        read.append((sum(boxes[j] * scores[j] for j in voters) / total, scores[i], labels[i]))
    return read


@pytest.mark.parametrize("best_class", [False, True])
@pytest.mark.parametrize("vote_iou", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_best_class_and_voting_equal_the_slow_reading(best_class, vote_iou, seed):
    maps = torch.randn(1, 3 + 10, 4, 4, generator=torch.Generator().manual_seed(seed))
    maps[:, [5, 6, 10, 11]] -= 0.5
    fit, decoded = Fit.of(90, 120, 64, "resize"), decode_boxes(maps, 3)
    how = {"best_class": best_class, "nms_iou": 0.45, "vote_iou": vote_iou, "score_min": 0.05}
    [found] = read_boxes(decoded, [fit], max_detections=1000, **how)
    expected = slow_read(decoded, fit, **how)
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, torch.stack([box for box, _, _ in expected]).numpy(), atol=1e-3)
    assert found.labels.tolist() == [label for _, _, label in expected]


def test_boxes_without_a_score_move_no_box_by_hand():
    # Two cells beside each other in 64 px, two boxes in each: 16 px wide, 32 and 48 px high, which overlap by 2/3. All
    # scores underflow to 0 but that of the first cell's lower box, to which the higher one moves.
    maps = torch.zeros(1, 1 + 10, 1, 2)
    maps[0, [3, 8]], maps[0, 4], maps[0, 9] = np.log(0.25), np.log(0.5), np.log(0.75)
    maps[0, [5, 10]] = -200.0
    maps[0, 5, 0, 0] = 0.0
    how = {"nms_iou": 0.9, "score_min": 0.0, "max_detections": 10, "vote_iou": 0.5}
    [found] = read_boxes(decode_boxes(maps, 1), [Fit.of(64, 64, 64, "resize")], **how)
    assert found.scores.tolist() == [0.5, 0, 0, 0]
    lower, higher = [8, 16, 24, 48], [40, 8, 56, 56]
    np.testing.assert_allclose(found.boxes, [lower, [40, 16, 56, 48], lower, higher], atol=1e-4)


def test_only_the_best_class_gives_a_box_even_without_a_least_score():
    maps = torch.zeros(1, 3 + 5, 2, 2)
    maps[:, :3] = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    [found] = read_boxes(
        decode_boxes(maps, 3),
        [Fit.of(64, 64, 64, "resize")],
        nms_iou=1.0,
        score_min=0.0,
        max_detections=100,
        best_class=True,
    )
    assert len(found.scores) == 4


def test_soft_pooling_by_hand():
    # Softmax .953 and .5 in two cells; against a threshold of .8 the second counts by .5 / .8.
    maps = torch.tensor([[[3.0, 0.0]], [[0.0, 0.0]]])[None]
    pooled = pool_classes(maps, 0.8, pooling="soft")
    torch.testing.assert_close(pooled, torch.tensor([[3 / (1 + 0.625), 0.0]]))
    torch.testing.assert_close(pool_classes(maps, 0.0, pooling="soft"), torch.tensor([[1.5, 0.0]]))


STEP = 1e-3


def across_the_threshold(seed, spread, cell, pooling):
    """How far the pooled logits of random maps move where a step of the logits by `STEP` or less takes one cell across
    the threshold, and the range of the logits."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(1, 5, 3, 3, generator=generator, dtype=torch.float64) * spread
    after = before + STEP * (torch.rand(before.shape, generator=generator, dtype=torch.float64) * 2 - 1)
    threshold = sum(float(maps.softmax(1).amax(1).flatten()[cell]) for maps in (before, after)) / 2
    moved = pool_classes(after, threshold, pooling=pooling) - pool_classes(before, threshold, pooling=pooling)
    return float(moved.abs().max()), float(before.max() - before.min())


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 5), cell=st.integers(0, 8))
def test_soft_pooling_has_no_cliff(seed, spread, cell):
    """A step of d moves the pooled logits by at most d times 1 + their range, across the threshold too.

    With weights left as they are, a mean of the logits moves by at most d. The logarithm of a softmax value moves by at
    most 2 d, that of a weight by no more, and a mean m by the sum of p (l - m) times that, of which p |l - m| adds up
    to half the range at most (p: shares of the weights; l: logits).
    """
    moved, reach = across_the_threshold(seed, spread, cell, "soft")
    assert moved <= STEP * (1 + reach) + 1e-5


def test_the_gate_has_one():
    below, above = (torch.tensor([[[[2.0 + d, 0.0]], [[0.0, 0.0]]]]) for d in (-1e-3, 1e-3))
    at = float(torch.tensor([2.0, 0.0]).softmax(0)[0])
    jump = (pool_classes(above, at) - pool_classes(below, at)).abs().max()
    assert jump > 0.9
    assert (pool_classes(above, at, pooling="soft") - pool_classes(below, at, pooling="soft")).abs().max() < 0.01
    # What the soft pooling never does, the gate does nearly always.
    steps = [across_the_threshold(seed, 1.0, seed % 9, "gate") for seed in range(50)]
    assert sum(moved > STEP * (1 + reach) + 1e-5 for moved, reach in steps) > 45
