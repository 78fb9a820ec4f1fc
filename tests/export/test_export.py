"""`onehead export`: what it writes, what it measures, what it refuses, and who reads the file."""

from __future__ import annotations

import copy
import hashlib
import importlib
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny import SMALL

import onehead_cli
from onehead_cli.app import run
from onehead_cli.checkpoint import exported as files
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import load_config
from onehead_cli.data.images import open_image
from onehead_cli.errors import CheckpointError, ConfigError
from onehead_cli.events import SILENT
from onehead_cli.export import build, measure, numbers
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.runner import valid_sha256, with_checksum
from onehead_cli.tasks.classification.task import Classification
from onehead_cli.tasks.detection.task import Detection
from onehead_cli.tasks.segmentation.task import Segmentation

DOCS = Path(__file__).parents[2] / "docs"


def export(file, *more):
    return run(["export", "--output", str(file), "--quiet", *map(str, more)])


def report(file):
    return json.loads(file.with_name(f"{file.stem}.export.json").read_text())


def error_of(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    return said


# --- what is written --------------------------------------------------------------------------------------------------


def test_one_file_that_says_what_it_is(exported):
    assert sorted(path.name for path in exported.parent.iterdir()) == [
        "onehead_runner.py",
        "student.export.json",
        "student.onnx",
    ]
    content = exported.read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    checkpoint = load_checkpoint(shipped_student())
    side = checkpoint.preprocess["image_size"]
    inputs = {each.name: (each.type, each.shape) for each in session.get_inputs()}
    assert inputs == {
        "image": ("tensor(uint8)", [side, side, 3]),
        "size": ("tensor(int64)", [2]),
        "mask_size": ("tensor(int64)", [2]),
    }
    outputs = {each.name: (each.type, each.shape) for each in session.get_outputs()}
    assert outputs == {
        "probabilities": ("tensor(float)", [10]),
        "mask": ("tensor(uint8)", ["mask height", "mask width"]),
        "boxes": ("tensor(float)", ["boxes", 4]),
        "scores": ("tensor(float)", ["boxes"]),
        "labels": ("tensor(int64)", ["boxes"]),
    }
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["onehead"])
    assert metadata["architecture"]["classes"] == {k: list(v) for k, v in checkpoint.architecture.classes.items()}
    assert metadata["thresholds"] == checkpoint.thresholds and metadata["preprocess"] == checkpoint.preprocess
    assert metadata["checkpoint_sha256"] == hashlib.sha256(shipped_student().read_bytes()).hexdigest()
    assert metadata["data"]["manifest"] == checkpoint.data["manifest"]
    assert "Apache License 2.0" in metadata["licence"]
    assert metadata["versions"]["torch"] == importlib.metadata.version("torch")
    assert valid_sha256(content) == hashlib.sha256(content).hexdigest() and len(content) == report(exported)["bytes"]


def test_a_report_of_what_was_measured(exported):
    document = report(exported)
    assert document["written"] and document["numbers"] == "float32" and document["drop"] == {}
    found = {each["name"]: each for each in document["agreement"]}
    assert found.keys() == {"probability", "mask", "score", "box_px", "unmatched"}
    assert all(each["ok"] and 0 <= each["value"] <= each["limit"] for each in found.values())
    limits = {name: each["limit"] for name, each in found.items()}
    assert limits == {"probability": 1e-5, "mask": 1e-4, "score": 1e-4, "box_px": 0.05, "unmatched": 0.01}


def test_half_weights_of_a_student_that_has_no_others_change_nothing(exported, tmp_path):
    """The shipped student's weights are float16, so the file of half the size says the same."""
    assert export(tmp_path / "half.onnx", "--weights", "float16", "--data", tmp_path) == 0
    document = report(tmp_path / "half.onnx")
    assert document["bytes"] < 0.55 * exported.stat().st_size
    assert {each["limit"] for each in document["agreement"]} == {2e-3, 1e-2, 1.0, 0.1}
    assert max(each["value"] for each in document["agreement"] if each["name"] != "box_px") < 1e-5


