"""Properties of the geometry: boxes find their way back, and a mask goes where the box around it goes.

Where a nearest-pixel mask of a rectangle begins and ends follows from the pixel centres: pixel j has the label when
j + 0.5 lies in the rectangle, so each edge is within half a pixel of the box's.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load_split
from PIL import Image

from onehead_cli.config.sections import IGNORE_INDEX, DataConfig
from onehead_cli.data.augment import View, augment
from onehead_cli.data.batch import TaskBatch
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import fit_mask
from onehead_cli.tasks.detection.target import DetectionTarget, view_boxes
from onehead_cli.tasks.segmentation.split import Masks

PROPERTY = settings(max_examples=150, deadline=None, derandomize=True)
#: Half a pixel, and what float32 rounds at coordinates of up to 128.
HALF = 0.5 + 1e-3
SIZE = 64

sides = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 4999, 5000]))
modes = st.sampled_from(["resize", "letterbox"])


@st.composite
def spans(draw, length):
    """Two whole numbers, the first smaller, of 0..length."""
    first = draw(st.integers(0, length - 1))
    return first, draw(st.integers(first + 1, length))


@st.composite
def boxes_in(draw, width, height):
    (x1, x2), (y1, y2) = draw(spans(width)), draw(spans(height))
    return np.array([x1, y1, x2, y2], dtype=np.float64)


@st.composite
def images_with_a_box(draw):
    width, height = draw(sides), draw(sides)
    return width, height, draw(boxes_in(width, height))


@st.composite
def augmentations(draw):
    """A config of the augmentation and a seed."""
    low, high = draw(st.floats(0.1, 1)), draw(st.floats(1, 8))
    flip, aspect = draw(st.sampled_from([0, 0.5, 1])), draw(st.sampled_from([1, 1.5, 4]))
    config = DataConfig(scale_min=low, scale_max=high, flip=flip, aspect=aspect, colour=0)
    return config, draw(st.integers(0, 2**32))


def extent(inside):
    """x1 y1 x2 y2 of the pixels that are True, or None."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return None if not len(rows) else np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@PROPERTY
@given(images_with_a_box(), modes, st.sampled_from([64, 96, 512]))
def test_a_box_goes_into_the_input_and_comes_back(image, mode, size):
    width, height, box = image
    fit = Fit.of(width, height, size, mode)
    there = fit.to_input(box[None])[0]
    assert (there >= 0).all() and (there <= size).all() and (there[2:] > there[:2]).all()
    assert np.abs(fit.to_image(there[None])[0] - box).max() < 1e-6
    inner = [fit.offset_x, fit.offset_y, fit.offset_x + fit.inner[0], fit.offset_y + fit.inner[1]]
    np.testing.assert_allclose(fit.to_input(np.array([[0, 0, width, height]]))[0], inner, atol=1e-6)
    # Whatever the network says, the box that is reported lies in the image.
    wild = fit.to_image(np.array([[-1e6, -50, 1e6, size + 50]]))[0]
    assert wild.tolist() == [0, 0, width, height]


@PROPERTY
@given(images_with_a_box(), modes)
def test_a_fitted_mask_lies_under_its_fitted_box(image, mode):
    width, height, (x1, y1, x2, y2) = image
    mask = np.zeros((height, width), np.uint8)
    mask[int(y1) : int(y2), int(x1) : int(x2)] = 7
    fit = Fit.of(width, height, SIZE, mode)
    fitted = fit_mask(mask, fit, IGNORE_INDEX)
    box = fit.to_input(np.array([[x1, y1, x2, y2]]))[0]
    found = extent(fitted == 7)
    if found is None:
        assert (box[2:] - box[:2]).min() <= 1, "only what is thinner than a pixel may fall between the centres"
    else:
        assert np.abs(found - box).max() <= HALF
    image_area = extent(fitted != IGNORE_INDEX)
    assert image_area.tolist() == fit.to_input(np.array([[0, 0, width, height]]))[0].round().tolist()


