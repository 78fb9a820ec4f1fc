"""`onehead export --int8`: what it is calibrated on, and when it is refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from exporting import error_of, export, renamed, report
from PIL import Image

import onehead_cli
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import load_config
from onehead_cli.data.images import open_image
from onehead_cli.export import build, numbers

PHOTOGRAPH = Path(__file__).parents[2] / "docs" / "photographs" / "chelsea.jpg"


@pytest.fixture(scope="module")
def photographs(tiny_data, tmp_path_factory):
    """Data of the shipped student's kind: parts of a photograph in docs, its labels are none. No part is in two splits.

    Of each part the student is sure: two classes between which it wavers may well change places in 8 bits, and a class
    of a few stray pixels counts as much in the IoU of the masks as one that fills the image.
    """
    data = renamed(tiny_data, tmp_path_factory.mktemp("photographs") / "data")
    with Image.open(PHOTOGRAPH) as image:
        whole = image.convert("RGB")
    student = onehead_cli.load(shipped_student(), load_config(None, {"model.precision": "fp32"}))
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        sure: list[Image.Image] = []
        for _ in range(500):
            part = _part(whole, rng)
            found = student.predict(part).found
            shares = np.bincount(found["seg"].mask.flat) / found["seg"].mask.size
            wide = not ((shares > 0) & (shares < 0.01)).any()
            if wide and np.diff(np.sort(found["cls"].probabilities))[-1] > 0.25:
                sure.append(part)
            if len(sure) == 20:
                break
        else:
            pytest.fail(f"the student is sure of only {len(sure)} parts in 500")
        paths = sorted(path for path in data.rglob("*.jp*g") if split in path.relative_to(data).parts)
        for path, part in zip(paths, itertools.cycle(sure)):
            part.save(path)
    for file in (data / "mini_coco_det" / "annotations").iterdir():
        document = json.loads(file.read_text())
        for image in document["images"]:
            del image["width"], image["height"]
        document["annotations"] = [dict(each, bbox=[5, 5, 60, 60]) for each in document["annotations"]]
        file.write_text(json.dumps(document))
    for mask in data.rglob("SegmentationClass/*.png"):  # of the size of its image now
        with Image.open(mask.parents[1] / "JPEGImages" / f"{mask.stem}.jpg") as image:
            Image.new("L", image.size).save(mask)
    return data


def _part(whole: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = (int(side * share) for side, share in zip(whole.size, rng.uniform(0.55, 1, 2), strict=True))
    x, y = int(rng.integers(0, whole.width - width + 1)), int(rng.integers(0, whole.height - height + 1))
    return whole.crop((x, y, x + width, y + height))


def traced_once(trace):
    made = []

    def call(*args, **keywords):
        if not made:
            made.append(trace(*args, **keywords))
        graph = onnx.ModelProto()
        graph.CopyFrom(made[0])
        return graph

    return call


def test_int8_is_written_where_it_agrees_and_refused_where_it_does_not(photographs, tmp_path, monkeypatch, capsys):
    """Calibrated on train and measured on val; as others make it, with convolutions alone in 8 bits, it loses."""
    # The second file is of the same graphs, and to trace them takes longer than all else.
    for name in ("network_graph", "reading_graph"):
        monkeypatch.setattr(build, name, traced_once(getattr(build, name)))
    opened = []
    monkeypatch.setattr("onehead_cli.export.data.open_image", lambda path: opened.append(path) or open_image(path))
    common = ["--int8", "--data", photographs, "--calibration-images", "20", "--set", "evaluation.resamples=10"]
    assert export(tmp_path / "good.onnx", *common) == 0
    splits = [re.search(r"[/_](train|val|test)\b", str(path.relative_to(photographs)))[1] for path in opened]
    assert splits == ["train"] * 20 + ["val"] * 30
    document = report(tmp_path / "good.onnx")
    assert document["calibration_images"] == 20 and document["numbers"] == "int8" and document["bytes"] < 9e6
    limits = {each["name"]: each["limit"] for each in document["agreement"]}
    assert limits == {"top1_equal": 0.95, "mask_iou": 0.85, "box_f1": 0.7}
    assert document["drop"].keys() == {"cls", "seg", "det"}
    model = onnx.load(tmp_path / "good.onnx")
    clipped = [node.name for node in model.graph.node if node.op_type == "Clip" and "read/" not in node.name]
    assert len(clipped) == 6, "two per block, in the blocks that stay in floats; the range of 8 bits does elsewhere"
    # OpenVINO pads in 8 bits with other values than 0.
    assert not [node for node in model.graph.node if node.op_type == "Pad" and "read/" not in node.name]
    capsys.readouterr()

    to_int8 = numbers.to_int8
    monkeypatch.setattr(build, "to_int8", lambda *args: to_int8(*args, operators="convolutions"))
    assert export(tmp_path / "bad.onnx", *common) == 10
    said = error_of(capsys)
    assert "bad.onnx: not written, because its results would differ from" in said and "seg mask_iou is" in said
    assert not (tmp_path / "bad.onnx").exists() and not report(tmp_path / "bad.onnx")["written"]
