"""Views of images kept larger than the input: sharp, without aliasing, and where their boxes and masks are."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loading import load_split, same, tensors
from PIL import Image
from pretended_device import DeviceTensor, pretended_gpu

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.augment import View
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.geometry import Fit
from onehead_cli.data.kept import KeptBatch, augment_kept
from onehead_cli.data.loader import TrainLoader
from onehead_cli.registry import TASKS
from onehead_cli.tasks.classification.split import ClassLabels
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.segmentation.split import KeptMasks

S = 64
FILL = torch.full((1, 3, 1, 1), 0.25)


def grey(rows):
    """uint8 [h, w] -> a kept image, uint8 [h, w, 3]."""
    return torch.tensor(np.asarray(rows), dtype=torch.uint8)[..., None].expand(-1, -1, 3).contiguous()


def view_of(zoom_x=1.0, zoom_y=None, flip=1.0, shift_x=0.0, shift_y=0.0):
    return View(*(torch.tensor([v]) for v in (zoom_x, zoom_y or zoom_x, flip, shift_x, shift_y)))


def look(image, view, *, side=S, own=None, fit="resize", target=None, size=S):
    """The image (with masks or boxes) as a view shows it.

    own: width and height of the file, of which `image` is what is kept; unset, its own.
    """
    own = own or (image.shape[1], image.shape[0])
    target = ClassLabels(torch.zeros(1, dtype=torch.int64)) if target is None else target
    batch = KeptBatch([image], [Fit.of(*own, size, fit)], target, ["a"], total=1)
    data = DataConfig(image_size=size, colour=0, fit=fit)
    with mock.patch.object(View, "draw", return_value=view):
        return augment_kept(batch, data, torch.Generator().manual_seed(0), FILL, side=side)


@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize("zoom", [1.0, 1.7, 2.0, 3.3])
def test_a_gradient_is_read_at_the_right_places(zoom, flip):
    """Pixel j of a row of 0, 1, 2, ... has its centre at j + 0.5, so the brightness at x is x - 0.5."""
    image = grey(np.tile(np.arange(2 * S), (2 * S, 1)))
    shift = 0.4 * (1 - 1 / zoom)
    seen = look(image, view_of(zoom, flip=flip, shift_x=shift)).images[0, 0, S // 2].double() * 255
    centre = (np.arange(S) + 0.5) / S * 2 - 1
    expected = (centre * flip / zoom + shift + 1) * S - 0.5
    # Shrunk images are rounded to whole brightnesses; the outermost pixels have no neighbour on one side.
    np.testing.assert_allclose(seen.numpy()[2:-2], expected[2:-2], atol=0.51 if zoom < 2 else 1e-3)


def test_zoomed_in_twice_an_image_of_twice_the_side_is_a_crop_of_it():
    image = torch.randint(256, (2 * S, 2 * S, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = look(image, view_of(2.0, shift_x=-0.5, shift_y=0.25)).images[0]
    # The window is a half of -1..1 around -0.5 and 0.25: columns from 0, rows from (0.25 - 0.5 + 1) / 2 of 128 = 48.
    crop = image[48 : 48 + S, :S].permute(2, 0, 1) / 255
    torch.testing.assert_close(seen, crop, atol=1e-4, rtol=0)


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("upright", [True, False])
def test_stripes_finer_than_the_view_come_out_grey(zoom, upright):
    stripes = np.tile(np.arange(2 * S) % 2 * 255, (2 * S, 1))
    seen = look(grey(stripes if upright else stripes.T), view_of(zoom)).images[0, 0]
    margin = round(S * (1 - zoom) / 2) + 2
    inner = seen[margin:-margin, margin:-margin]
    # One pixel of the view covers 2 / zoom stripes: a whole number of light and dark ones where it is even.
    assert (inner - 0.5).abs().max() <= (0.005 if 2 / zoom % 2 == 0 else 0.06)
    if zoom < 1:
        assert (seen[0] == 0.25).all(), "the fill"


def test_stretched_by_half_a_checkerboard_keeps_its_cells():
    """Zoomed in 1.5 times along x and 0.75 along y, cells of 8 x 8 pixels of the input are 12 x 6."""
    cells = np.indices((2 * S, 2 * S)) // 16
    seen = look(grey(cells.sum(0) % 2 * 255), view_of(1.5, 0.75)).images[0, 0]
    x, y = (np.arange(S) + 0.5 - S / 2) / 1.5 + S / 2, (np.arange(S) + 0.5 - S / 2) / 0.75 + S / 2
    inside = (y > 0) & (y < S)
    expected = (x[None] // 8 + y[inside, None] // 8) % 2
    near = [np.abs((v + 4) % 8 - 4) < 0.9 for v in (x, y[inside])]  # blurred at the edges of the cells
    clear = ~near[0][None] & ~near[1][:, None]
    assert clear.mean() > 0.4
    assert np.abs(seen[inside].numpy() - expected)[clear].max() < 0.15


def test_letterbox_bars_are_grey_and_recoloured_and_void():
    image, mask = grey(np.full((S, 2 * S), 200)), torch.full((S, 2 * S), 3, dtype=torch.uint8)
    seen = look(image, view_of(0.5), fit="letterbox", target=KeptMasks([mask]))
    # 64 x 64, zoomed out twice: the input is 16..48, the image in it 16..48 x 24..40.
    expected = torch.full((S, S), 0.25)
    expected[16:48, 16:48] = 128 / 255
    expected[24:40, 16:48] = 200 / 255
    torch.testing.assert_close(seen.images[0, 0], expected)
    labels = torch.full((S, S), 255)
    labels[24:40, 16:48] = 3
    assert torch.equal(seen.target.masks[0], labels)


@st.composite
def painted(draw):
    """An image's own size, the size that it is kept at, a rectangle in its pixels, and how it is seen."""
    own = [draw(st.integers(20, 300)) for _ in range(2)]
    kept = [draw(st.integers(min(20, length), length)) for length in own]
    (x1, x2), (y1, y2) = (
        (first, draw(st.integers(first + 1, length))) for length in kept for first in [draw(st.integers(0, length - 1))]
    )
    data = DataConfig(
        fit=draw(st.sampled_from(["resize", "letterbox"])),
        scale_min=draw(st.floats(0.3, 1)),
        scale_max=draw(st.floats(1, 4)),
        aspect=draw(st.sampled_from([1.0, 1.5, 3.0])),
        image_size=S,
    )
    return own, kept, (x1, y1, x2, y2), data, draw(st.sampled_from([64, 96])), draw(st.integers(0, 2**32))


