from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import Checkpoint, save_checkpoint
from onehead_cli.network.onehead import build_model
from onehead_cli.profiling.profile import AGREEMENT, cut_to
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

#: What the reference system is said to cost for a 512 px image.
REFERENCE_PARAMETERS = 7.842e6
REFERENCE_MULTIPLY_ADDS = 3.564e9

CLASSES = {"cls": ["c"] * 10, "seg": ["c"] * 21, "det": ["c"] * 10}


def architecture(backbone: str, tasks: tuple[str, ...] = TASKS) -> Architecture:
    return Architecture(backbone=backbone, classes=CLASSES, of_tasks={"boxes_per_cell": 2}, tasks=tasks)


def profile_json(*args: str) -> dict[str, Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(["profile", "--json", "--quiet", *args]) == 0
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    config = Path(__file__).parents[2] / "configs" / "reference-quick.yaml"
    return profile_json("--config", str(config), "--no-pretrained", "--runs", "2")


@pytest.fixture(scope="module")
def lite() -> dict[str, Any]:
    return profile_json("--backbone", "tf_efficientnet_lite0", "--image-size", "64", "--runs", "3", "--threads", "1")


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    wanted = architecture("tf_efficientnet_lite0", ("seg",))
    checkpoint = Checkpoint(
        name="seg",
        architecture=wanted,
        weights=build_model(wanted).state_dict(),
        preprocess={"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "image_size": 96, "fit": "resize"},
        thresholds={"cells": 0.3, "boxes": []},
        scores={},
        config={},
        epoch=1,
        seed=0,
    )
    save_checkpoint(tmp_path / "seg_best.pth", checkpoint)
    return tmp_path / "seg_best.pth"


def test_reference_totals(reference: dict[str, Any]) -> None:
    assert reference["parameters"] == pytest.approx(REFERENCE_PARAMETERS, rel=0.002)
    assert reference["multiply_adds"] == pytest.approx(REFERENCE_MULTIPLY_ADDS, rel=0.002)
    assert reference["classes"] == {"cls": 10, "seg": 21, "det": 10}


def test_stages_match_the_closed_form(reference: dict[str, Any]) -> None:
    # 512 px: 16 x 16 = 256 cells before the upsampling, 32 x 32 = 1024 after it. A norm costs 4 operations a value.
    upsample = {
        "parameters": 1280 * 2560 + 2 * 2560,
        "convolution_multiply_adds": 1280 * 2560 * 256,
        "norm_multiply_adds": 4 * 2560 * 256,
    }
    neck = {
        "parameters": 640 * 9 + 2 * 640 + 640 * 256 + 2 * 256,
        "convolution_multiply_adds": (640 * 9 + 640 * 256) * 1024,
        "norm_multiply_adds": 4 * (640 + 256) * 1024,
    }
    # 84 = 4 groups of 21 channels; each output of the grouped convolution sees the 21 of its group. Both have a bias.
    head = {
        "parameters": (256 * 84 + 84) + (21 * 84 + 84),
        "convolution_multiply_adds": (256 * 84 + 21 * 84) * 1024,
        "norm_multiply_adds": 0,
    }
    channels = 10 + 21 + (10 + 2 * 5)
    identity = {
        "parameters": (256 + 1) * channels,
        "convolution_multiply_adds": 256 * channels * 1024,
        "norm_multiply_adds": 0,
    }
    stages = {stage["name"]: stage for stage in reference["stages"]}
    expected = {
        "upsample": upsample,
        "necks.cls": neck,
        "necks.seg": neck,
        "necks.det": neck,
        "head": head,
        "identity": identity,
    }
    assert list(stages) == ["backbone", *expected]
    for name, costs in expected.items():
        assert {key: stages[name][key] for key in costs} == costs, name
        total = costs["convolution_multiply_adds"] + costs["norm_multiply_adds"]
        assert stages[name]["multiply_adds"] == total, name


def test_stages_add_up_to_the_totals(reference: dict[str, Any]) -> None:
    stages = reference["stages"]
    for key in ("multiply_adds", "convolution_multiply_adds", "norm_multiply_adds"):
        assert sum(stage[key] for stage in stages) == reference[key]
    model = build_model(architecture("efficientnet_b0"))
    assert reference["parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(stage["parameters"] for stage in stages) == reference["parameters"]
    assert reference["multiply_adds"] == reference["convolution_multiply_adds"] + reference["norm_multiply_adds"]
    assert reference["flops"] == 2 * reference["convolution_multiply_adds"] + reference["norm_multiply_adds"]


def test_torch_counts_the_same_convolutions(reference: dict[str, Any], lite: dict[str, Any]) -> None:
    for document in (reference, lite):
        assert document["agreement"] <= AGREEMENT
        assert document["torch_multiply_adds"] == pytest.approx(document["convolution_multiply_adds"], rel=AGREEMENT)


def test_a_teacher_costs_nine_tenths_of_the_student(reference: dict[str, Any]) -> None:
    each = reference["teachers"]["each"]
    assert list(each) == ["cls", "seg", "det"]
    for teacher in each.values():
        assert teacher["multiply_adds"] / reference["multiply_adds"] == pytest.approx(0.90, abs=0.01)
    together = reference["teachers"]["together"]
    for key in ("parameters", "multiply_adds"):
        assert together[key] == sum(teacher[key] for teacher in each.values())
        assert reference["ratio"][key] == reference[key] / together[key]
    ratio = reference["latency"]["min_ms"] / together["latency"]["min_ms"]
    assert reference["ratio"]["latency"] == pytest.approx(ratio)


def test_a_teacher_is_the_student_cut_down_to_its_task() -> None:
    student = build_model(architecture("mobilenetv3_small_050")).eval()
    image = torch.rand(1, 3, 64, 64)
    for task in TASKS:
        teacher, built = cut_to(student, task), build_model(architecture("mobilenetv3_small_050", (task,))).eval()
        weights, whole = teacher.state_dict(), student.state_dict()
        built.load_state_dict({key: whole[key] for key in weights})  # refuses if the keys are not those of one task
        with torch.inference_mode():
            maps, expected = teacher(image), built(image)
        assert list(maps) == [task] and torch.equal(maps[task], expected[task])
        assert not any(value.data_ptr() == whole[key].data_ptr() for key, value in weights.items())
    assert student.tasks == TASKS and len(student.necks) == 3


def test_lite0_with_packaged_weights(lite: dict[str, Any]) -> None:
    assert lite["backbone"] == "tf_efficientnet_lite0"
    assert lite["parameters"] < 7_300_000
    latency = lite["latency"]
    assert 0 < latency["min_ms"] <= latency["p50_ms"] <= latency["p95_ms"]
    assert (latency["runs"], latency["warmup"], latency["batch"], latency["threads"]) == (3, 3, 1, 1)
    assert latency["precision"] in ("bf16", "fp32") and latency["processor"]
    assert lite["peak_memory_mb"] >= lite["memory"]["before_mb"] > 0


def test_latency_limit_is_undecided_at_another_size(reference: dict[str, Any], lite: dict[str, Any]) -> None:
    limits = {limit["name"]: limit for limit in lite["limits"]}
    assert limits["parameters"] == {
        "name": "parameters",
        "limit": 8_000_000,
        "unit": "",
        "value": lite["parameters"],
        "ok": True,
        "note": "",
    }
    assert limits["latency"]["ok"] is None
    assert "64 px" in limits["latency"]["note"]
    decided = reference["limits"][1]
    assert decided["ok"] is (reference["latency"]["p50_ms"] <= 150)


def test_checkpoint_of_a_teacher(teacher_file: Path) -> None:
    document = profile_json("--checkpoint", str(teacher_file), "--runs", "1")
    assert document["image_size"] == 96
    assert document["tasks"] == ["seg"]
    assert [stage["name"] for stage in document["stages"]] == ["backbone", "upsample", "necks.seg", "head", "identity"]
    assert document["teachers"] is None and document["ratio"] is None


def test_backbone_option_beside_a_checkpoint(teacher_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "--checkpoint", str(teacher_file), "--backbone", "efficientnet_b0"]) == 2
    assert "leave the backbone options out" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--image-size", "64"), ("--set", "data.image_size=64")])
def test_a_checkpoint_is_timed_at_the_size_that_is_given(option: tuple[str, str], teacher_file: Path) -> None:
    document = profile_json("--checkpoint", str(teacher_file), "--runs", "1", *option)
    assert document["image_size"] == 64


def test_never_silently_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "--backbone-weights", str(tmp_path / "none.pth")]) == 1
    assert "no such backbone weights file" in capsys.readouterr().err


def test_tables_fit_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["profile", "--pretrained", "--set", "data.image_size=64", "--runs", "1", "--batch-size", "2"]) == 0
    captured = capsys.readouterr()
    assert "class counts are the reference's (cls 10, seg 21, det 10)" in captured.err
    # What is cut off at the edge ends in an ellipsis.
    assert "…" not in captured.out
    for words in ("7.204 M", "necks.det", "student / teachers", "not decided", "batch 2"):
        assert words in captured.out
