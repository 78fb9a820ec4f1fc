from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from onehead_cli.config.load import load_config
from onehead_cli.data.layout import voc_palette
from onehead_cli.errors import ConfigError
from onehead_cli.events import Silent
from onehead_cli.network.onehead import OneHead, build_model
from onehead_cli.prediction import predict as prediction
from onehead_cli.prediction.image_paths import find_images
from onehead_cli.prediction.names import output_names
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

SIZE = 64
CLASSES = {
    "cls": ["n03028079", "n03425413", "own class"],
    "seg": ["background", "person", "sofa", "train"],
    "det": ["person", "car"],
}
#: By hand: with these biases and all else 0, every cell says the same.
CLASS_BIAS = [math.log(7), math.log(2), 0.0]
DET_BIAS = [math.log(4), 0.0, *(0.0, 0.0, math.log(0.25), math.log(0.25), 0.0), *(0.0, 0.0, 0.0, 0.0, -20.0)]


@pytest.fixture(scope="module")
def network() -> OneHead:
    """Random weights; the maps differ from cell to cell."""
    torch.manual_seed(0)
    network = build_model(Architecture("tf_efficientnet_lite0", CLASSES, TASKS, of_tasks={"boxes_per_cell": 2})).eval()
    with torch.no_grad():
        for layer in network.identity.values():
            layer.weight.mul_(30)
    return network


