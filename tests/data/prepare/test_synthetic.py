from __future__ import annotations

import math

import numpy as np
import pytest

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.layout import voc_palette
from onehead_cli.data.prepare import outlines, scenes
from onehead_cli.data.prepare.items import drop_hidden, frontmost, labelled_item
from onehead_cli.data.prepare.painting import paint


def detection_scenes(count: int = 12):
    for index in range(count):
        yield scenes.draw_detection(np.random.default_rng(index), image_size=128, crowd=index % 3 == 0)


def test_box_and_area_follow_from_the_mask_pixel_by_pixel():
    for scene in detection_scenes():
        for thing in scene.objects:
            points = [(x, y) for y, row in enumerate(thing.mask.tolist()) for x, seen in enumerate(row) if seen]
            left, top = min(x for x, _ in points), min(y for _, y in points)
            right, bottom = max(x for x, _ in points) + 1, max(y for _, y in points) + 1
            assert thing.box == (left, top, right - left, bottom - top)
            assert thing.area == len(points)


def test_a_pixel_belongs_to_one_object_only():
    for scene in detection_scenes():
        assert np.sum([thing.mask for thing in scene.objects], axis=0).max() == 1


def test_detection_has_one_to_six_objects_and_the_crowd_asked_for():
    for index, scene in enumerate(detection_scenes(30)):
        assert 1 <= sum(not thing.crowd for thing in scene.objects) <= 6
        assert sum(thing.crowd for thing in scene.objects) == (index % 3 == 0)


@pytest.mark.parametrize("name", outlines.CLASSES)
def test_the_mask_is_the_outline_filled(name):
    """Filled again by another rule: a pixel is inside where a ray crosses the outline an odd number of times."""
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    item = labelled_item(rng, name, (40.3, 33.8), 30.0)
    outline = outlines.turned(again, outlines.OUTLINES[name](again), (40.3, 33.8), 30.0, 1.25)
    height, width = item.coverage.shape
    expected = np.zeros((height, width), dtype=bool)
    for polygon, filled in outline:
        expected[inside(polygon - (item.left, item.top), width, height)] = filled
    differing = np.sum(expected != item.solid)
    # Pillow fills the fine pixels that an edge touches too: up to a quarter of a pixel more all round.
    perimeter = sum(
        math.dist(a, b) for polygon, _ in outline for a, b in zip(polygon, np.roll(polygon, 1, 0), strict=True)
    )
    assert differing <= 0.25 * perimeter


def inside(polygon, width: int, height: int):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    odd = np.zeros((height, width), dtype=bool)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, 1, axis=0), strict=True):
        if y1 != y2:
            odd ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return odd


def test_a_ball_has_the_area_and_place_of_an_ellipse():
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    item = labelled_item(rng, "ball", (50.0, 60.0), 25.0)
    radius = 25.0 * again.uniform(0.85, 1.0)
    rows, columns = np.nonzero(item.solid)
    assert len(rows) == pytest.approx(math.pi * radius**2, rel=0.02)
    assert item.left + columns.mean() + 0.5 == pytest.approx(50.0, abs=0.2)
    assert item.top + rows.mean() + 0.5 == pytest.approx(60.0, abs=0.2)


def test_objects_differ_from_what_lies_beside_them():
    """The labelled pixels of a class drawn alone are the ones that change when only it is left out."""
    item = labelled_item(np.random.default_rng(5), "cross", (48.0, 48.0), 30.0)
    with_it = paint(np.random.default_rng(6), [item], 96, 96)
    without = paint(np.random.default_rng(6), [], 96, 96)
    change = np.abs(with_it.astype(int) - without.astype(int)).max(axis=2)
    mask = frontmost([item], 96, 96) == 0
    assert change[mask].mean() > 3 * change[~mask].mean()


