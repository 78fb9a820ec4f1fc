"""What an exported file does with a map, against what this package does with it: in torch, and in onnxruntime."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.geometry import Fit
from onehead_cli.export.graph import reading_graph
from onehead_cli.tasks.classification.exported import ClassReading
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.detection.decode import Detections, decode_boxes, read_boxes
from onehead_cli.tasks.detection.exported import BoxesReading, matched
from onehead_cli.tasks.detection.reader import BoxReading, FoundBoxes
from onehead_cli.tasks.exported import PlaceInInput
from onehead_cli.tasks.segmentation import reading as reading_module
from onehead_cli.tasks.segmentation.exported import MaskReading
from onehead_cli.tasks.segmentation.reader import FoundMask
from onehead_cli.tasks.segmentation.reading import contenders, read_mask

SIDE = 128
CLASSES, PER_CELL = 3, 2
READINGS = [
    BoxReading(),
    BoxReading(best_class=True),
    BoxReading(vote_iou=0.5),
    BoxReading(best_class=True, vote_iou=0.6),
]


def maps_of(seed):
    """Maps of three tasks that find something: float [1, C, 8, 8]."""
    rng = torch.Generator().manual_seed(seed)
    det = torch.randn(1, CLASSES + 5 * PER_CELL, 8, 8, generator=rng)
    det[:, CLASSES:].view(1, PER_CELL, 5, 8, 8)[:, :, 2:4] -= 1  # boxes of about a third of the image
    return {
        "cls": torch.randn(1, 5, 8, 8, generator=rng),
        "seg": 3 * torch.randn(1, 4, 8, 8, generator=rng),
        "det": det,
    }


def readings_of(reading, config):
    return {
        "cls": ClassReading(5, 0.3, "soft"),
        "seg": MaskReading(4),
        "det": BoxesReading(CLASSES, "input", reading, config),
    }


def expected_boxes(det, fit, reading, config):
    [found] = read_boxes(
        decode_boxes(det, CLASSES),
        [fit],
        nms_iou=reading.predict_nms_iou,
        score_min=config.score_min,
        max_detections=config.max_detections,
        best_class=reading.best_class,
        vote_iou=reading.vote_iou,
    )
    return found


def session_of(graph):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph.SerializeToString(), options)


def assert_same_boxes(found, boxes, scores, labels):
    assert len(found.labels) == len(labels) > 0
    assert np.array_equal(found.labels, labels)
    np.testing.assert_allclose(scores, found.scores, atol=1e-6)
    np.testing.assert_allclose(boxes, found.boxes, atol=2e-3)


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([64, 96, 256]), st.sampled_from(["resize", "letterbox"])
)
def test_an_image_lies_where_fit_says(width, height, side, mode):
    fit, place = Fit.of(width, height, side, mode), PlaceInInput.of(torch.tensor([height, width]), side, mode)
    for name in ("width", "height", "scale_x", "scale_y", "offset_x", "offset_y"):
        assert math.isclose(float(getattr(place, name)), getattr(fit, name), rel_tol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from(["resize", "letterbox"]),
    st.sampled_from(READINGS),
)
def test_a_map_is_read_as_by_predict(seed, width, height, mode, reading):
    """Class, mask and boxes of one image, for images of any size."""
    config = EvaluationConfig(score_min=0.05, max_detections=30)
    maps, fit = maps_of(seed), Fit.of(width, height, SIDE, mode)
    size = torch.tensor([height, width])
    place = PlaceInInput.of(size, SIDE, mode)
    own = readings_of(reading, config)
    [probabilities] = own["cls"](maps["cls"], place, size)
    expected = pool_classes(maps["cls"], 0.3, pooling="soft").softmax(1)[0]
    assert torch.allclose(probabilities, expected, atol=1e-6)
    [mask] = own["seg"](maps["seg"], place, size)
    assert (mask.numpy() != read_mask(maps["seg"][0], fit)).mean() < 1e-3  # a last bit may decide between two classes
    boxes, scores, labels = own["det"](maps["det"], place, size, torch.tensor(reading.predict_nms_iou))
    found = expected_boxes(maps["det"], fit, reading, config)
    if len(found.labels):
        assert_same_boxes(found, boxes.numpy(), scores.numpy(), labels.numpy())
    else:
        assert not len(labels)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 3), st.integers(1, 3))
def test_no_class_but_the_contenders_is_ever_best(seed, classes, height, width):
    rng = np.random.default_rng(seed)
    # Few levels, so that classes are often equal, and often all above or below each other.
    logits = torch.from_numpy(rng.integers(-2, 3, (classes, height, width)).astype(np.float32))
    logits += torch.from_numpy(rng.integers(-3, 4, (classes, 1, 1)).astype(np.float32))
    kept = contenders(logits).tolist()
    for weights in rng.dirichlet(np.ones(height * width), 50).astype(np.float32):
        mixed = logits.flatten(1) @ torch.from_numpy(weights)
        assert float(mixed[kept].max()) == float(mixed.max())
    # Only those that another is above everywhere are left out, worked out one by one.
    beaten = [any((logits[d] > logits[c]).all() for d in range(classes)) for c in range(classes)]
    assert kept == [c for c in range(classes) if not beaten[c]]
    with pytest.MonkeyPatch.context() as patch:  # room for one rival: some are kept in vain, none is left out
        patch.setattr(reading_module, "_COMPARED", 1)
        assert set(kept) <= set(contenders(logits).tolist())


@pytest.mark.parametrize("mode", ["resize", "letterbox"])
@pytest.mark.parametrize("reading", [READINGS[0], READINGS[3]])
def test_onnxruntime_reads_the_same(mode, reading):
    """The graph, run on maps and images that it was not exported with; NMS can be set, and no box is no error."""
    config = EvaluationConfig(score_min=0.05, max_detections=30)
    graph = reading_graph(maps_of(0), readings_of(reading, config), side=SIDE, fit=mode)
    session = session_of(graph)
    assert [output.name for output in session.get_outputs()] == ["probabilities", "mask", "boxes", "scores", "labels"]
    for seed, (width, height) in enumerate([(200, 100), (33, 470), (128, 128), (1, 9)], start=1):
        maps, fit = maps_of(seed), Fit.of(width, height, SIDE, mode)
        feed = {f"{task}_map": each.numpy() for task, each in maps.items()}
        feed |= {"size": np.array([height, width]), "mask_size": np.array([height, width])}
        probabilities, mask, *found = session.run(None, feed)
        expected = pool_classes(maps["cls"], 0.3, pooling="soft").softmax(1)[0].numpy()
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
        assert (mask != read_mask(maps["seg"][0], fit)).mean() < 1e-3
        assert_same_boxes(expected_boxes(maps["det"], fit, reading, config), *found)
        feed["nms_iou"] = np.array(0.95, dtype=np.float32)
        more = expected_boxes(maps["det"], fit, BoxReading(**{**vars(reading), "predict_nms_iou": 0.95}), config)
        assert_same_boxes(more, *session.run(None, feed)[2:])
        feed["mask_size"] = np.array([7, 5])
        assert session.run(None, feed)[1].shape == (7, 5)
    feed["det_map"] = np.full_like(feed["det_map"], -20.0)
    boxes, scores, labels = session.run(None, feed)[2:]
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)


def test_a_box_whose_voters_have_no_score_stays_in_the_file_too():
    """Every other cell is so unsure that its scores underflow to 0; of one class, for equal scores have no order."""
    reading = BoxReading(predict_nms_iou=0.95, vote_iou=0.5)
    config = EvaluationConfig(score_min=0, max_detections=300)
    det, fit, size = maps_of(0)["det"][:, CLASSES - 1 :], Fit.of(200, 100, SIDE, "resize"), torch.tensor([100, 200])
    det[:, 1:].view(1, PER_CELL, 5, 8, 8)[:, :, 4, :, ::2] = -200.0
    [expected] = read_boxes(
        decode_boxes(det, 1), [fit], nms_iou=0.95, score_min=0.0, max_detections=300, vote_iou=reading.vote_iou
    )
    assert (expected.scores == 0).sum() > 40 and np.isfinite(expected.boxes).all()
    own = BoxesReading(1, "input", reading, config)
    found = own(det, PlaceInInput.of(size, SIDE, "resize"), size, torch.tensor(0.95))
    assert_same_boxes(expected, *(each.numpy() for each in found))
    graph = reading_graph({"det": torch.zeros_like(det)}, {"det": own}, side=SIDE, fit="resize")
    feed = {"det_map": det.numpy(), "size": size.numpy(), "mask_size": size.numpy()}
    assert_same_boxes(expected, *session_of(graph).run(None, feed))


def found_boxes(*rows):
    """(box, score, label) of each."""
    boxes = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4)
    labels = np.array([row[2] for row in rows], dtype=np.int64)
    return FoundBoxes(["a", "b"], Detections(boxes, np.array([row[1] for row in rows]), labels))


def test_differences_by_hand():
    reading = BoxesReading(2, "input", BoxReading(), EvaluationConfig())
    mine = found_boxes(([0, 0, 10, 10], 0.9, 0), ([0, 0, 10, 10.5], 0.8, 1), ([50, 50, 60, 60], 0.3, 0))
    its = found_boxes(([0, 0, 10, 10.25], 0.75, 1), ([0, 0.5, 10, 10], 0.9, 0), ([50, 50, 60, 70], 0.3, 0))
    # The third is 10 px apart, which is another box; the first two lie in another order.
    assert reading.differences(mine, its) == pytest.approx({"score": 0.05, "box_px": 0.5, "unmatched": 1 / 3})
    none = found_boxes()
    assert reading.differences(none, none) == {"score": 0.0, "box_px": 0.0, "unmatched": 0.0}
    assert reading.differences(mine, none)["unmatched"] == 1.0
    # Of 3 + 3 boxes two pairs overlap by .8 or more; the third does by half.
    assert reading.agreement([reading.compared(mine, its)]) == {"box_f1": 4 / 6}
    assert reading.agreement([reading.compared(none, none)]) == {"box_f1": 1.0}
    masks = [np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)]
    one, other = (FoundMask(["x", "y", "z"], mask) for mask in masks)
    assert MaskReading(3).differences(one, other) == {"mask": 0.25}
    masks = MaskReading(3)
    assert masks.agreement([masks.compared(one, other)]) == {"mask_iou": pytest.approx((1 / 2 + 2 / 3) / 2)}


def test_matched_takes_the_best_pair_first():
    merit = np.array([[0.9, 0.8], [0.85, 0.2]])
    assert matched(merit, 0.5) == [(0, 0)]  # what is left is too little
    assert matched(merit, 0.1) == [(0, 0), (1, 1)] and merit[0, 0] == 0.9
    assert matched(np.zeros((0, 3)), 0.0) == []