def extent(inside):
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return None if not len(rows) else np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(painted())
def test_image_mask_and_box_are_in_the_same_place(case):
    """A white rectangle on black is found back where its box and its label are, whatever size the image is kept at."""
    own, kept, (x1, y1, x2, y2), data, side, seed = case
    rectangle = np.zeros((kept[1], kept[0]), np.uint8)
    rectangle[y1:y2, x1:x2] = 1
    factor = np.array([own[0] / kept[0], own[1] / kept[1]] * 2)
    box = Fit.of(*own, S, data.fit).to_input((np.array([x1, y1, x2, y2]) * factor)[None])
    target = DetectionTarget(torch.tensor(box)[None].float(), torch.tensor([[0]]), torch.tensor([[False]]))
    view = View.draw(1, data, torch.Generator().manual_seed(seed))
    image, where = grey(rectangle * 255), {"own": tuple(own), "side": side, "fit": data.fit}
    masked = look(image, view, target=KeptMasks([torch.tensor(rectangle)]), **where)
    boxed = look(image, view, target=target, **where)
    assert torch.equal(masked.images, boxed.images)
    seen, label = boxed.target.boxes[0, 0].numpy(), int(boxed.target.labels[0, 0])
    by_mask = extent(masked.target.masks[0].numpy() == 1)
    if by_mask is None:
        assert label == -1 or (seen[2:] - seen[:2]).min() <= 1 + 1e-3
        return
    assert label == 0 and np.abs(by_mask - seen).max() <= 0.5 + 1e-3
    assume((seen[2:] - seen[:2]).min() >= 3)  # a thinner one may be too blurred to be white
    white = (masked.images[0, 0].numpy() > 0.55) & (masked.target.masks[0].numpy() != 255)  # bars are grey
    # A pixel of the kept image makes a ramp of so many pixels, whose middle, at .5, is where the edge is.
    ramp = side / min(kept) * data.scale_max * data.aspect**0.5
    assert np.abs(extent(white) - seen).max() <= 1.01 + 0.05 * ramp


