"""The scan itself: what it reads, how often, and what it remembers."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.class_folders import CLASS_FOLDERS
from onehead_cli.data.images import open_image
from onehead_cli.data.scan import scan as scan_module
from onehead_cli.data.scan.probe import ProbeCache, probe
from onehead_cli.data.scan.scan import scan_data
from onehead_cli.errors import DataError

QUIET = Console(quiet=True)


@pytest.fixture
def folders(tmp_path):
    """Twenty images of two classes in train, ten in val; all of one size in bytes or not, as they come."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 10)):
        for index in range(count):
            path = tmp_path / split / ("ant" if index % 2 else "bee") / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path


def look(folder, *, deep=False, splits=("train", "val")):
    config = Config(data=DataConfig(cls_root=folder))
    listings = {("cls", split): CLASS_FOLDERS.list(config, split) for split in splits}
    return scan_data(listings, cache=folder / ".scan.json", deep=deep, reporter=QUIET)


@pytest.fixture
def probed(monkeypatch):
    """The files that were opened, and whether they were to be decoded."""
    calls = []

    def record(path, *, decode, is_mask):
        calls.append((path.name, decode))
        return probe(path, decode=decode, is_mask=is_mask)

    monkeypatch.setattr(scan_module, "probe", record)
    return calls


def test_unchanged_files_are_read_once(folders, probed):
    assert not look(folders).problems and len(probed) == 30
    assert not look(folders).problems and len(probed) == 30
    (folders / "train" / "ant" / "1.jpg").write_bytes(b"")
    assert [p.kind for p in look(folders).problems] == ["empty"] and len(probed) == 31
    assert [p.kind for p in look(folders).problems] == ["empty"] and len(probed) == 31


def test_a_second_scan_of_240_images_takes_milliseconds(tmp_path):
    for index in range(240):
        path = tmp_path / "train" / "ant" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (index, 9, 9)).save(path)
    look(tmp_path, splits=["train"])
    shortest = 1.0
    for _ in range(5):
        began = time.process_time()
        look(tmp_path, splits=["train"])
        shortest = min(shortest, time.process_time() - began)
    assert shortest < 0.1


def test_many_images_are_read_by_their_headers_unless_deep(folders, probed, monkeypatch):
    """But for a sample of each split: of 5 here, each fourth of the 20 in train and each second of the 10 in val."""
    monkeypatch.setattr(scan_module, "MANY", 29)
    monkeypatch.setattr(scan_module, "SAMPLE", 5)
    assert look(folders).headers_only
    decoded = [decode for _, decode in probed]
    assert decoded == [index % 4 == 0 for index in range(20)] + [index % 2 == 0 for index in range(10)]
    assert not look(folders, deep=True).headers_only and len(probed) == 30 + 20
    # What was decoded once is good enough for headers, too.
    assert look(folders).headers_only and len(probed) == 50
    monkeypatch.setattr(scan_module, "MANY", 30)
    assert not look(folders).headers_only and len(probed) == 50


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_headers_are_enough_to_see_that_the_end_is_missing(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    Image.effect_noise((64, 48), 60).save(path)
    whole = path.read_bytes()
    facts = probe(path, decode=False, is_mask=False)
    assert facts.kind is None and not facts.decoded and (facts.width, facts.height) == (64, 48)
    path.write_bytes(whole[:-30])
    assert probe(path, decode=False, is_mask=False).kind == "damaged"
    # Bytes behind the end do no harm, they only cost a closer look.
    path.write_bytes(whole + bytes(100))
    facts = probe(path, decode=False, is_mask=False)
    assert facts.kind is None and facts.decoded


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_damaged_file_is_found_exactly_where_it_cannot_be_opened(tmp_path, kind, mode):
    """Against `open_image`, which the loaders use, for files that are cut short and files with a wrong byte."""
    path = tmp_path / f"x.{kind}"
    Image.effect_noise((61, 47), 70).convert(mode).save(path)
    whole = path.read_bytes()
    refused = []
    for at in range(0, len(whole), len(whole) // 60):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                size = open_image(path).size
            except DataError:
                size = None
            facts = probe(path, decode=True, is_mask=False)
            assert (None if facts.kind else (facts.width, facts.height)) == size
            refused.append(size is None)
    assert any(refused)


def test_a_decoded_mask_gives_its_labels(tmp_path):
    mask = np.zeros((8, 9), np.uint8)
    mask[2], mask[3] = 7, 255
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0] * 256)
    image.save(tmp_path / "x.png")
    facts = probe(tmp_path / "x.png", decode=True, is_mask=True)
    assert facts.mode == "P" and facts.labels == {0: 54, 7: 9, 255: 9} and (facts.width, facts.height) == (9, 8)
    assert probe(tmp_path / "x.png", decode=False, is_mask=True).labels is None


def test_only_files_of_the_same_length_in_two_splits_are_hashed(folders, monkeypatch):
    hashed, real = [], scan_module.sha256_of
    monkeypatch.setattr(scan_module, "sha256_of", lambda path: hashed.append(path) or real(path))
    twin = folders / "val" / "ant" / "twin.jpg"
    twin.write_bytes((folders / "train" / "ant" / "3.jpg").read_bytes())
    problems = look(folders).problems
    assert [(p.kind, p.path, p.image) for p in problems] == [("in_two_splits", twin, None)]
    lengths = [{p.stat().st_size for p in (folders / split).rglob("*.jpg")} for split in ("train", "val")]
    expected = [p for p in folders.rglob("*.jpg") if p.stat().st_size in lengths[0] & lengths[1]]
    assert sorted(hashed) == sorted(expected)
    assert len(look(folders).problems) == 1 and len(hashed) == len(expected)
    # Twice in one split is allowed.
    assert not look(folders, splits=["val"]).problems


def test_a_cache_that_cannot_be_written_is_passed_over(folders):
    (folders / ".scan.json").mkdir()
    assert not look(folders).problems


def test_the_cache_remembers_what_it_was_given(folders):
    path = folders / "train" / "ant" / "1.jpg"
    cache = ProbeCache(folders / "cache.json")
    facts = probe(path, decode=True, is_mask=False)
    cache.put(path, path.stat(), facts)
    cache.save()
    assert ProbeCache(folders / "cache.json").get(path, path.stat()) == facts
    assert str(path) in json.loads((folders / "cache.json").read_text())["files"]
    path.write_bytes(path.read_bytes() + b"x")
    assert ProbeCache(folders / "cache.json").get(path, path.stat()) is None
