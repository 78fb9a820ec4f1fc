"""The draw against what must hold of it, whatever the pool."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onehead_cli.data.prepare.draw import Draw, draw_splits, equal_shares
from onehead_cli.errors import DataError

pools = st.lists(st.frozensets(st.integers(0, 7), max_size=4), min_size=1, max_size=80).map(
    lambda labels: {f"{number:03d}.jpg": found for number, found in enumerate(labels)}
)


@settings(max_examples=150, deadline=None)
@given(pool=pools, shares=st.lists(st.integers(0, 40), min_size=1, max_size=3), seed=st.integers(0, 3))
def test_what_is_drawn_is_disjoint_complete_and_holds_every_class_that_is_common_enough(pool, shares, seed):
    sizes, left = {}, len(pool)
    for number, share in enumerate(shares):
        sizes[f"split{number}"] = min(share, left)
        left -= min(share, left)
    drawn = draw_splits(pool, sizes, key=str(seed))
    assert {split: len(names) for split, names in drawn.items()} == sizes
    everything = [name for names in drawn.values() for name in names]
    assert len(everything) == len(set(everything)) and set(everything) <= set(pool)
    assert all(names == sorted(names) for names in drawn.values())
    count = Counter(label for labels in pool.values() for label in labels)
    if min(sizes.values()) >= len(count):
        for label, images in count.items():
            if images > (len(sizes) - 1) * len(count):
                assert all(any(label in pool[name] for name in names) for names in drawn.values()), label


@settings(max_examples=50, deadline=None)
@given(pool=pools, data=st.data())
def test_the_draw_does_not_depend_on_the_order_of_the_pool(pool, data):
    sizes = {"val": len(pool) // 3, "test": len(pool) // 3}
    shuffled = dict(data.draw(st.permutations(list(pool.items()))))
    assert draw_splits(pool, sizes, key="0") == draw_splits(shuffled, sizes, key="0")


def test_a_rare_class_is_in_both_splits_where_chance_would_miss_it():
    pool = {f"{n:04d}": {1} if n % 500 else {1, 2} for n in range(2000)}  # four images with class 2
    for seed in range(20):
        drawn = draw_splits(pool, {"val": 60, "test": 60}, key=str(seed))
        held = [sum(2 in pool[name] for name in names) for names in drawn.values()]
        assert held == [2, 2]  # four rounds would take more; there are only four images


def test_half_of_a_split_is_dealt_equally_to_the_classes_and_the_rest_is_left_to_chance():
    pool = {f"{n:05d}": {0} if n < 9000 else {1 + n % 4} for n in range(10000)}
    drawn = draw_splits(pool, {"train": 1000}, key="0")["train"]
    count = Counter(next(iter(pool[name])) for name in drawn)
    # 100 of each of five classes, then 500 of a pool that is nine tenths class 0.
    assert all(100 <= count[label] < 150 for label in (1, 2, 3, 4)) and count[0] > 500


def test_the_same_on_every_machine():
    """Against the rule, spelt out: one of each class in each split, in the order of sha256, the rarest class first."""
    names = [f"train2017/{n:012d}.jpg" for n in range(100)]
    order = sorted(range(100), key=lambda n: hashlib.sha256(f"0/det/{names[n]}".encode()).hexdigest())
    first, second = ({label: [n for n in order if n % 3 == label][place] for label in range(3)} for place in (0, 1))
    # There are 34 of class 0 and 33 of the others; split b is full before class 0 has its turn.
    a, b = sorted(names[n] for n in first.values()), sorted(names[second[label]] for label in (1, 2))
    code = (
        "from onehead_cli.data.prepare.draw import draw_splits\n"
        "pool = {f'train2017/{n:012d}.jpg': {n % 3} for n in range(100)}\n"
        "print(draw_splits(pool, {'a': 3, 'b': 2}, key='0/det'))"
    )
    for hash_seed in ("0", "1"):
        env = {"PYTHONHASHSEED": hash_seed, "LC_ALL": "C", "PYTHONPATH": ":".join(sys.path)}
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout
        assert found == f"{ {'a': a, 'b': b} }\n"
    assert a[0] == "train2017/000000000040.jpg"  # the value itself: a change of it changes everybody's data


def test_a_image_that_repeats_another_makes_room_for_the_next(tmp_path):
    """Against the plain statement: the draw of a pool without the repeated ones."""
    names = [f"{n:02d}.jpg" for n in range(30)]
    for place, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([place // 2]))  # each content twice
    brought: list[str] = []

    def get(wanted):
        brought.extend(wanted)
        return {name: tmp_path / name for name in wanted}

    pool, sizes = {name: {0} for name in names}, {"val": 8, "test": 6}
    seen: set[str] = set()
    taken = Draw("det", (1, 8, 6), 0, seen).take(pool, sizes, "val", get)
    chosen = [name for split in taken.values() for name in split]
    contents = {(tmp_path / name).read_bytes() for name in chosen}
    assert len(contents) == len(chosen) == 14 == len(seen)
    assert len(brought) == len(set(brought))
    struck = {name for name in brought if name not in chosen}
    left = {name: pool[name] for name in names if name not in struck}
    assert {split: list(found) for split, found in taken.items()} == draw_splits(left, sizes, key="0/det")
    with pytest.raises(DataError, match="mini_voc_seg train: found 0 unused images"):
        fresh = {name: pool[name] for name in chosen}
        Draw("seg", (1, 1, 1), 0, seen).take(fresh, {"train": 1}, "train.txt", get)


@pytest.mark.parametrize(("size", "expected"), [(7, [3, 2, 2]), (6, [2, 2, 2]), (2, [1, 1, 0])])
def test_equal_shares(size, expected):
    assert list(equal_shares(size, "abc").values()) == expected
