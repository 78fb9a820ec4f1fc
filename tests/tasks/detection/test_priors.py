"""The sizes that boxes start with: by hand, as a fixed point, and in the bias of a network."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onehead_cli.config.sections import Config, EvaluationConfig
from onehead_cli.data.coco import CocoListing
from onehead_cli.data.listings import Listings
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.detection.decode import decode_boxes
from onehead_cli.tasks.detection.priors import kmeans_priors, spread_priors
from onehead_cli.tasks.detection.split import box_sizes
from onehead_cli.tasks.detection.task import DETECTION
from onehead_cli.tasks.task import Reading
from onehead_cli.training.setup import architecture_for

sides = st.floats(0.01, 1.0)
boxes = st.lists(st.tuples(sides, sides), min_size=1, max_size=30)


def test_two_groups_by_hand():
    # Three small upright boxes and two large ones lying; each mean is that of its group.
    sizes = np.array([[0.6, 0.3], [0.1, 0.2], [0.1, 0.1], [0.8, 0.5], [0.1, 0.3]])
    small, large = kmeans_priors(sizes, 2)
    assert small == pytest.approx((0.1, 0.2)) and large == pytest.approx((0.7, 0.4))
    assert kmeans_priors(sizes, 1) == [pytest.approx((1.7 / 5, 1.4 / 5))]


def test_fewer_boxes_than_groups_give_the_spread_ones():
    assert kmeans_priors(np.zeros((0, 2)), 2) == spread_priors(2)
    assert kmeans_priors(np.array([[0.5, 0.5]]), 2) == spread_priors(2)


def test_equal_boxes_give_equal_priors():
    assert kmeans_priors(np.full((4, 2), 0.25), 2) == [(0.25, 0.25), (0.25, 0.25)]


def overlap(a, b):
    shared = min(a[0], b[0]) * min(a[1], b[1])
    return shared / (a[0] * a[1] + b[0] * b[1] - shared)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(1, 4))
def test_each_prior_is_the_mean_of_the_boxes_that_are_nearest_to_it(sizes, count):
    priors = kmeans_priors(np.array(sizes), count)
    areas = [width * height for width, height in priors]
    assert len(priors) == count and areas == sorted(areas)
    assert priors == kmeans_priors(np.array(sizes), count)
    if len(sizes) < count:
        return
    for prior in priors:
        nearest = [size for size in sizes if overlap(size, prior) >= max(overlap(size, other) for other in priors)]
        clear = [s for s in sizes if overlap(s, prior) > max([overlap(s, o) for o in priors if o != prior] or [0.0])]
        if nearest == clear and nearest:  # no box lies between two
            assert prior == pytest.approx(np.mean(nearest, axis=0))


def test_spread_priors_are_the_sizes_of_the_first_version():
    for count in (1, 2, 3, 5):
        expected = torch.linspace(math.log(0.12), math.log(0.6), count).exp().tolist()
        assert spread_priors(count) == [pytest.approx((side, side)) for side in expected]


def coco(*images):
    """An image per (width, height, boxes); a box is x, y, width, height, crowd."""
    entries = [{"id": i, "width": w, "height": h} for i, (w, h, _) in enumerate(images)]
    annotations = [
        {"image_id": i, "bbox": list(box), "iscrowd": crowd}
        for i, image in enumerate(images)
        for *box, crowd in image[2]
    ]
    return CocoListing(["a"], [], Path("a.json"), Path(), entries, annotations, categories=[])


@pytest.mark.parametrize(("fit", "height"), [("resize", 0.5), ("letterbox", 0.25)])
def test_sizes_are_shares_of_the_fitted_input_without_crowds(fit, height):
    data = Config.model_validate({"data": {"image_size": 64, "fit": fit}}).data
    found = coco((200, 100, [(0, 0, 50, 50, 0), (0, 0, 200, 100, 1)]), (100, 100, []))
    np.testing.assert_allclose(box_sizes(found, data), [[0.25, height]])
    assert box_sizes(coco((10, 10, [])), data).shape == (0, 2)
    # A missing image of unknown size has no boxes left.
    np.testing.assert_allclose(box_sizes(coco((None, None, [])), data).shape, (0, 2))


@pytest.mark.parametrize("unit", ["input", "cells"])
def test_a_fresh_network_gives_boxes_of_its_priors(unit):
    classes, priors = {"det": ["a", "b"]}, ((0.5, 1.5), (2.0, 3.0))
    of_tasks = {"boxes_per_cell": 2, "priors": priors, "size_unit": unit}
    architecture = Architecture("mobilenetv3_small_050", classes, ("det",), of_tasks=of_tasks)
    reading, thresholds = DETECTION.first_reading(Config()), DETECTION.first_thresholds(Config())
    assert DETECTION.reader(Reading(architecture, reading, thresholds, EvaluationConfig())).layout.size_unit == unit
    bias = build_model(architecture).identity["det"].bias.detach()
    boxes = decode_boxes(bias[None, :, None, None].expand(1, -1, 4, 4), 2, unit).boxes[0, :, 2, 2]
    expected = torch.tensor(priors) / (4 if unit == "cells" else 1)
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], expected)


def test_teachers_and_student_start_with_the_same_sizes(tiny_data):
    def priors(task, **detection):
        config = Config.model_validate({"data": {"root": tiny_data, "image_size": 96}, "detection": detection})
        architecture = architecture_for(config, (task,) if task else TASKS, Listings(config))
        assert architecture.of_tasks["size_unit"] == config.detection.size_unit
        return tuple(map(tuple, architecture.of_tasks["priors"]))

    assert priors(None) == ()  # as a checkpoint of format 2 has it
    shares, cells = priors(None, priors="kmeans"), priors(None, priors="kmeans", size_unit="cells")
    assert shares == priors("det", priors="kmeans") and shares != tuple(spread_priors(2))
    np.testing.assert_allclose(cells, np.array(shares) * 6)  # 96 px are six cells
    np.testing.assert_allclose(priors(None, size_unit="cells"), np.array(spread_priors(2)) * 6)