def test_a_process_without_images_gets_the_shapes_of_one():
    masks = KeptMasks([torch.zeros(9, 9, dtype=torch.uint8)])
    for target, shape in ((ClassLabels(torch.zeros(1, dtype=torch.int64)), (0,)), (masks, (0, 96, 96))):
        batch = KeptBatch([grey(np.zeros((9, 9)))], [Fit.of(9, 9, S, "resize")], target, ["a"]).take(0)
        batch.total = 1
        seen = augment_kept(batch, DataConfig(image_size=S), torch.Generator(), FILL, side=96, rows=slice(0, 0))
        [found] = tensors(seen.target)
        assert seen.images.shape == (0, 3, 96, 96) and seen.total == 1
        assert found.dtype == torch.int64 and found.shape == shape


def load(task, root, cache_mb=100, **fields):
    data = DataConfig(root=root, image_size=64, **fields)
    return load_split(task, "train", data, interpolation="bicubic", budget=CacheBudget(cache_mb))


def make_loader(root, *, cache_mb=100, seed=4, device="cpu", batch_size=5, world_size=1, rank=0, more=None, **fields):
    data = DataConfig(root=root, image_size=64, **fields)
    budget, where = CacheBudget(cache_mb), torch.device(device)
    splits = {t: load_split(t, "train", data, interpolation="bicubic", budget=budget, device=where) for t in TASKS}
    share = {"rank": rank, "world_size": world_size, **(more or {})}
    return TrainLoader(splits, batch_size=batch_size, seed=seed, data=data, device=where, fill=FILL, **share)


LARGER = {"cache_scale": 2.0, "aspect": 1.5, "sizes": (64, 96)}


@pytest.mark.parametrize("fit", ["resize", "letterbox"])
def test_a_larger_mini_batch_shows_what_the_usual_one_shows(tiny_data, fit):
    """Kept at the input's own side, views differ by interpolation alone; kept at twice, by sharpness alone."""
    usual = make_loader(tiny_data, fit=fit).minibatch(3)
    for fields, limit in (({"sizes": (64,)}, 0.03), ({"cache_scale": 2.0}, 0.05)):
        larger = make_loader(tiny_data, fit=fit, **fields).minibatch(3)
        for task in TASKS:
            assert larger[task].names == usual[task].names
            assert (larger[task].images - usual[task].images).abs().mean() < limit
        assert (larger["seg"].target.masks == usual["seg"].target.masks).float().mean() > 0.97
        assert same(larger["det"].target, usual["det"].target)
        assert same(larger["cls"].target, usual["cls"].target)


@pytest.mark.parametrize("changed", [{"cache_mb": 0}, {"workers": 2}])
def test_what_is_kept_and_who_reads_change_no_bit(tiny_data, changed):
    one, other = make_loader(tiny_data, **LARGER), make_loader(tiny_data, **LARGER, **changed)
    one.minibatch(0)
    for position in (5, 2):
        a, b = one.minibatch(position), other.minibatch(position)
        for task in TASKS:
            assert torch.equal(a[task].images, b[task].images) and same(a[task].target, b[task].target)


@settings(max_examples=10, deadline=None)
@given(batch_size=st.integers(1, 6), world_size=st.integers(2, 4), position=st.integers(0, 9))
def test_processes_share_a_mini_batch_of_views(tiny_data, batch_size, world_size, position):
    arguments = {"batch_size": batch_size, **LARGER}
    whole = make_loader(tiny_data, **arguments).minibatch(position)
    loaders = [make_loader(tiny_data, world_size=world_size, rank=rank, **arguments) for rank in range(world_size)]
    for task in TASKS:
        # The shares in the order of their rows; see `TrainLoader._rows`.
        order = sorted(loaders, key=lambda loader: loader._rows(task).start)
        shares = [loader.minibatch(position)[task] for loader in order]
        torch.testing.assert_close(torch.cat([s.images for s in shares]), whole[task].images, atol=1e-5, rtol=0)
        assert [name for share in shares for name in share.names] == whole[task].names
        if not isinstance(whole[task].target, DetectionTarget):
            parts = [tensors(share.target)[0] for share in shares]
            assert torch.equal(torch.cat(parts), tensors(whole[task].target)[0])


