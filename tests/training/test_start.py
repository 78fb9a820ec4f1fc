"""First weights through the commands."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny import SMALL, TINY

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import load_config
from onehead_cli.network import weights
from onehead_cli.registry import TASKS

STAYS = ["--epochs", "1", "--lr", "1e-12"]  # what it ends with is what it began with


def common(data, output):
    return ["--data", str(data), "--output", str(output)]


def assert_same_weights(found, expected):
    for name, value in found.items():
        if "running" not in name and value.is_floating_point():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)


def test_a_student_and_all_teachers_start_from_a_checkpoint_without_imagenet_weights(
    tiny_data, trained, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("ImageNet weights were loaded")

    monkeypatch.setattr(weights, "_read", refuse)
    student = trained / "all_best.pth"
    where = [*common(tiny_data, tmp_path), "--start-from", str(student), *STAYS, *TINY]
    assert run(["train-unified", *where, "--lambda-distill", "0"]) == 0
    expected = load_checkpoint(student).weights
    assert_same_weights(load_checkpoint(tmp_path / "all_best.pth").weights, expected)
    assert run(["train-teacher", "--task", "all", *where]) == 0
    for task in TASKS:
        assert_same_weights(load_checkpoint(tmp_path / f"{task}_best.pth").weights, expected)


def test_the_shipped_student_from_a_file_in_another_folder(tiny_data, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "own.yaml"
    file.write_text("model: {start_from: shipped}\ndata: {image_size: 64}\n")
    where = [*common(tiny_data, tmp_path), "--config", str(file), *STAYS, "--set", "teacher.batch_size=4"]
    assert run(["train-teacher", "--task", "cls", *where]) == 0
    said = capsys.readouterr().err
    assert "starts from " in said and "student.safetensors" in said and "starting afresh: cls (" in said
    # That student began as the ImageNet classifier, but none of its classes is taken over.
    assert load_checkpoint(shipped_student()).began_as_imagenet
    assert load_checkpoint(tmp_path / "cls_best.pth").origin["imagenet_classes"] is False
    file.write_text("model: {start_from: some/student.pth}\n")
    assert load_config(file).model.start_from == tmp_path / "elsewhere" / "some" / "student.pth"


def test_a_resumed_run_does_not_ask_for_the_file_again(tiny_data, small_teachers, tmp_path):
    start = tmp_path / "start.pth"
    shutil.copy(small_teachers / "cls_best.pth", start)
    where = ["train-teacher", "--task", "cls", *common(tiny_data, tmp_path), "--epochs", "1", *SMALL]
    where += ["--start-from", str(start)]
    assert run(where) == 0
    start.unlink()
    assert run([*where, "--resume"]) == 0
    assert run([*where[:-1], str(tmp_path / "other.pth"), "--resume"]) == 1  # another file is another setting


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("none.pth", 1, "none.pth: no such file"),
        ("", 1, "a folder, not a checkpoint"),
        ("shipped", 2, "has the backbone"),
    ],
)
def test_a_start_that_cannot_be_used_is_one_line(tiny_data, tmp_path, capsys, source, code, message):
    start = source if source == "shipped" else str(tmp_path / source)
    where = [*common(tiny_data, tmp_path), *SMALL, "--start-from", start]
    assert run(["train-teacher", "--task", "cls", *where]) == code
    error = capsys.readouterr().err
    assert message in error and "model.start_from" in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def imagenet_data(tiny_data, tmp_path_factory):
    """The synthetic data, its class folders named as ImageNet's classes."""
    root = tmp_path_factory.mktemp("named") / "data"
    shutil.copytree(tiny_data, root)
    for split in ("train", "val", "test"):
        folders = sorted(path for path in (root / "imagenette-160" / split).iterdir() if path.is_dir())
        for folder, name in zip(folders, _NAMES, strict=True):
            folder.rename(folder.with_name(name))
    return root


_NAMES = ["church", "cock", "French_horn", "golf ball", "goose", "hen", "lion", "n01440764", "orange", "zebra"]


def test_every_report_says_where_classification_began(imagenet_data, tmp_path, capsys):
    keys = {"model.imagenet_classes": "true", "student.from_teachers": "true", "student.renew_norms": "true"}
    keys |= {"model.class_evidence": "true", "model.icnr": "true"}
    where = [*common(imagenet_data, tmp_path), *TINY, *(w for key, v in keys.items() for w in ("--set", f"{key}={v}"))]
    assert run(["train-teacher", "--task", "all", *where, *STAYS]) == 0
    assert run(["train-unified", *where, *STAYS]) == 0
    capsys.readouterr()
    assert run(["evaluate", "--no-report", *common(imagenet_data, tmp_path)]) == 0
    assert "ImageNet classifier" in capsys.readouterr().err
    assert json.loads((tmp_path / "evaluate.json").read_text())["imagenet_classes"] == {
        "unified": True,
        "baseline": True,
    }
    assert "Classification (unified and baseline) started as" in (tmp_path / "drop_check.md").read_text()
    assert run(["evaluate", "--no-report", *common(imagenet_data, tmp_path), "--task", "seg"]) == 0
    assert "ImageNet" not in capsys.readouterr().err + (tmp_path / "drop_check.md").read_text()
    # What starts from such a network began so too, and no key writes the classifier over what it has learned.
    start = tmp_path / "all_best.pth"
    where = [*common(imagenet_data, tmp_path / "later"), *TINY, *STAYS, "--start-from", str(start)]
    where = [word for word in where if word != "--quiet"] + ["--set", "model.imagenet_classes=true"]
    for more in ([], ["--resume"]):
        assert run(["train-teacher", "--task", "cls", *where, "--set", "model.class_evidence=true", *more]) == 0
        began = load_checkpoint(tmp_path / "later" / "cls_best.pth")
        assert began.origin["imagenet_classes"] is True
        if not more:
            assert "; without effect: model.imagenet_classes, model.class_evidence\n" in capsys.readouterr().err
            assert_same_weights(began.weights, load_checkpoint(start).weights)


def test_what_starts_from_a_network_of_other_weights_did_not_begin_as_the_classifier(imagenet_data, trained, tmp_path):
    where = [*common(imagenet_data, tmp_path), *TINY, *STAYS, "--start-from", str(trained / "all_best.pth")]
    assert run(["train-teacher", "--task", "cls", *where, "--set", "model.imagenet_classes=true"]) == 0
    assert load_checkpoint(tmp_path / "cls_best.pth").origin["imagenet_classes"] is False


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["model.imagenet_classes=true"], "model.imagenet_classes: arrow is not an ImageNet class"),
        (["model.imagenet_classes=true", "data.tasks=[seg,det]"], "data.tasks has no classification"),
        (["model.imagenet_classes=true", "model.pretrained=false"], "model.pretrained must be true"),
    ],
)
def test_a_closed_form_that_cannot_be_had_is_one_line(tiny_data, tmp_path, capsys, keys, message):
    where = [*common(tiny_data, tmp_path), *TINY, *(word for key in keys for word in ("--set", key))]
    assert run(["train-teacher", "--task", "seg", *where]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