def test_hidden_objects_are_left_out_and_uncover_what_they_hid():
    box = labelled_item(np.random.default_rng(0), "box", (40.0, 40.0), 10.0)
    ball = labelled_item(np.random.default_rng(0), "ball", (40.0, 40.0), 30.0)
    assert drop_hidden([box, ball], 80, 80) == [ball]
    assert drop_hidden([ball, box], 80, 80) == [ball, box]
    outside = labelled_item(np.random.default_rng(0), "ball", (-20.0, 40.0), 24.0)
    assert drop_hidden([outside], 80, 80) == []


def test_class_mask_has_a_void_rim_between_objects_and_everything_else():
    hits = 0
    for index in range(8):
        scene = scenes.draw_segmentation(np.random.default_rng(index), image_size=128)
        mask = scenes.class_mask(scene)
        assert mask.shape == scene.image.shape[:2]
        for thing in scene.objects:
            seen = mask[thing.mask]
            if thing.label in scenes.SEGMENTED_CLASSES:
                value = scenes.SEGMENTED_CLASSES.index(thing.label)
                assert set(np.unique(seen)) <= {value, IGNORE_INDEX}
                hits += 1
            else:
                assert set(np.unique(seen)) <= {0, IGNORE_INDEX}
        # No two neighbours of different classes without void between them.
        for a, b in ((mask[:, 1:], mask[:, :-1]), (mask[1:], mask[:-1])):
            assert not np.any((a != b) & (a != IGNORE_INDEX) & (b != IGNORE_INDEX))
        assert 0 < np.mean(mask == IGNORE_INDEX) < 0.3
    assert hits >= 8


def test_void_rim_is_two_pixels_wide():
    square = np.zeros((20, 20), dtype=bool)
    square[6:14, 6:14] = True
    scene = scenes.Scene(np.zeros((20, 20, 3), dtype=np.uint8), [scenes.SceneObject("ball", square, crowd=False)])
    assert scenes.class_mask(scene)[10].tolist() == [0] * 5 + [255] * 2 + [2] * 6 + [255] * 2 + [0] * 5


def test_the_classified_object_is_the_largest_of_the_scene():
    for index, name in enumerate(outlines.CLASSES):
        scene = scenes.draw_classification(np.random.default_rng(index), name, image_size=160)
        assert scene.objects[-1].label == name
        box_areas = [thing.box[2] * thing.box[3] for thing in scene.objects]
        assert box_areas[-1] == max(box_areas)
        assert [thing.label for thing in scene.objects].count(name) == 1


def test_colour_does_not_give_the_class_away():
    """The classes' mean colours lie no farther apart than those of random groups of the same images."""
    means, labels = [], []
    for index in range(120):
        name = outlines.CLASSES[index % 10]
        scene = scenes.draw_classification(np.random.default_rng([9, index]), name, image_size=64)
        means.append(scene.image[scene.objects[-1].mask].mean(axis=0))
        labels.append(index % 10)

    def spread(groups):
        return np.var([np.mean(np.array(means)[groups == g], axis=0) for g in range(10)], axis=0).sum()

    rng = np.random.default_rng(0)
    shuffled = [spread(rng.permutation(labels)) for _ in range(200)]
    assert spread(np.array(labels)) < np.quantile(shuffled, 0.99)


def test_same_generator_same_image_and_sizes_vary():
    first = scenes.draw_segmentation(np.random.default_rng(4), image_size=128)
    second = scenes.draw_segmentation(np.random.default_rng(4), image_size=128)
    assert np.array_equal(first.image, second.image)
    sizes = {scene.image.shape[:2] for scene in detection_scenes()}
    assert len(sizes) > 6
    assert all(0.79 * 128 <= side <= 1.21 * 128 for size in sizes for side in size)


def test_voc_palette_has_the_published_colours():
    palette = voc_palette()
    colours = [tuple(palette[3 * i : 3 * i + 3]) for i in range(256)]
    assert len(palette) == 768
    assert colours[:5] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert colours[15] == (192, 128, 128)  # person
    assert colours[20] == (0, 64, 128)  # tv/monitor
    assert colours[255] == (224, 224, 192)  # void
