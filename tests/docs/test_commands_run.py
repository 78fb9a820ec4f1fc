"""The commands of the pages that a newcomer follows, run as they stand on tiny data; tests/install has the slow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import ROOT, blocks, pages, run_page


@pytest.mark.parametrize("page", pages(), ids=str)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    assert [block.line for block in blocks(page) if block.why_not == ""] == []


def test_getting_started(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "photographs" / "chelsea.jpg", tmp_path / "photo.jpg")
    assert len(run_page(Path("docs/getting-started.md"), tmp_path)) == 8
    output = tmp_path / "output"
    assert json.loads((output / "evaluate.json").read_text())["splits"] == ["val", "test"]
    assert len((output / "predictions" / "predictions.jsonl").read_text().splitlines()) == 1 + 10
    assert (tmp_path / "data" / "preview" / "seg.png").is_file()


def test_own_data(tiny_data: Path, tmp_path: Path) -> None:
    """The data lie where configs/own-data.yaml says."""
    place = tmp_path / "data" / "own"
    for split in ("train", "val", "test"):
        shutil.copytree(tiny_data / "imagenette-160" / split, place / "classes" / split)
        shutil.copytree(tiny_data / "mini_voc_seg" / split / "JPEGImages", place / "scenes" / split)
        shutil.copytree(tiny_data / "mini_voc_seg" / split / "SegmentationClass", place / "masks" / split)
        shutil.copytree(tiny_data / "mini_coco_det" / split, place / "photos", dirs_exist_ok=True)
        shutil.copy(tiny_data / "mini_coco_det/annotations" / f"instances_{split}.json", place / f"photos/{split}.json")
    shutil.copy(tiny_data / "mini_voc_seg" / "classes.yaml", place / "masks")
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "own-data.yaml", tmp_path / "configs")
    assert len(run_page(Path("docs/own-data.md"), tmp_path / "configs")) == 4
    assert json.loads((tmp_path / "output" / "own" / "evaluate.json").read_text())["drop"].keys() == {
        "cls",
        "seg",
        "det",
    }