@PROPERTY
@given(boxes_in(SIZE, SIZE), augmentations())
def test_an_augmented_mask_lies_under_its_augmented_box(box, augmentation):
    config, seed = augmentation
    x1, y1, x2, y2 = box.astype(int)
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.int64)
    mask[0, y1:y2, x1:x2] = 7
    target = DetectionTarget(
        torch.tensor(box, dtype=torch.float32)[None, None], torch.tensor([[3]]), torch.tensor([[False]])
    )
    images, fill = (mask == 7).float()[:, None].expand(1, 3, SIZE, SIZE), torch.zeros(1, 3, 1, 1)

    def seen(labels):
        generator = torch.Generator().manual_seed(seed)
        return augment(TaskBatch(images, labels, ["a"]), config, generator, fill)

    masked, boxed = seen(Masks(mask)), seen(target)
    assert torch.equal(masked.images, boxed.images), "one seed is one view, whatever the task"
    after, label = boxed.target.boxes[0, 0].numpy(), int(boxed.target.labels[0, 0])
    assert (after >= 0).all() and (after <= SIZE).all()
    found = extent(masked.target.masks[0].numpy() == 7)
    if found is None:
        assert label == -1 or (after[2:] - after[:2]).min() <= 1 + 1e-3
    else:
        assert label == 3
        assert np.abs(found - after).max() <= HALF
        visible = extent(masked.target.masks[0].numpy() != IGNORE_INDEX)
        assert (after[:2] >= visible[:2] - HALF).all() and (after[2:] <= visible[2:] + HALF).all()


@PROPERTY
@given(images_with_a_box(), modes, augmentations())
def test_a_box_comes_back_from_fit_and_augmentation(image, mode, augmentation):
    width, height, box = image
    config, seed = augmentation
    fit = Fit.of(width, height, SIZE, mode)
    there = torch.from_numpy(fit.to_input(box[None])).float()
    view = View.draw(1, config, torch.Generator().manual_seed(seed))
    target = DetectionTarget(there[None], torch.tensor([[0]]), torch.tensor([[False]]))
    seen = view_boxes(target, view, SIZE).boxes[0, 0].double().numpy()
    # By hand: output -> input is x * flip / zoom + shift, in -1..1; a mirrored box has its sides swapped.
    flip = float(view.flip)
    x = (seen[[0, 2]] * 2 / SIZE - 1) * flip / float(view.zoom_x) + float(view.shift_x)
    y = (seen[[1, 3]] * 2 / SIZE - 1) / float(view.zoom_y) + float(view.shift_y)
    x1, x2 = sorted(x)
    back = fit.to_image((np.array([[x1, y[0], x2, y[1]]]) + 1) * SIZE / 2)[0]
    for side, value in enumerate(back):
        edge = seen[[2, 1, 0, 3][side] if flip < 0 else side]
        if 0 < edge < SIZE:  # an edge that the view cuts off stays at the cut
            assert abs(value - box[side]) < 0.5


@pytest.mark.parametrize("mode", ["resize", "letterbox"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_extreme_images_as_they_are_read_from_disk(tmp_path, size, mode):
    width, height = size
    for folder in ("det/train", "seg/train/JPEGImages", "seg/train/SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("det/train", "seg/train/JPEGImages"):
        Image.new("RGB", size, "red").save(tmp_path / folder / "a.png")
    Image.new("L", size, 2).save(tmp_path / "seg/train/SegmentationClass/a.png")
    instances = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, width, height]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(instances))
    data = DataConfig(
        seg_root=tmp_path / "seg",
        det_images=tmp_path / "det",
        det_annotations=tmp_path / "train.json",
        image_size=SIZE,
        fit=mode,
    )
    seg, det = (
        load_split(task, "train", data, interpolation="bicubic", budget=CacheBudget(1)) for task in ("seg", "det")
    )
    found = extent(seg.batch([0]).target.masks[0].numpy() == 2)
    batch = det.batch([0])
    box = batch.target.boxes[0, 0].numpy()
    np.testing.assert_allclose(found, box, atol=1e-4)
    x1, y1, x2, y2 = found
    assert (batch.images[0, 0, y1:y2, x1:x2] == 255).all() and int((batch.images[0, 0] == 255).sum()) == (
        (x2 - x1) * (y2 - y1)
    )
    assert det.fit(0).to_image(box[None].astype(np.float64))[0] == pytest.approx([0, 0, width, height], abs=0.5)