@pytest.fixture(scope="module")
def checkpoint(network: OneHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(network, tmp_path_factory.mktemp("network") / "net.pth")


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints whose maps are the biases above, by fit."""

    def make(fit: str) -> Path:
        network = build_model(Architecture("tf_efficientnet_lite0", CLASSES, TASKS, of_tasks={"boxes_per_cell": 2}))
        with torch.no_grad():
            for part in (network.head, network.identity):
                for weights in part.parameters():
                    weights.zero_()
            for task, bias in (("cls", CLASS_BIAS), ("seg", [0.0, 0, 1, 0]), ("det", DET_BIAS)):
                network.identity[task].bias.copy_(torch.tensor(bias))
        return _save(network, tmp_path_factory.mktemp("constant") / "net.pth", fit=fit, boxes=[0.3, 0.3])

    return make


def _save(network: OneHead, path: Path, *, fit: str = "resize", boxes: list[float] | None = None) -> Path:
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "image_size": SIZE, "fit": fit}
    architecture = Architecture("tf_efficientnet_lite0", CLASSES, network.tasks, of_tasks={"boxes_per_cell": 2})
    chosen = [0.012, 0.012] if boxes is None else boxes
    thresholds = {"cells": 0.3, "boxes": chosen if "det" in network.tasks else []}
    save_checkpoint(path, Checkpoint("all", architecture, network.state_dict(), preprocess, thresholds, {}, {}, 1, 0))
    return path


def _image(path: Path, width: int = 60, height: int = 40, *, seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
    return path


def _predict(*arguments: str | Path, checkpoint: Path, output: Path, fp32: bool = True) -> int:
    precision = ["--set", "model.precision=fp32"] if fp32 else []
    command = ["predict", *map(str, arguments), "--checkpoint", str(checkpoint), "--output", str(output), *precision]
    return run([*command, "--device", "cpu"])


def _records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions/predictions.jsonl").read_text().splitlines()]


def test_numbers_by_hand_with_resize(constant: Callable[[str], Path], tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png", 200, 100)
    assert _predict(image, checkpoint=constant("resize"), output=tmp_path / "out") == 0
    (record,) = _records(tmp_path / "out")
    assert (record["file"], record["width"], record["height"]) == (str(image), 200, 100)
    assert record["class"]["name"] == "n03028079"
    assert record["class"]["title"] == "church"
    assert record["class"]["probability"] == pytest.approx(0.7, abs=1e-5)
    assert [(c["name"], c["title"], round(c["probability"], 5)) for c in record["class"]["top5"]] == [
        ("n03028079", "church", 0.7),
        ("n03425413", "gas pump", 0.2),
        ("own class", "own class", 0.1),
    ]
    assert record["mask"] == {"file": "a_mask.png", "pixels": {"sofa": 20000}}
    # A box of a quarter of each side in the middle of each of the 4 x 4 cells; 0.5 x 0.8 is the score.
    assert {box["label"] for box in record["boxes"]} == {"person"}
    assert {round(box["score"], 5) for box in record["boxes"]} == {0.4}
    cells = [[50.0 * x, 25.0 * y, 50.0 * x + 50, 25.0 * y + 25] for y in range(4) for x in range(4)]
    np.testing.assert_allclose(sorted(box["box"] for box in record["boxes"]), sorted(cells), atol=2e-3)


def test_numbers_by_hand_with_letterbox(constant: Callable[[str], Path], tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png", 200, 100)
    assert _predict(image, checkpoint=constant("letterbox"), output=tmp_path / "out") == 0
    (record,) = _records(tmp_path / "out")
    # The bars above and below are one row of cells each; their boxes are not in the image.
    cells = [[50.0 * x, 50.0 * y, 50.0 * x + 50, 50.0 * y + 50] for y in range(2) for x in range(4)]
    np.testing.assert_allclose(sorted(box["box"] for box in record["boxes"]), sorted(cells), atol=2e-3)


def test_score_threshold_replaces_the_stored_ones(constant: Callable[[str], Path], tmp_path: Path) -> None:
    image, network = _image(tmp_path / "a.png"), constant("resize")
    counts = {}
    for threshold in ("0.05", "0.39", "0.41"):
        out = tmp_path / threshold
        assert _predict(image, "--score-threshold", threshold, checkpoint=network, output=out) == 0
        counts[threshold] = len(_records(out)[0]["boxes"])
    assert counts == {"0.05": 32, "0.39": 16, "0.41": 0}


def test_below_the_evaluations_floor_the_threshold_still_holds(constant: Callable[[str], Path], tmp_path: Path) -> None:
    options = ("--score-threshold", "0.05", "--set", "evaluation.score_min=0.2")
    assert _predict(_image(tmp_path / "a.png"), *options, checkpoint=constant("resize"), output=tmp_path) == 0
    assert len(_records(tmp_path)[0]["boxes"]) == 32


def test_mask_equals_an_independent_upsampling(network: OneHead, checkpoint: Path, tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png", 90, 50)
    assert _predict(image, checkpoint=checkpoint, output=tmp_path) == 0
    resized = np.asarray(Image.open(image).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    with torch.no_grad():
        logits = network(torch.tensor(resized).permute(2, 0, 1)[None] / 255)["seg"]
    expected = F.interpolate(logits, size=(50, 90), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    with Image.open(tmp_path / "predictions/a_mask.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette() == voc_palette()
        found = np.asarray(mask)
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999
    counts = {name: int((found == i).sum()) for i, name in enumerate(CLASSES["seg"]) if (found == i).any()}
    assert _records(tmp_path)[0]["mask"]["pixels"] == counts


def test_boxes_are_inside_best_first_and_above_the_thresholds(checkpoint: Path, tmp_path: Path) -> None:
    sizes = [(90, 50), (50, 90), (1, 1), (1, 5000), (640, 480)]
    for number, size in enumerate(sizes):
        _image(tmp_path / f"in/{number}.png", *size, seed=number)
    assert _predict(tmp_path / "in", checkpoint=checkpoint, output=tmp_path) == 0
    total = 0
    for record, (width, height) in zip(_records(tmp_path), sizes, strict=True):
        assert (record["width"], record["height"]) == (width, height)
        scores = [box["score"] for box in record["boxes"]]
        assert scores == sorted(scores, reverse=True) and all(0.012 <= score <= 1 for score in scores)
        for box in record["boxes"]:
            x1, y1, x2, y2 = box["box"]
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
        total += len(scores)
        with Image.open(tmp_path / "predictions" / record["mask"]["file"]) as mask:
            assert mask.size == (width, height)
        with Image.open(tmp_path / "predictions" / record["overlay"]) as overlay:
            assert overlay.mode == "RGB" and min(overlay.size) > 100
    assert total > 5


def test_exif_orientation_is_followed(checkpoint: Path, tmp_path: Path) -> None:
    upright = _image(tmp_path / "in/upright.png", 40, 70)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    with Image.open(upright) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in/turned.png", exif=exif)
    assert _predict(tmp_path / "in", "--batch-size", "1", checkpoint=checkpoint, output=tmp_path) == 0
    turned, plain = _records(tmp_path)
    assert (turned["width"], turned["height"]) == (40, 70)
    for record in (turned, plain):
        del record["file"], record["overlay"], record["mask"]["file"]
    assert turned == plain
    folder = tmp_path / "predictions"
    for kind in ("", "_mask"):
        with Image.open(folder / f"turned{kind}.png") as a, Image.open(folder / f"upright{kind}.png") as b:
            assert a.tobytes() == b.tobytes()


def test_every_kind_of_image_is_read(checkpoint: Path, tmp_path: Path) -> None:
    base = _image(tmp_path / "in/rgb.png")
    with Image.open(base) as image:
        image.convert("L").save(tmp_path / "in/grey.png")
        image.convert("CMYK").save(tmp_path / "in/cmyk.jpg")
        image.convert("RGBA").save(tmp_path / "in/alpha.webp")
        image.quantize(8).save(tmp_path / "in/palette.png")
        image.convert("1").save(tmp_path / "in/bits.bmp")
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "in/deep.png")
    assert _predict(tmp_path / "in", "--batch-size", "1", checkpoint=checkpoint, output=tmp_path) == 0
    records = {Path(record["file"]).stem: record for record in _records(tmp_path)}
    assert len(records) == 7
    for key in ("class", "boxes"):
        assert records["deep"][key] == records["grey"][key]


def test_fault_54_bad_files_are_named_and_the_rest_is_done(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict` names each file that it cannot read, does all the others, and exits with 1."""
    good = [_image(tmp_path / f"in/{name}.jpg", seed=ord(name)) for name in "afz"]
    whole = _image(tmp_path / "whole.jpg", 300, 300).read_bytes()
    (tmp_path / "in/b.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in/c.jpg").write_bytes(b"")
    (tmp_path / "in/d.jpg").write_text("<html>not found</html>")
    # A header that promises 60,000 x 60,000 pixels.
    bomb = bytearray(_image(tmp_path / "bomb.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (tmp_path / "in/e.png").write_bytes(bomb)
    (tmp_path / "in/notes.txt").write_text("left out, it is no image")
    code = _predict(tmp_path / "in", "--batch-size", "2", checkpoint=checkpoint, output=tmp_path / "out")
    assert code == 1
    errors = capsys.readouterr().err.splitlines()
    bad = [tmp_path / "in" / name for name in ("b.jpg", "c.jpg", "d.jpg", "e.png")]
    for path in bad:
        assert sum(line.startswith(f"warning: {path}: ") for line in errors) == 1
    assert errors[-1] == "error: 4 of 7 images failed"
    records = _records(tmp_path / "out")
    order = [tmp_path / "in" / name for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.png", "f.jpg", "z.jpg")]
    assert [record["file"] for record in records] == list(map(str, order))
    assert [record["file"] for record in records if "error" in record] == list(map(str, bad))
    assert all(set(record) == {"file", "checkpoint", "error"} for record in records if "error" in record)
    made = {path.name for path in (tmp_path / "out/predictions").iterdir()}
    expected = {f"{path.stem}{kind}.png" for path in good for kind in ("", "_mask")}
    assert made == expected | {"predictions.jsonl"}


def test_only_bad_files_leave_the_records_of_an_earlier_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = _image(tmp_path / "good.jpg"), tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    assert _predict(bad, checkpoint=checkpoint, output=tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert shown.out == "" and f"warning: {bad}: the file is empty" in shown.err
    assert shown.err.splitlines()[-1] == "error: none of the images could be read: 1 of 1 failed"
    assert not any((tmp_path / "out/predictions").iterdir())

    # One that can be read is enough: what failed before it has its record too.
    assert _predict(bad, good, "--batch-size", "1", checkpoint=checkpoint, output=tmp_path / "out") == 1
    records = _records(tmp_path / "out")
    assert [(record["file"], "error" in record) for record in records] == [(str(bad), True), (str(good), False)]
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].startswith("1 image: ")
    assert shown.err.splitlines()[-1] == "error: 1 of 2 images failed"

    assert _predict(bad, checkpoint=checkpoint, output=tmp_path / "out") == 1
    assert _records(tmp_path / "out") == records
    assert capsys.readouterr().err.splitlines()[-1].endswith("predictions.jsonl is from an earlier run")


@pytest.mark.parametrize("name", ["photo.jpgg", "no/such/folder", "x" * 300])
def test_a_path_that_is_not_there_is_a_usage_error_before_anything_is_done(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "load_network", lambda path, **options: pytest.fail("it began"))
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "out/predictions/predictions.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("of an earlier run")
    _image(tmp_path / "good.jpg")
    assert run(["predict", "good.jpg", name, "--output", "out"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"error: no such file or folder: {name}\n")
    assert [path.read_text() for path in kept.parent.iterdir()] == ["of an earlier run"]


@pytest.mark.parametrize("argument", ["empty", "*.gif", "**/*.jpg"])
def test_nothing_to_predict(
    argument: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("x")
    assert _predict(tmp_path / argument, checkpoint=checkpoint, output=tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no images") and str(tmp_path / argument) in line
    assert not (tmp_path / "out").exists()


def test_same_stems_do_not_overwrite_each_other(checkpoint: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("x/a.png", "y/a.png", "y/A.jpg", "y/a_mask.png", "z/b.png")):
        _image(tmp_path / name, 50 + number, 40, seed=number)
    outputs = []
    for out in ("one", "two"):
        assert (
            _predict(tmp_path / "x", tmp_path / "y", tmp_path / "z", checkpoint=checkpoint, output=tmp_path / out) == 0
        )
        records = _records(tmp_path / out)
        outputs.append([(record["overlay"], record["mask"]["file"]) for record in records])
        files = [file for pair in outputs[-1] for file in pair]
        assert len({file.lower() for file in files}) == 10
        for record in records:
            with Image.open(tmp_path / out / "predictions" / record["mask"]["file"]) as mask:
                assert mask.width == record["width"]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == ("a.png", "a_mask.png")


def test_output_names_by_hand(tmp_path: Path) -> None:
    paths = [Path(name) for name in ("x/a.jpg", "y/a.jpg", "z/a.png", "y/a-2.jpg", "x/a_mask.jpg", "x/b.tar.jpg")]
    names = output_names(paths, tmp_path, ["mask"])
    assert names == ["a", "a-2", "a-3", "a-2-2", "a_mask-2", "b.tar"]
    # An image that lies where the outputs go is not overwritten.
    assert output_names([tmp_path / "a.png"], tmp_path, ["mask"]) == ["a-2"]


def test_many_equal_stems_are_named_quickly(tmp_path: Path) -> None:
    names = output_names([Path(f"{folder}/frame.jpg") for folder in range(20_000)], tmp_path, ["mask"])
    assert len(set(names)) == 20_000


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.jpg", ".git/d.jpg", "out/predictions/a.png", "odd[1].bmp"):
        _image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.jpg").mkdir()
    warnings: list[str] = []

    class Warned(Silent):
        def warn(self, message: str) -> None:
            warnings.append(message)

    def find(*arguments: str) -> list[str]:
        found = find_images(
            [str(tmp_path / a) for a in arguments], skip=tmp_path / "out/predictions", reporter=Warned()
        )
        return [path.relative_to(tmp_path).as_posix() for path in found.paths]

    assert find("") == ["a.png", "b.JPG", "odd[1].bmp", "sub/c.webp"]
    assert find("sub", "a.png", "") == ["sub/c.webp", "a.png", "b.JPG", "odd[1].bmp"]
    assert find("*") == ["a.png", "b.JPG", "odd[1].bmp"]
    assert find("**/*.[pw]*") == ["a.png", "sub/c.webp"]
    assert find("odd[1].bmp", "notes.txt") == ["odd[1].bmp", "notes.txt"]
    assert find("out/predictions") == find("out/predictions/a.png") == ["out/predictions/a.png"]
    assert not warnings
    assert find("*.gif", "a.png") == ["a.png"]
    assert len(warnings) == 1 and "*.gif" in warnings[0]
    with pytest.raises(ConfigError, match=r"folder\.jpg"):
        find("folder.jpg")
    with pytest.raises(ConfigError, match=r"no such file or folder: \S+/gone\.jpg, \S+/left$"):
        find("a.png", "gone.jpg", "left")


def test_a_second_run_does_not_read_the_first_ones_images(checkpoint: Path, tmp_path: Path) -> None:
    _image(tmp_path / "a.jpg")
    for _ in range(2):
        assert _predict(tmp_path, checkpoint=checkpoint, output=tmp_path / "output") == 0
        assert [record["file"] for record in _records(tmp_path / "output")] == [str(tmp_path / "a.jpg")]


def test_json_document_and_quiet(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _image(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"")
    assert _predict(tmp_path / "in", "--json", "--quiet", checkpoint=checkpoint, output=tmp_path) == 1
    shown = capsys.readouterr()
    folder = tmp_path / "predictions"
    assert json.loads(shown.out) == {
        "schema": 1,
        "command": "predict",
        "pictures": 2,
        "failed": 1,
        "turned": 0,
        "nearly_black": 0,
        "passed_over": {},
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "coco": None,
        "folder": str(folder),
        "predictions": str(folder / "predictions.jsonl"),
    }
    assert len(shown.err.splitlines()) == 2


def test_table_shows_what_was_found(
    constant: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict(_image(tmp_path / "a.png"), checkpoint=constant("resize"), output=tmp_path) == 0
    captured = capsys.readouterr()
    assert "a.png church 70% sofa 100% 16 person" in " ".join(captured.out.split())
    # An image of anything else is given one of them too.
    assert captured.err.splitlines()[0] == "class: always the most likely of the 3 that this network knows"


@pytest.mark.parametrize("task", TASKS)
def test_a_teacher_gives_its_own_task(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = build_model(Architecture("tf_efficientnet_lite0", CLASSES, (task,), of_tasks={"boxes_per_cell": 2}))
    teacher = _save(network, tmp_path / "teacher.pth")
    assert _predict(_image(tmp_path / "a.png"), checkpoint=teacher, output=tmp_path) == 0
    (record,) = _records(tmp_path)
    own = {"cls": "class", "seg": "mask", "det": "boxes"}[task]
    assert set(record) == {"file", "checkpoint", "width", "height", "overlay", own}
    assert ("class: " in capsys.readouterr().err) == (task == "cls")


def test_images_can_be_left_out(checkpoint: Path, tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png")
    assert _predict(image, checkpoint=checkpoint, output=tmp_path / "all") == 0
    assert _predict(image, "--no-overlays", "--no-masks", checkpoint=checkpoint, output=tmp_path / "none") == 0
    assert [path.name for path in (tmp_path / "none/predictions").iterdir()] == ["predictions.jsonl"]
    (full,), (bare,) = _records(tmp_path / "all"), _records(tmp_path / "none")
    del full["overlay"], full["mask"]["file"]
    assert bare == full


def test_batches_do_not_change_the_result(checkpoint: Path, tmp_path: Path) -> None:
    for number in range(5):
        _image(tmp_path / f"in/{number}.png", 50 + number, 40, seed=number)
    for size in ("1", "4"):
        assert _predict(tmp_path / "in", "--batch-size", size, checkpoint=checkpoint, output=tmp_path / size) == 0
    for one, four in zip(_records(tmp_path / "1"), _records(tmp_path / "4"), strict=True):
        assert one["file"] == four["file"]
        assert one["class"]["probability"] == pytest.approx(four["class"]["probability"], abs=1e-4)
        assert len(one["boxes"]) == len(four["boxes"])


def test_default_checkpoint_is_the_student_in_the_output_folder(network: OneHead, tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png")
    (tmp_path / "out").mkdir(exist_ok=True)
    _save(network, tmp_path / "out/all_best.pth")
    assert run(["predict", str(image), "--output", str(tmp_path / "out")]) == 0


def test_a_missing_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _predict(_image(tmp_path / "a.png"), checkpoint=tmp_path / "no.pth", output=tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "no.pth") in line
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_not_finite_are_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = load_checkpoint(checkpoint)
    broken.weights["identity.cls.bias"] = torch.full((3,), math.nan)
    save_checkpoint(tmp_path / "nan.pth", broken)
    assert _predict(_image(tmp_path / "a.png"), checkpoint=tmp_path / "nan.pth", output=tmp_path) == 1
    assert "not finite" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert _predict(_image(tmp_path / "a.png"), checkpoint=checkpoint, output=tmp_path / "file") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "cannot be written" in line and "--output" in line


class _StopAfter:
    """A reporter that interrupts the run after so many images."""

    def __init__(self, count: int) -> None:
        self.count = count

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        def advance(done: int, detail: str) -> None:
            if done == self.count:
                raise KeyboardInterrupt

        yield advance


def test_an_interrupted_run_keeps_what_it_has_done_and_reads_no_further_than_its_batch(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = prediction.open_image

    def count(path: Path) -> Image.Image:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(prediction, "open_image", count)
    for number in range(9):
        _image(tmp_path / f"in/{number}.png")
    config = load_config(None, {"output": tmp_path, "evaluation.batch_size": 2, "device": "cpu"})
    with pytest.raises(KeyboardInterrupt):
        run_of_all = prediction.PredictRun(
            sorted((tmp_path / "in").iterdir()),
            config,
            checkpoint=checkpoint,
            score_threshold=None,
            overlays=True,
            masks=True,
            coco=None,
            coco_masks=False,
            reporter=_StopAfter(3),
        )
        list(run_of_all)
    assert len(_records(tmp_path)) == 3
    assert len(opened) == 4
