"""`onehead export`: what it writes and who reads the file."""

from __future__ import annotations

import hashlib
import importlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exporting import error_of, export, renamed, report
from PIL import Image

import onehead_cli
from onehead_cli.app import run
from onehead_cli.checkpoint import exported as files
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import load_config
from onehead_cli.data.geometry import Fit
from onehead_cli.errors import CheckpointError, ConfigError
from onehead_cli.runner import valid_sha256
from onehead_cli.tasks.classification.task import Classification
from onehead_cli.tasks.detection.task import Detection
from onehead_cli.tasks.segmentation.task import Segmentation


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
                    str(renamed(tiny_data, tmp_path / f"data of {name}")),
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


def test_what_a_file_no_longer_can_is_one_line(exported, tmp_path, capsys):
    image = tmp_path / "a.png"
    Image.new("RGB", (30, 30)).save(image)
    for key, said in (
        ("evaluation.vote_iou=1.0", "evaluation.vote_iou is 0.5 in the exported file; export it again for 1.0"),
        ("evaluation.best_class=false", "evaluation.best_class is True in the exported file"),
        ("evaluation.score_min=0.001", "has no boxes of scores below 0.01; export it again"),
        ("evaluation.max_detections=101", "has at most 100 boxes per image; export it again"),
    ):
        command = ["predict", str(image), "--checkpoint", str(exported), "--output", str(tmp_path), "--set", key]
        assert run(command) == 2
        assert said in error_of(capsys)
    command = ["predict", str(image), "--checkpoint", str(exported), "--output", str(tmp_path)]
    assert run([*command, "--score-threshold", "0.001"]) == 2
    assert "has no boxes of scores below 0.01" in error_of(capsys)
    assert run(["export", "--checkpoint", str(exported), "--output", str(tmp_path / "b.onnx")]) == 1
    assert f"{exported}: an exported file has no torch weights; name the checkpoint" in error_of(capsys)
    with pytest.raises(CheckpointError, match="an exported file has no torch weights"):
        files.load_exported(exported).model()


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


def test_the_config_of_a_run_is_not_asked_for_its_device(exported):
    """The file runs on the processor, whatever the config says of a GPU."""
    network = files.load_exported(exported, threads=1)
    runner = network.runner(torch.device("meta"), torch.bfloat16)
    side = load_checkpoint(shipped_student()).preprocess["image_size"]
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    [outputs] = runner.run(image, [Fit.of(side, side, side, "resize")])["cls"]
    assert outputs["probabilities"].sum() == pytest.approx(1)
    with pytest.raises(ConfigError, match="vote_iou"):
        network.reader("det", load_config(None, {"evaluation.vote_iou": 1.0}).evaluation)
