"""Copy-paste: what is pasted by hand, and the loader that draws it."""

from functools import partial

import pytest
import torch
from loading import load_split

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.batch import TaskBatch
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.loader import TrainLoader
from onehead_cli.tasks.boxes_from_masks import lend_boxes
from onehead_cli.tasks.detection.target import DetectionTarget, boxes_under
from onehead_cli.tasks.segmentation.copy_paste import Pastes
from onehead_cli.tasks.segmentation.split import Masks

SIZE = 50  # the border reaches one pixel


def batch(value, mask=None):
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.long) if mask is None else mask[None]
    return TaskBatch(torch.full((1, 3, SIZE, SIZE), value), Masks(masks), ["x"])


def pastes(*, happens=True, which=0.0):
    return Pastes(torch.tensor([0]), torch.tensor([happens]), torch.tensor([which]))


def source_mask():
    """Class 2 with a ring of void, class 5 without, and void far from both."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.long)
    mask[9:21, 9:31] = 255
    mask[10:20, 10:30] = 2
    mask[30:40, 0:5] = 5
    mask[45:] = 255
    return mask


def test_a_class_comes_with_its_void_border_and_nothing_else():
    seen = pastes(which=0.4).mix(batch(0.25), batch(0.75, source_mask()))
    expected = torch.zeros(SIZE, SIZE, dtype=torch.long)
    expected[9:21, 9:31] = 255
    expected[10:20, 10:30] = 2
    assert torch.equal(seen.target.masks[0], expected)
    assert torch.equal(seen.images[0, 1] == 0.75, expected != 0) and seen.names == ["x"]


def test_the_second_class_when_it_is_drawn_and_nothing_when_there_is_none():
    five = pastes(which=0.6).mix(batch(0.25), batch(0.75, source_mask())).target.masks
    assert torch.equal(five[0] == 5, source_mask() == 5) and set(five.unique().tolist()) == {0, 5}
    empty = torch.zeros(SIZE, SIZE, dtype=torch.long)
    empty[:9] = 255
    for source, drawn in ((empty, pastes()), (source_mask(), pastes(happens=False))):
        same = drawn.mix(batch(0.25), batch(0.75, source))
        assert (same.images == 0.25).all() and (same.target.masks == 0).all()


def test_boxes_under_a_paste_are_regions_to_ignore_and_so_is_the_paste():
    boxes = torch.tensor([[[10.0, 10, 20, 20], [0, 0, 22, 22], [30, 30, 40, 40], [0, 0, 0, 0]]]).repeat(2, 1, 1)
    labels = torch.tensor([[1, 0, 2, -1]]).repeat(2, 1)
    area = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    area[0, 9:21, 8:25] = True
    seen = boxes_under(DetectionTarget(boxes, labels, torch.zeros(2, 4, dtype=torch.bool)), area)
    assert seen.boxes[0, 4].tolist() == [8, 9, 25, 21]
    assert seen.labels.tolist() == [[1, 0, 2, -1, 0], [1, 0, 2, -1, -1]]
    # The first is hidden, the second for 168 of its 484 pixels.
    assert seen.crowd.tolist() == [[True, False, False, False, True], [False] * 5]


@pytest.fixture(scope="module")
def split(tiny_data):
    data = DataConfig(root=tiny_data, image_size=64)
    return load_split("seg", "train", data, interpolation="bicubic", budget=CacheBudget(100))


def loader(split, copy_paste, **share):
    split.mixing = partial(Pastes.draw, probability=copy_paste) if copy_paste else None
    data, fill = DataConfig(image_size=64), torch.full((1, 3, 1, 1), 0.5)
    return TrainLoader(
        {"seg": split},
        batch_size=5,
        seed=7,
        data=data,
        device=torch.device("cpu"),
        fill=fill,
        **share,
    )


def test_the_loader_changes_only_what_is_pasted_over(split):
    for position in range(3):
        plain, pasted = (loader(split, chance).minibatch(position)["seg"] for chance in (0.0, 1.0))
        before, after = plain.target.masks, pasted.target.masks
        assert plain.names == pasted.names and plain.total == pasted.total == 5
        changed = (plain.images != pasted.images).any(1)
        assert changed.flatten(1).any(1).sum() >= 4
        assert torch.equal(before[~changed], after[~changed])
        assert (after[changed] != 0).all()  # no background is pasted
        again = loader(split, 1.0).minibatch(position)["seg"]
        assert torch.equal(again.images, pasted.images) and torch.equal(again.target.masks, after)


def test_about_as_many_images_get_one_as_the_key_says(split):
    plain, pasted = (
        [one.minibatch(i)["seg"].images for i in range(40)] for one in map(partial(loader, split), (0, 0.4))
    )
    pairs = zip(plain, pasted, strict=True)
    changed = sum(int((a != b).flatten(1).any(1).sum()) for a, b in pairs)
    assert 50 < changed < 100  # of 200, 80 expected; a source may be seen without an object


@pytest.mark.parametrize("world_size", [2, 7])
def test_an_image_gets_the_same_paste_however_many_processes(split, world_size):
    whole = loader(split, 0.7).minibatch(3)["seg"]
    shares = [loader(split, 0.7, rank=r, world_size=world_size).minibatch(3)["seg"] for r in range(world_size)]
    order = sorted(range(world_size), key=lambda r: (r + 1) % world_size)  # who begins goes round with the tasks
    torch.testing.assert_close(torch.cat([shares[r].images for r in order]), whole.images, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat([shares[r].target.masks for r in order]), whole.target.masks)


def test_boxes_of_masks_come_along(split):
    split.further["det"] = lend_boxes(split, {"seg": split.classes, "det": split.classes[1:]}, weight=1)
    try:
        plain, pasted = (loader(split, chance).minibatch(0)["seg"].also["det"] for chance in (0.0, 1.0))
    finally:
        split.further.clear()
    assert torch.equal(pasted.boxes[:, :-1], plain.boxes) and torch.equal(pasted.labels[:, :-1], plain.labels)
    assert (pasted.crowd[:, :-1] >= plain.crowd).all() and pasted.crowd[:, -1].sum() >= 4
