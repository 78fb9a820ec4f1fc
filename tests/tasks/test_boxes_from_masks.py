"""Boxes from masks on masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onehead_cli.data.layout import VOC_CLASSES
from onehead_cli.tasks.boxes_from_masks import boxes_from_mask, shared_classes

COCO_TEN = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "traffic light",
    "boat",
]


def _mask(*rectangles: tuple[int, int, int, int, int], size: int = 100) -> np.ndarray:
    """Background with rectangles (label, x1, y1, x2, y2)."""
    mask = np.zeros((size, size), np.uint8)
    for label, x1, y1, x2, y2 in rectangles:
        mask[y1:y2, x1:x2] = label
    return mask


def test_eight_of_the_ten_coco_classes_are_voc_classes():
    shared = shared_classes(VOC_CLASSES, COCO_TEN)
    named = {VOC_CLASSES[label]: COCO_TEN[index] for label, index in shared.items()}
    assert named == {
        "person": "person",
        "bicycle": "bicycle",
        "car": "car",
        "motorbike": "motorcycle",
        "aeroplane": "airplane",
        "bus": "bus",
        "train": "train",
        "boat": "boat",
    }


def test_a_lone_component_gives_its_box_with_half_the_void_border():
    found = boxes_from_mask(_mask((7, 20, 30, 60, 50)), {7: 2})
    assert found.boxes.tolist() == [[18, 28, 62, 52]]
    assert found.labels.tolist() == [2] and found.doubtful.tolist() == [False]


def test_a_box_stays_within_the_image():
    found = boxes_from_mask(_mask((7, 0, 0, 100, 40)), {7: 2})
    assert found.boxes.tolist() == [[0, 0, 100, 42]]


def test_void_background_and_classes_that_are_not_shared_give_nothing():
    found = boxes_from_mask(_mask((255, 0, 0, 50, 50), (9, 50, 50, 90, 90)), {7: 2})
    assert found.boxes.shape == (0, 4) and len(found.labels) == len(found.doubtful) == 0


def test_two_of_a_class_far_apart_are_two_objects():
    found = boxes_from_mask(_mask((7, 5, 5, 25, 25), (7, 60, 60, 90, 80)), {7: 2})
    assert found.doubtful.tolist() == [False, False]


def test_an_object_behind_a_pole_is_doubtful_in_both_halves():
    found = boxes_from_mask(_mask((6, 10, 20, 48, 60), (6, 51, 20, 90, 60)), {6: 5})
    assert found.doubtful.tolist() == [True, True]


def test_a_scrap_is_ignored_and_the_object_beside_it_stays():
    found = boxes_from_mask(_mask((6, 10, 20, 70, 80), (6, 72, 20, 80, 40)), {6: 5})
    assert found.doubtful.tolist() == [False, True]


def test_neighbours_of_different_classes_cast_no_doubt():
    found = boxes_from_mask(_mask((6, 10, 20, 48, 60), (7, 51, 20, 90, 60)), {6: 5, 7: 2})
    assert found.doubtful.tolist() == [False, False]


def test_a_speck_is_doubtful():
    found = boxes_from_mask(_mask((7, 20, 30, 24, 33)), {7: 2})  # 12 of 10,000 pixels
    assert found.doubtful.tolist() == [True]


def test_two_blocks_joined_by_a_bridge_are_doubtful():
    found = boxes_from_mask(_mask((15, 5, 20, 40, 80), (15, 60, 20, 95, 80), (15, 40, 40, 60, 46)), {15: 0})
    assert found.doubtful.tolist() == [True]


def test_a_diagonal_line_that_hardly_fills_its_box_is_doubtful():
    mask = np.zeros((100, 100), np.uint8)
    for i in range(90):
        mask[i : i + 3, i : i + 3] = 2
    assert boxes_from_mask(mask, {2: 1}).doubtful.tolist() == [True]


@pytest.mark.parametrize("seed", range(5))
def test_every_component_of_random_masks_is_inside_exactly_one_box(seed):
    """Against flood fill by hand: each pixel of the class lies in the box of its component."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((24, 24)) < 0.2).astype(np.uint8)
    found = boxes_from_mask(mask, {1: 0})
    todo, components = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while todo:
        stack, component = [todo.pop()], []
        while stack:
            y, x = stack.pop()
            component.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= around
            stack += around
        components.append(component)
    expected = sorted(
        [
            max(0, min(x for _, x in c) - 2),
            max(0, min(y for y, _ in c) - 2),
            min(24, max(x for _, x in c) + 3),
            min(24, max(y for y, _ in c) + 3),
        ]
        for c in components
    )
    assert sorted(found.boxes.tolist()) == expected