def test_half_weights_that_are_rounded_stay_within_their_limits(small_student, tmp_path):
    """Weights that were float32 lose their last 13 bits, which shows and is little."""
    assert (
        export(tmp_path / "half.onnx", "--weights", "float16", "--checkpoint", small_student, "--data", tmp_path) == 0
    )
    found = {each["name"]: each for each in report(tmp_path / "half.onnx")["agreement"]}
    assert 1e-6 < found["probability"]["value"] <= found["probability"]["limit"] == 2e-3
    network = onehead_cli.load(tmp_path / "half.onnx")
    assert network.checkpoint.exported["numbers"] == "float16"


def test_a_teacher_and_a_task_that_has_no_part(tiny_data, undisturbed, small_student, tmp_path, monkeypatch, capsys):
    """A teacher's file has its one task. A task that cannot be exported is left out, which is said."""
    teacher = tmp_path / "cls.onnx"
    assert export(teacher, "--checkpoint", undisturbed / "cls_best.pth", "--data", tiny_data) == 0
    assert report(teacher)["tasks"] == ["cls"] and report(teacher)["drop"].keys() == {"cls"}
    assert report(teacher)["drop"]["cls"]["diff"] == 0.0
    session = onnxruntime.InferenceSession(teacher)
    assert [output.name for output in session.get_outputs()] == ["probabilities"]

    monkeypatch.setattr(Segmentation, "exported", lambda self, reading: None)
    capsys.readouterr()
    left = tmp_path / "left.onnx"
    assert export(left, "--checkpoint", small_student, "--data", tmp_path) == 0
    assert "warning: seg: left out, because its package does not support export" in capsys.readouterr().err
    assert report(left)["tasks"] == ["cls", "det"]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    precise = load_config(None, {"model.precision": "fp32"})
    whole, file = onehead_cli.load(small_student, precise), onehead_cli.load(left)
    assert file.tasks == ("cls", "det")
    mine, its = whole.predict(image).found["cls"], file.predict(image).found["cls"]
    np.testing.assert_allclose(mine.probabilities, its.probabilities, atol=1e-5)  # all necks still take part
    monkeypatch.setattr(Classification, "exported", lambda self, reading: None)
    monkeypatch.setattr(Detection, "exported", lambda self, reading: None)
    assert export(tmp_path / "none.onnx", "--checkpoint", small_student) == 2
    assert "no task of the network can be exported: cls, seg, det" in capsys.readouterr().err


# --- who reads it -----------------------------------------------------------------------------------------------------