def test_the_side_of_a_step_is_drawn_from_seed_and_position(tiny_data):
    # 12 images by 5 are 3 mini-batches per epoch, so 2 steps of 2; 100 epochs are 200 steps.
    more = {"buffer_size": 2, "epochs": 100, "small_until": 0.3}
    loader = make_loader(tiny_data, **LARGER, more=more)
    sides = [loader.side(position) for position in range(400)]
    assert sides[0::2] == sides[1::2], "one side per step"
    assert set(sides[:120]) == {64} and 96 in sides[120:160]
    assert 100 <= sides[120:].count(96) <= 180  # of 140 steps of two, 70 +- 20 (3.4 standard deviations)
    for other in ({}, {"rank": 1, "world_size": 3}, {"workers": 1}):
        assert [make_loader(tiny_data, **LARGER, more=more, **other).side(p) for p in range(400)] == sides
    assert [make_loader(tiny_data, seed=5, **LARGER, more=more).side(p) for p in range(400)] != sides
    for position in (0, sides.index(96)):
        batch = loader.minibatch(position)
        assert {part.images.shape[2:] for part in batch.values()} == {(sides[position],) * 2}
        assert batch["seg"].target.masks.shape[1:] == (sides[position],) * 2
    assert batch["det"].target.boxes.max() > 64
    assert {make_loader(tiny_data).side(position) for position in range(9)} == {64}
    always = make_loader(tiny_data, **LARGER, more={**more, "small_until": 1.0})
    assert {always.side(position) for position in range(400)} == {64}


def write_detection(root, size):
    for folder in ("train", "annotations"):
        (root / "mini_coco_det" / folder).mkdir(parents=True)
    Image.new("RGB", size).save(root / "mini_coco_det" / "train" / "a.png")
    document = {
        "images": [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (root / "mini_coco_det" / "annotations" / "instances_train.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("size", "fit", "fields", "kept"),
    [
        ((300, 100), "resize", {"cache_scale": 2.0}, (128, 100)),
        ((300, 100), "resize", {"sizes": (64, 96)}, (96, 96)),
        ((300, 100), "letterbox", {"cache_scale": 2.0}, (128, 43)),
        ((40, 30), "letterbox", {"cache_scale": 2.0}, (40, 30)),
        ((300, 300), "resize", {"cache_scale": 1.5, "sizes": (96, 64)}, (144, 144)),
    ],
)
def test_an_image_is_kept_at_so_many_sides_of_the_input_and_never_above_its_own(tmp_path, size, fit, fields, kept):
    write_detection(tmp_path, size)
    data = load("det", tmp_path, fit=fit, **fields)
    before = data.budget.left
    assert tuple(data.kept_batch([0]).images[0].shape) == (kept[1], kept[0], 3)
    assert before - data.budget.left == data.bytes_in_training() == kept[0] * kept[1] * 3


def test_masks_are_kept_within_the_budget_too(tiny_data):
    data = load("seg", tiny_data, cache_mb=100, cache_scale=2.0)
    before = data.budget.left
    batch = data.kept_batch(range(len(data)))
    assert [m.shape for m in batch.target.masks] == [i.shape[:2] for i in batch.images]
    assert before - data.budget.left == data.bytes_in_training() == sum(m.numel() * 4 for m in batch.target.masks)
    none = load("seg", tiny_data, cache_mb=0, cache_scale=2.0)
    none.kept_batch([0])
    assert not none._store._kept and not none._kept_masks


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_reads_the_same_whatever_is_kept(tiny_data, task):
    usual, larger = load(task, tiny_data), load(task, tiny_data, **LARGER)
    larger.kept_batch([2])
    a, b = usual.batch([2, 0]), larger.batch([2, 0])
    assert torch.equal(a.images, b.images) and same(a.target, b.target)


def test_views_on_a_gpu_are_those_of_the_processor(tiny_data):
    expected = make_loader(tiny_data, fit="letterbox", **LARGER).minibatch(1)
    with pretended_gpu():
        found = make_loader(tiny_data, fit="letterbox", device="cuda", **LARGER).minibatch(1)
        for task in TASKS:
            assert isinstance(found[task].images, DeviceTensor)
            torch.testing.assert_close(found[task].images.cpu(), expected[task].images, atol=0.01, rtol=0)
        assert torch.equal(found["seg"].target.masks.cpu(), expected["seg"].target.masks)
