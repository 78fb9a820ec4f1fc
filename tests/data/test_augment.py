"""Augmentation: targets go where the pixels go."""

import numpy as np
import pytest
import torch

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.augment import SeenFitted, View, _grid, augment, recolour
from onehead_cli.data.batch import TaskBatch
from onehead_cli.tasks.detection.target import DetectionTarget, view_boxes
from onehead_cli.tasks.segmentation.split import Masks

S = 128
FILL = torch.zeros(1, 3, 1, 1)


def rectangle_batch(count):
    """White rectangles on black, with their boxes."""
    generator = torch.Generator().manual_seed(5)
    images, boxes = torch.zeros(count, 3, S, S), torch.zeros(count, 1, 4)
    for i in range(count):
        x1, y1 = torch.randint(5, 60, (2,), generator=generator).tolist()
        x2, y2 = x1 + 40, y1 + 25
        images[i, :, y1:y2, x1:x2] = 1
        boxes[i, 0] = torch.tensor([x1, y1, x2, y2])
    return images, DetectionTarget(boxes, torch.zeros(count, 1, dtype=torch.int64), torch.zeros(count, 1).bool())


def test_boxes_follow_the_pixels():
    images, target = rectangle_batch(24)
    batch = TaskBatch(images, target, [""] * 24)
    config = DataConfig(colour=0)
    seen = augment(batch, config, torch.Generator().manual_seed(0), FILL)
    compared = 0
    for image, box, label in zip(seen.images, seen.target.boxes[:, 0], seen.target.labels[:, 0], strict=True):
        lit = (image[0] > 0.5).nonzero()
        if label < 0 or not len(lit):
            continue
        (y1, x1), (y2, x2) = lit.amin(0), lit.amax(0) + 1
        assert torch.tensor([x1, y1, x2, y2]).sub(box).abs().max() <= 2
        compared += 1
    assert compared > 12


def test_masks_follow_the_pixels_and_outside_is_void():
    masks = torch.zeros(8, S, S, dtype=torch.int64)
    masks[:, 30:90, 20:100] = 3
    masks[:, 60:70, 40:50] = 255
    view = View.draw(8, DataConfig(), torch.Generator().manual_seed(1))
    grid = _grid(view, S, torch.device("cpu"))
    seen = Masks(masks).seen_through(SeenFitted(view, S, S, grid)).masks
    assert set(seen.unique().tolist()) <= {0, 3, 255}
    x, y = grid.unbind(-1)
    outside = (x.abs() > 1.02) | (y.abs() > 1.02)
    assert (seen[outside] == 255).all() and outside.any()
    column = ((x + 1) * S / 2 - 0.5).round().long()
    row = ((y + 1) * S / 2 - 0.5).round().long()
    inside = (column >= 1) & (column < S - 1) & (row >= 1) & (row < S - 1)
    image = torch.arange(8)[:, None, None].expand_as(row)
    expected = masks[image[inside], row[inside], column[inside]]
    assert (seen[inside] == expected).float().mean() > 0.995  # pixels right on a border may round either way


def test_mirroring_alone_is_exact():
    images, target = rectangle_batch(3)
    config = DataConfig(scale_min=1, scale_max=1, flip=1, colour=0)
    seen = augment(TaskBatch(images, target, [""] * 3), config, torch.Generator().manual_seed(0), FILL)
    torch.testing.assert_close(seen.images, images.flip(3), atol=1e-4, rtol=0)
    x1, _, x2, _ = target.boxes[:, 0].unbind(1)
    torch.testing.assert_close(seen.target.boxes[:, 0, 0], S - x2)
    torch.testing.assert_close(seen.target.boxes[:, 0, 2], S - x1)