def test_every_command_takes_the_file_for_the_checkpoint(exported, tiny_data, tmp_path, capsys):
    """predict, evaluate and profile say of the file what they say of the checkpoint in float32."""
    common = ["--device", "cpu", "--set", "model.precision=fp32", "--threads", "1", "--quiet"]
    images = str(tiny_data / "mini_coco_det" / "test")
    records = {}
    for name, network in (("torch", shipped_student()), ("file", exported)):
        where = ["--checkpoint", str(network), "--output", str(tmp_path / name)]
        assert run(["predict", images, *where, *common]) == 0
        lines = (tmp_path / name / "predictions" / "predictions.jsonl").read_text().splitlines()
        records[name] = [json.loads(line) for line in lines]
    for mine, its in zip(*records.values(), strict=True):
        assert its["checkpoint"] == hashlib.sha256(exported.read_bytes()).hexdigest()[:12] != mine["checkpoint"]
        assert [box["label"] for box in mine["boxes"]] == [box["label"] for box in its["boxes"]]
        for one, other in zip(mine["boxes"], its["boxes"], strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=0.01) and one["score"] == pytest.approx(
                other["score"], abs=1e-5
            )
        assert mine["class"]["name"] == its["class"]["name"]
        one, other = (
            np.asarray(Image.open(tmp_path / name / "predictions" / mine["mask"]["file"])) for name in records
        )
        assert (one != other).mean() < 1e-3
        assert (tmp_path / "file" / "predictions" / its["overlay"]).is_file()

    scores = {}
    for name, network in (("torch", shipped_student()), ("file", exported)):
        where = ["--checkpoint", str(network), "--output", str(tmp_path / name), "--split", "val"]
        # The classes of the drawn data are others than the student's but for those of detection.
        assert (
            run(
                [
                    "evaluate",
                    "--no-report",
                    *where,
                    "--data",
                    str(_renamed(tiny_data, tmp_path / f"data of {name}")),
                    *common,
                ]
            )
            == 0
        )
        scores[name] = json.loads((tmp_path / name / "evaluate.json").read_text())["unified"]
    assert scores["torch"]["map"] is not None
    assert scores["file"] == pytest.approx(scores["torch"], abs=1e-6)

    capsys.readouterr()
    assert run(["profile", "--checkpoint", str(exported), "--runs", "2", "--threads", "1", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert run(["profile", "--runs", "2", "--json", "--quiet", "--output", str(tmp_path)]) == 0
    torch_document = json.loads(capsys.readouterr().out)
    for key in ("parameters", "multiply_adds", "stages", "tasks", "image_size"):
        assert document[key] == torch_document[key]
    assert document["exported"] == "float32" and document["latency"]["precision"] == "float32"
    assert document["latency"]["threads"] == 1 and document["latency"]["p50_ms"] > 0 and document["teachers"] is None
    side = document["image_size"]
    assert run(["profile", "--checkpoint", str(exported), "--image-size", str(side + 32)]) == 2
    assert f"an exported file takes only {side} px" in capsys.readouterr().err


def _renamed(data: Path, to: Path) -> Path:
    """The drawn data with the classes of the shipped student."""
    classes = load_checkpoint(shipped_student()).architecture.classes
    shutil.copytree(data, to)
    for split in ("train", "val", "test"):
        folder = to / "imagenette-160" / split
        for old, new in zip(sorted(folder.iterdir()), classes["cls"], strict=True):
            old.rename(folder / new)
        path = to / "mini_coco_det" / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for category, name in zip(document["categories"], classes["det"], strict=True):
            category["name"] = name
        path.write_text(json.dumps(document))
    (to / "mini_voc_seg" / "classes.yaml").write_text("".join(f"- {name}\n" for name in classes["seg"]))
    (to / "manifest.json").unlink()
    return to


def test_what_a_file_no_longer_can_is_one_line(exported, tmp_path, capsys):
    image = tmp_path / "a.png"
    Image.new("RGB", (30, 30)).save(image)
    for key, said in (
        ("evaluation.vote_iou=1.0", "evaluation.vote_iou is 0.5 in the exported file; export it again for 1.0"),
        ("evaluation.best_class=false", "evaluation.best_class is True in the exported file"),
    ):
        command = ["predict", str(image), "--checkpoint", str(exported), "--output", str(tmp_path), "--set", key]
        assert run(command) == 2
        assert said in error_of(capsys)
    command = ["predict", str(image), "--checkpoint", str(exported), "--output", str(tmp_path)]
    assert run([*command, "--score-threshold", "0.001"]) == 2
    assert "has no boxes of scores below 0.01" in error_of(capsys)
    with pytest.raises(CheckpointError, match="an exported file has no torch weights"):
        files.load_exported(exported).model()


# --- int8 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tiny_data, tmp_path_factory):
    """Data of the shipped student's kind: parts of a photograph in docs, its labels are none. No part is in two splits.

    Of each part the student is sure: two classes between which it wavers may well change places in 8 bits.
    """
    data = _renamed(tiny_data, tmp_path_factory.mktemp("photographs") / "data")
    with Image.open(DOCS / "photographs" / "chelsea.jpg") as image:
        whole = image.convert("RGB")
    student = onehead_cli.load(shipped_student(), load_config(None, {"model.precision": "fp32"}))
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        sure: list[Image.Image] = []
        for _ in range(500):
            part = _part(whole, rng)
            if np.diff(np.sort(student.predict(part).found["cls"].probabilities))[-1] > 0.25:
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


def test_int8_is_written_where_it_agrees_and_refused_where_it_does_not(photographs, tmp_path, monkeypatch, capsys):
    """Calibrated on train and measured on val; as others make it, with convolutions alone in 8 bits, it loses."""
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


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs(small_student):
    """What an export of the small student begins with, made once: it takes most of the time."""
    checkpoint, config = load_checkpoint(small_student), load_config(None)
    readings = build.readings_of(checkpoint, config.evaluation, SILENT)
    model = checkpoint.model()
    network = build.network_graph(model, list(readings), 64, folded=True)
    maps = {task: torch.zeros(1, model.channels[task], 4, 4) for task in readings}
    return network, build.reading_graph(maps, readings, side=64, fit="resize")


@pytest.fixture
def quick(graphs, monkeypatch):
    """Lets an export of the small student begin with copies of its graphs."""
    for name, graph in zip(("network_graph", "reading_graph"), graphs, strict=True):
        monkeypatch.setattr(build, name, lambda *args, graph=graph, **options: copy.deepcopy(graph))


def test_fault_55_an_exported_file_that_says_something_else(small_student, quick, tmp_path, monkeypatch, capsys):
    """A file that differs from its checkpoint by more than rounding is not written; the differences are named, an older
    file stays, and the exit code is 10."""
    file = tmp_path / "student.onnx"
    file.write_bytes(b"an older one")
    real = build.network_graph

    def wrong(*args, **options):
        network = real(*args, **options)
        for initializer in network.graph.initializer:
            weights = onnx.numpy_helper.to_array(initializer)
            if weights.ndim == 4 and weights.shape[2] == 1:
                initializer.CopyFrom(onnx.numpy_helper.from_array(weights * np.float32(1.1), initializer.name))
        return network

    monkeypatch.setattr(build, "network_graph", wrong)
    assert export(file, "--checkpoint", small_student, "--data", tmp_path) == 10
    said = error_of(capsys)
    assert "not written" in said and "cls probability is" in said and "limit 1e-05" in said
    assert file.read_bytes() == b"an older one" and sorted(path.name for path in tmp_path.iterdir()) == [
        "student.export.json",
        "student.onnx",
    ]
    document = report(file)
    assert not document["written"] and not all(each["ok"] for each in document["agreement"])


def test_nan_is_no_agreement():
    assert not measure.Agreement("cls", "probability", float("nan"), 1.0, more_is_better=False).ok
    assert not measure.Agreement("cls", "top1_equal", float("nan"), 0.5, more_is_better=True).ok


def predict_with(file, folder):
    Image.new("RGB", (30, 30)).save(folder / "a.png")
    return run(["predict", str(folder / "a.png"), "--checkpoint", str(file), "--output", str(folder / "out")])


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text", "another program's", "gone"])
def test_fault_100_a_damaged_or_foreign_file(how, exported, tmp_path, capsys):
    """A .onnx file that is cut off, changed by a bit, or of another program is refused in one line by all that read
    it."""
    content = bytearray(exported.read_bytes())
    if how == "another program's":
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
        graph.output[0].name = "y"
        content = bytearray(onnx.helper.make_model(graph).SerializeToString())
    elif how == "flipped":
        content[1_000_000] ^= 4
    file = tmp_path / "student.onnx"
    if how != "gone":
        file.write_bytes({"cut": content[:-5000], "empty": b"", "text": b"hello"}.get(how, bytes(content)))
    assert predict_with(file, tmp_path) == 1
    said = error_of(capsys)
    assert str(file) in said and ("no such file" if how == "gone" else "its checksum does not match") in said


def test_fault_101_a_file_of_another_version(exported, tmp_path, capsys):
    """A file that another version of onehead exported is refused with the name of that version."""
    model = onnx.load_from_string(exported.read_bytes()[:-76])
    metadata = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps({**metadata, "export_format": 9, "onehead": "7.0"})
    file = tmp_path / "later.onnx"
    file.write_bytes(with_checksum(model.SerializeToString()))
    assert predict_with(file, tmp_path) == 1
    assert "exported by another version of onehead (7.0)" in error_of(capsys)


def test_fault_102_a_disk_that_fills(small_student, quick, tmp_path, monkeypatch, capsys):
    """If the disk is full, an older file stays whole, nothing half-written is left, and one line names the file."""
    import errno

    from onehead_cli.files import atomic

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "student.onnx"
    file.write_bytes(b"an older one")
    monkeypatch.setattr(atomic.os, "fsync", full)
    assert export(file, "--checkpoint", small_student, "--data", tmp_path) == 1
    assert f"{file}: cannot be written (No space left on device); any older file is untouched" in error_of(capsys)
    assert file.read_bytes() == b"an older one" and not report(file)["written"]
    assert "No space left" in report(file)["reason"]
    assert {path.name for path in tmp_path.iterdir()} == {"student.onnx", "student.export.json"}


def test_fault_103_data_of_other_classes(exported, tiny_data, tmp_path, capsys):
    """Data with classes other than the network's are not used to calibrate int8 or to evaluate an exported file; a
    float file is written without the drop check, and a warning says so."""
    assert export(tmp_path / "a.onnx", "--int8", "--data", tiny_data) == 1
    assert "classes" in error_of(capsys) and not (tmp_path / "a.onnx").exists()
    command = [
        "evaluate",
        "--no-report",
        "--checkpoint",
        str(exported),
        "--data",
        str(tiny_data),
        "--output",
        str(tmp_path),
    ]
    assert run([*command, "--quiet"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cls classes of the split test differ")


def test_floats_are_written_beside_data_of_other_classes(small_student, quick, tiny_data, tmp_path, capsys):
    """A file in floats needs no data: it is written, and why nothing was measured on val is said."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for split in ("train", "val", "test"):
        folder = sorted((data / "imagenette-160" / split).iterdir())[0]
        folder.rename(folder.with_name("n00000000"))
    command = ["export", "--checkpoint", str(small_student), "--data", str(data), "--output", str(tmp_path / "a.onnx")]
    assert run(command) == 0
    assert "no drop check: cls classes of the split val differ" in capsys.readouterr().err
    assert report(tmp_path / "a.onnx")["written"] and report(tmp_path / "a.onnx")["drop"] == {}


def test_fault_104_bad_images_to_calibrate_by(small_student, tiny_data, tmp_path, capsys):
    """An image that cannot be read is left out of the calibration and of the measurement, and named; if none can be
    read, nothing is written."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    images = [path for path in data.rglob("*.jp*g") if "train" in path.parts and "imagenette-160" in path.parts]
    for path in images:
        path.write_bytes(b"")
    assert export(tmp_path / "a.onnx", "--int8", "--checkpoint", small_student, "--data", data) == 1
    error = error_of(capsys)
    assert error == f"error: cls train: none of its images can be used ({len(images)})\n"
    assert report(tmp_path / "a.onnx")["reason"] in error and not report(tmp_path / "a.onnx")["written"]
    assert not (tmp_path / "a.onnx").exists()


def test_bad_images_among_good_ones_are_left_out(small_student, quick, tiny_data, tmp_path, monkeypatch, capsys):
    """One bad image of train, one of val and one bad label are named, and the other images do."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    bad = [sorted((data / "imagenette-160" / split).rglob("*.jp*g"))[0] for split in ("train", "val")]
    bad.append(sorted((data / "mini_voc_seg" / "val" / "SegmentationClass").iterdir())[0])
    for path in bad:
        path.write_bytes(b"\xff\xd8")
    seen = []
    monkeypatch.setattr(build, "to_int8", lambda network, images: seen.extend(images) or network)
    assert export(tmp_path / "a.onnx", "--int8", "--checkpoint", small_student, "--data", data) == 0
    said = capsys.readouterr().err
    assert all(f"warning: {path}: " in said for path in bad) and "3 of " in said
    assert len(seen) == report(tmp_path / "a.onnx")["calibration_images"] and len(seen) > 10
    assert report(tmp_path / "a.onnx")["drop"].keys() == {"cls", "seg", "det"}


def test_fault_105_a_runtime_without_an_operator(exported, tmp_path, monkeypatch, capsys):
    """A runtime that has no kernel for an operator of the file gives one line with its message."""

    class Session:
        def __init__(self, *args, **options):
            raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for NonMaxSuppression(11)\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert predict_with(exported, tmp_path) == 1
    assert "onnxruntime cannot load it ([ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for NonMax" in error_of(
        capsys
    )


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_fault_106_what_is_not_installed(missing, exported, tmp_path, monkeypatch, capsys):
    """Without the extra, exporting and reading an exported file say what to install."""
    real = importlib.import_module

    def import_module(name, *args):
        if name == missing:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)
    assert export(tmp_path / "a.onnx") == 2
    assert f"pip install 'onehead[export]' ({missing} is missing)" in error_of(capsys)
    if missing == "onnxruntime":
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
        assert predict_with(exported, tmp_path) == 2
        assert "to read an exported file, pip install 'onehead[export]'" in error_of(capsys)


@pytest.mark.parametrize("nms", ["0.1", "0.4", "0.9"])
def test_the_nms_of_the_config_holds_in_a_file_too(nms, exported, tmp_path):
    """As many boxes as torch has, however much they may overlap."""
    image, found = tmp_path / "a.png", {}
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(image)
    for name, network in (("torch", shipped_student()), ("file", exported)):
        command = ["predict", str(image), "--checkpoint", str(network), "--output", str(tmp_path / name), "--quiet"]
        keys = [f"evaluation.predict_nms_iou={nms}", "model.precision=fp32"]
        assert run([*command, "--score-threshold", "0.01", *(w for key in keys for w in ("--set", key))]) == 0
        record = json.loads((tmp_path / name / "predictions" / "predictions.jsonl").read_text())
        found[name] = [box["label"] for box in record["boxes"]]
    assert found["torch"] == found["file"] != []
    assert {"0.1": 1, "0.4": 5, "0.9": 20}[nms] <= len(found["file"])


class Session:
    """onnxruntime's, with outputs that are not the file's."""

    def __init__(self, real, **changes):
        self.real, self.changes = real, changes

    def run(self, names, feed):
        found = dict(zip(names, self.real.run(names, feed), strict=True))
        return [self.changes.get(name, lambda value: value)(found[name]) for name in names]


@pytest.mark.parametrize(
    ("output", "change", "said"),
    [
        ("probabilities", lambda value: value * np.nan, "its outputs are not finite"),
        ("scores", lambda value: value + np.inf, "its outputs are not finite"),
        ("mask", lambda value: value | 255, "gives a pixel no class"),
    ],
)
def test_outputs_that_are_no_numbers_are_one_line(output, change, said, exported):
    network = files.load_exported(exported, threads=1)
    predictor = Predictor(network, load_config(None))
    predictor._runner._session = Session(network.session, **{output: change})
    with pytest.raises(CheckpointError, match=said):
        predictor.predict_one(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def test_a_layer_that_cannot_be_exported_is_one_line(small_student, quick, tmp_path, monkeypatch, capsys):
    def refuse(*args, **options):
        raise torch.onnx.errors.OnnxExporterError("no \x1b[96mtranslation\x1b[0m of aten.odd\nand more lines")

    monkeypatch.setattr(build, "network_graph", refuse)
    assert export(tmp_path / "a.onnx", "--checkpoint", small_student, "--data", tmp_path) == 1
    assert "cannot be exported (OnnxExporterError: no translation of aten.odd)" in error_of(capsys)
    assert not report(tmp_path / "a.onnx")["written"] and "aten.odd" in report(tmp_path / "a.onnx")["reason"]


def test_a_coco_file_replaces_nothing_else(exported, tmp_path, capsys):
    """A glob after --coco names an image; a missing folder is made; a run that reads nothing keeps the old file."""
    image, broken, old = tmp_path / "a.png", tmp_path / "broken.png", tmp_path / "old.json"
    Image.new("RGB", (30, 30)).save(image)
    broken.write_bytes(b"x")
    old.write_text("{}")
    content = image.read_bytes()
    common = ["--checkpoint", str(exported), "--output", str(tmp_path / "out"), "--quiet"]
    assert run(["predict", str(image), "--coco", str(image), *common]) == 2
    assert "the name of a COCO file ends in .json" in error_of(capsys) and image.read_bytes() == content
    assert run(["predict", str(broken), "--coco", str(old), *common]) == 1 and old.read_text() == "{}"
    assert run(["predict", str(image), "--coco", str(tmp_path / "new" / "found.json"), *common]) == 0
    assert json.loads((tmp_path / "new" / "found.json").read_text())["images"][0]["file_name"] == str(image)


def test_one_process_evaluates_a_file(exported, tmp_path, monkeypatch):
    from onehead_cli.evaluation import compare

    monkeypatch.setattr(compare, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="an exported file is evaluated in one process"):
        compare.compare(
            load_config(None), checkpoint_path=exported, tasks=None, splits=["val"], relative=False, reporter=SILENT
        )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--int8", "--weights", "float16"], "--int8 stores 8-bit weights: leave --weights float16 out"),
        (["--calibration-images", "5"], "--calibration-images needs --int8"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(more, said, tmp_path, capsys):
    assert export(tmp_path / "a.onnx", *more) == 2
    assert said in error_of(capsys)
    assert run(["predict", "a.png", "--coco-masks"]) == 2
    assert "--coco-masks needs --coco FILE" in error_of(capsys)


def test_fault_107_a_name_that_is_none_of_a_file(tmp_path, capsys):
    """A name without .onnx, or a folder that cannot be made, is refused before anything is computed."""
    assert export(tmp_path / "student.pt") == 2
    assert "the name of an exported file ends in .onnx" in error_of(capsys)
    (tmp_path / "folder.onnx").mkdir()
    assert export(tmp_path / "folder.onnx") == 2
    assert "a folder has this name" in error_of(capsys)
    (tmp_path / "file").touch()
    assert export(tmp_path / "file" / "student.onnx") == 1
    assert str(tmp_path / "file") in error_of(capsys)


def test_a_file_is_no_checkpoint_to_train_from(exported, tiny_data, tmp_path, capsys):
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(tmp_path), *SMALL]
    assert run([*command, "--set", f"model.start_from={exported}"]) == 1
    assert str(exported) in error_of(capsys)
    assert run(["export", "--checkpoint", str(exported), "--output", str(tmp_path / "again.onnx")]) == 1
    assert str(exported) in error_of(capsys)


def test_the_config_of_a_run_is_not_asked_for_its_device(exported):
    """The file runs on the processor, whatever the config says of a GPU."""
    network = files.load_exported(exported, threads=1)
    runner = network.runner(torch.device("meta"), torch.bfloat16)
    side = load_checkpoint(shipped_student()).preprocess["image_size"]
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    from onehead_cli.data.geometry import Fit

    [outputs] = runner.run(image, [Fit.of(side, side, side, "resize")])["cls"]
    assert outputs["probabilities"].sum() == pytest.approx(1)
    with pytest.raises(ConfigError, match="vote_iou"):
        network.reader("det", load_config(None, {"evaluation.vote_iou": 1.0}).evaluation)
