"""The commands of the pages that a newcomer follows, run as they stand on tiny data."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, run_page
from PIL import Image
from plugins import install

pytestmark = pytest.mark.install


def test_getting_started(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "photographs" / "chelsea.jpg", tmp_path / "photo.jpg")
    assert len(run_page(Path("docs/getting-started.md"), tmp_path)) == 8
    output = tmp_path / "output"
    assert json.loads((output / "evaluate.json").read_text())["splits"] == ["val", "test"]
    assert len((output / "predictions" / "predictions.jsonl").read_text().splitlines()) == 1 + 10
    assert (tmp_path / "data" / "preview" / "seg.png").is_file()


def test_own_data(own: Path, tmp_path: Path) -> None:
    assert len(run_page(Path("docs/own-data.md"), own.parent)) == 4
    assert json.loads((tmp_path / "output" / "own" / "evaluate.json").read_text())["drop"].keys() == {
        "cls",
        "seg",
        "det",
    }


def test_deploy(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(ROOT / "docs" / "photographs" / "chelsea.jpg", tmp_path / "photo.jpg")
    shutil.copy(ROOT / "docs" / "photographs" / "astronaut.jpg", tmp_path / "photos")
    run_page(Path("docs/deploy.md"), tmp_path)
    [record] = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    assert record["file"].endswith("astronaut.jpg") and json.loads((tmp_path / "found.json").read_text())["images"]
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * (tmp_path / "student.onnx").stat().st_size


def test_new_task(tiny_data: Path, tmp_path: Path) -> None:
    package = ROOT / "examples" / "depth"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    path = install(tmp_path / "site", project["name"], project["entry-points"], package)
    shutil.copytree(tiny_data, tmp_path / "data")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("images", "depth"):
            (tmp_path / "data" / "depth" / split / kind).mkdir(parents=True)
        for index in range(4):
            grey = rng.integers(0, 256, (40, 60), dtype=np.uint8)
            place = tmp_path / "data" / "depth" / split
            Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(place / "images" / f"{split}-{index}.jpg")
            Image.fromarray(1000 + 10 * grey.astype(np.uint16)).save(place / "depth" / f"{split}-{index}.png")
    assert len(run_page(Path("docs/new-task.md"), tmp_path, {"PYTHONPATH": path})) == 3
    assert "depth" in json.loads((tmp_path / "output" / "evaluate.json").read_text())["drop"]


def test_api(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.S)
    names: dict[str, object] = {}
    exec("\n".join(blocks), names)
    assert names["mask"].shape == (120, 160) and len(names["boxes"].boxes) == len(names["boxes"].scores)
    evaluation = names["evaluation"]
    assert len(names["top1"]) == 20 and names["top1"].mean() == evaluation.document["unified"]["top1"]
    assert {drop.task for drop in evaluation.drops} == {"cls", "seg", "det"}
    assert names["student"].best == Path("try/all_best.pth") and names["cost"].latency.p50_ms > 0
    assert len(capsys.readouterr().out.splitlines()) >= 1 + 2 + 4 + 1 + 10