def test_a_box_cut_to_a_sliver_is_ignored_and_one_outside_is_gone():
    view = View(
        torch.tensor([2.0]), torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([-0.5]), torch.tensor([-0.5])
    )
    # The view shows the top left quarter, 0..64, enlarged twice.
    boxes = torch.tensor([[[10.0, 10, 30, 30], [60, 10, 110, 30], [70, 70, 90, 90]]])
    target = DetectionTarget(boxes, torch.tensor([[4, 5, 6]]), torch.zeros(1, 3).bool())
    seen = view_boxes(target, view, S)
    assert seen.boxes[0, 0].tolist() == [20, 20, 60, 60] and seen.boxes[0, 1].tolist() == [120, 20, 128, 60]
    assert seen.labels[0].tolist() == [4, 5, -1]
    assert seen.crowd[0].tolist() == [False, True, False]


def test_colour_by_hand(monkeypatch):
    # rand -> brightness 1.2, contrast 0.8, saturation 1 - 0.4 = 0.6 at a strength of 0.4
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.tensor([[0.75], [0.25], [0.0]]))
    pixel = torch.tensor([0.5, 0.25, 0.75])
    grey = float(0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2])
    expected = [((0.6 * v + 0.4 * grey - 0.5) * 0.8 + 0.5) * 1.2 for v in pixel.tolist()]
    found = recolour(pixel.view(1, 3, 1, 1), 0.4, torch.Generator())
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-5)


def test_colour_strength_zero_changes_nothing():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(recolour(images, 0.0, torch.Generator().manual_seed(0)), images)


@pytest.mark.parametrize("seed", range(3))
def test_zoom_stays_within_its_limits(seed):
    view = View.draw(500, DataConfig(scale_min=0.5, scale_max=2), torch.Generator().manual_seed(seed))
    assert view.zoom_x.min() >= 0.5 and view.zoom_x.max() <= 2
    zoomed_in = view.zoom_x > 1
    # Zoomed in, the window never leaves the image.
    assert (view.shift_x[zoomed_in].abs() + 1 / view.zoom_x[zoomed_in] <= 1 + 1e-6).all()


def test_without_aspect_jitter_the_views_are_those_of_version_0_1_0():
    generator = _seeded(11)
    view = View.draw(3, DataConfig(), generator)
    drawn = torch.rand(4, 3, generator=_seeded(11))
    assert torch.equal(view.zoom_x, view.zoom_y)
    # Zoom = 0.5 * 4^u.
    torch.testing.assert_close(view.zoom_x, 0.5 * 4 ** drawn[0])
    torch.testing.assert_close(view.shift_y, (2 * drawn[3] - 1) * (1 - 1 / view.zoom_x).abs())
    # As many numbers were drawn as then: the next one is the fifth row's.
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(13, generator=_seeded(11))[12:])


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_aspect_jitter_changes_width_to_height_by_at_most_the_aspect():
    usual = View.draw(2000, DataConfig(scale_min=0.7), _seeded(2))
    view = View.draw(2000, DataConfig(scale_min=0.7, aspect=2), _seeded(2))
    ratio = view.zoom_x / view.zoom_y
    assert ratio.min() >= 0.5 * (1 - 1e-6) and ratio.max() <= 2 * (1 + 1e-6)
    # Log-uniform: a quarter lies in each quarter of the logarithms.
    assert torch.histc(ratio.log2(), 4, -1, 1).sub(500).abs().max() < 100
    torch.testing.assert_close((view.zoom_x * view.zoom_y).sqrt(), usual.zoom_x)
    assert torch.equal(view.flip, usual.flip)
    for zoom, shift in ((view.zoom_x, view.shift_x), (view.zoom_y, view.shift_y)):
        # The window never leaves the image where it is smaller, nor the image the window where that is.
        assert (shift.abs() <= (1 - 1 / zoom).abs() + 1e-6).all()
    part = View.draw(2000, DataConfig(scale_min=0.7, aspect=2), _seeded(2), slice(7, 9))
    assert torch.equal(part.zoom_x, view.zoom_x[7:9]) and torch.equal(part.shift_y, view.shift_y[7:9])
