"""Repeat-factor sampling: the factors by hand, the order by its counts, and the loader that uses it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loading import load_split
from PIL import Image

from onehead_cli.config.sections import Config
from onehead_cli.data.loader import TrainLoader
from onehead_cli.data.repeats import repeated_order
from onehead_cli.tasks.segmentation.repeat_factor import mask_classes, repeat_factors


def test_factors_by_hand():
    # Class 1 is in 4 of 5 images, class 2 in 2, class 3 in 1.
    classes = [{1}, {1, 2}, {1, 3}, {1, 2}, set()]
    assert repeat_factors(classes, 0.8) == pytest.approx([1, 2**0.5, 2, 2**0.5, 1])
    assert repeat_factors(classes, 0.4) == pytest.approx([1, 1, 2**0.5, 1, 1])
    assert repeat_factors(classes, 0.0) == [1] * 5


@given(factors=st.lists(st.floats(1, 20), min_size=1, max_size=40), seed=st.integers(0, 2**32))
def test_a_pass_is_as_long_as_without_and_shows_each_image_as_often_as_expected_but_for_rounding(factors, seed):
    order = repeated_order(factors, torch.Generator().manual_seed(seed))
    assert len(order) == len(factors)
    times = Counter(order)
    for index, factor in enumerate(factors):
        expected = len(factors) * factor / sum(factors)
        assert expected - 1 - 1e-9 < times[index] < expected + 1 + 1e-9


def test_over_many_passes_the_fractions_are_right_and_the_order_changes():
    factors = [1.0, 1.0, 1.5, 4.0]
    passes = [tuple(repeated_order(factors, torch.Generator().manual_seed(seed))) for seed in range(3000)]
    times = Counter(index for order in passes for index in order)
    for index, factor in enumerate(factors):
        assert times[index] / 3000 == pytest.approx(4 * factor / 7.5, abs=0.05)
    # The last comes two or three times: 3 pairs of others in 12 orders each, or one other in 4 places.
    assert len(set(passes)) == 3 * 12 + 3 * 4


def loader(root, **keys):
    config = Config.model_validate({"data": {"root": root, "image_size": 64}, "segmentation": keys})
    splits = {task: load_split(task, "train", config, training=True) for task in ("seg", "det")}
    fill = torch.zeros(1, 3, 1, 1)
    return TrainLoader(splits, batch_size=4, seed=0, data=config.data, device=torch.device("cpu"), fill=fill)


def test_the_loader_shows_other_segmentation_images_and_nothing_else_changes(tiny_data):
    plain, repeats, again = loader(tiny_data), *(loader(tiny_data, repeat_factor=0.9) for _ in range(2))
    split, factors = plain.splits["seg"], repeats.splits["seg"].repeats
    masks = [np.asarray(Image.open(path)) for path in split.listing.masks]
    classes = [set(range(1, len(split.classes))) & set(np.unique(mask)) for mask in masks]
    assert mask_classes(split.listing) == classes and factors == repeat_factors(classes, 0.9)
    assert max(factors) > min(factors) and split.repeats == []
    assert repeats.batches_per_epoch() == plain.batches_per_epoch() == 3
    again.minibatch(0)
    names = []
    for position in range(12):
        a, b, c = (each.minibatch(position) for each in (plain, repeats, again))
        assert torch.equal(b["seg"].images, c["seg"].images)
        assert torch.equal(a["det"].images, b["det"].images)
        names += b["seg"].names
    times = Counter(names)
    often = [times[path.name] for path in split.paths]
    rarest, commonest = np.argmax(factors), np.argmin(factors)
    assert often[rarest] > often[commonest] and sum(often) == 48


def test_void_under_another_number_is_no_class(tiny_data):
    listing = replace(loader(tiny_data).splits["seg"].listing, ignore_index=1)
    assert all(1 not in found for found in mask_classes(listing))
