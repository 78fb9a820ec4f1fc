"""A run that was stopped and resumed ends as one that was not; the same seed gives the same bits."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from runs import assert_same_run, at_step, differences, lines, read
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from onehead_cli.config.load import load_config
from onehead_cli.data.loader import TrainLoader
from onehead_cli.tasks.classification import task as classification
from onehead_cli.training.resume import changed_settings

TEACHER = ["train-teacher", "--task", "cls"]
#: What a step does by its number, what an evaluation takes from the one before, and what is drawn.
STUDENT_KEYS = [
    "student.small_until=0.5",
    "student.best_mean=2",
    "data.sizes=[64, 96]",
    "data.cache_scale=2",
    "data.aspect=1.5",
    "segmentation.copy_paste=0.5",
    "detection.every_box=true",
    "detection.smallest=0.5",
]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["cls", "all"])
def test_fault_43_a_run_resumed_in_mid_epoch_equals_one_never_stopped(
    name, request, teacher_command, small_teachers, tiny_data, tmp_path, capsys, soak, record_property
):
    """Stopped at any step and resumed, a run ends with the weights, states and log of an uninterrupted run."""
    if name == "cls":
        command, straight = teacher_command, request.getfixturevalue("undisturbed")
    else:
        # Four mini-batches per buffer: two steps per epoch, the second of which reaches into the next round of images.
        command = ["train-unified", "--data", str(tiny_data), "--teachers", str(small_teachers), *SMALL]
        command = [*command, "--set", "student.buffer_size=4", "--epochs", "3"]
        command += [part for setting in STUDENT_KEYS for part in ("--set", setting)]
        straight = tmp_path / "straight"
        assert run([*command, "--output", str(straight)]) == 0
    steps = [record["step"] for record in lines(straight / f"{name}.jsonl") if record["kind"] == "step"]
    draw, done = random.Random(43), 0
    while done < (10 if soak else 3):
        output = tmp_path / f"stopped{done}"
        chosen = sorted(draw.sample(steps[:-1], 3))
        for index, step in enumerate(chosen):
            with pytest.MonkeyPatch.context() as patch:
                at_step(patch, step, terminate)
                resume = ["--resume"] if index else []
                assert run([*command, "--output", str(output), *resume]) == 143
            message = capsys.readouterr().err
            assert f"stopped at step {step} of" in message
            assert index == 0 or f"{name}: resumed from step {chosen[index - 1]} of {len(steps)}" in message
        assert run([*command, "--output", str(output), "--resume"]) == 0
        # One line, with --quiet too.
        assert capsys.readouterr().err.splitlines()[0].startswith(f"{name}: resumed from step {chosen[-1]} of ")
        resumed = [record for record in lines(output / f"{name}.jsonl") if record["kind"] == "resumed"]
        assert [record["message"] for record in resumed] == [f"resumed from step {step}" for step in chosen]
        assert_same_run(straight, output, name)
        shutil.rmtree(output)
        done += len(chosen)
    record_property("stops", done)


def test_a_run_killed_in_mid_buffer_repeats_the_buffer_and_draws_the_same_numbers(tiny_data, tmp_path, monkeypatch):
    """The loss draws from torch's generator here, whose state has to come back as well."""
    real = classification.classification_loss
    monkeypatch.setattr(classification, "classification_loss", lambda *a, **k: real(*a, **k) * (1 + torch.rand(())))
    command = [*TEACHER, "--data", str(tiny_data), "--epochs", "2", *SMALL]
    command += ["--set", "teacher.buffer_size=2", "--set", "teacher.save_every=1", "--set", "teacher.batch_size=3"]
    command += ["--set", "data.sizes=[64, 96]", "--set", "teacher.small_until=0.5", "--set", "teacher.best_mean=2"]
    assert run([*command, "--output", str(tmp_path / "straight")]) == 0

    minibatch, seen = TrainLoader.minibatch, []

    def killed(self, position):
        seen.append(position)
        if seen[-2:] == [4, 5]:  # the second mini-batch of step 3
            raise SystemExit(137)
        return minibatch(self, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainLoader, "minibatch", killed)
        with pytest.raises(SystemExit):
            run([*command, "--output", str(tmp_path / "killed")])
    assert read(tmp_path / "killed" / "cls_last.pth")["training"]["step"] == 2
    assert run([*command, "--output", str(tmp_path / "killed"), "--resume"]) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "killed", "cls")


def test_fault_48_the_same_seed_gives_the_same_bits(teacher_command, undisturbed, tmp_path):
    """Two processes started apart with the same seed end with equal bits on a CPU, also with --deterministic."""
    elsewhere = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "onehead_cli", *teacher_command, "--output", str(tmp_path / "apart")]
    subprocess.run(command, check=True, capture_output=True, env=elsewhere)
    assert_same_run(undisturbed, tmp_path / "apart", "cls")
    assert run([*teacher_command, "--output", str(tmp_path / "deterministic"), "--deterministic"]) == 0
    a, b = (read(folder / "cls_last.pth") for folder in (undisturbed, tmp_path / "deterministic"))
    assert differences(a["training"], b["training"]) == differences(a["weights"], b["weights"]) == []
    assert b["config"]["deterministic"] and not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_is_not_deterministic_is_one_line_that_names_it(
    teacher_command, tmp_path, monkeypatch, capsys
):
    def loss(*args, **kwargs):
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"]
        # Most such operations are those of a GPU; this one is refused on a CPU too.
        return torch.zeros(2).put_(torch.tensor([0]), torch.tensor([1.0]))

    monkeypatch.setattr(classification, "classification_loss", loss)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert run([*teacher_command, "--output", str(tmp_path), "--deterministic"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "put_ has no deterministic implementation" in line
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_number_of_threads_is_warned_about_in_one_line(teacher_command, stopped, tmp_path, monkeypatch, capsys):
    shutil.copytree(stopped, tmp_path / "out")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    at_step(monkeypatch, 6, terminate)
    try:
        assert run([*teacher_command, "--output", str(tmp_path / "out"), "--resume"]) == 143
    finally:
        torch.set_num_threads(before)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert re.search(rf"started with {before} threads?, resumed with {before + 1}", warning)


def test_data_prepared_anew_since_the_stop_are_warned_about_in_one_line(
    teacher_command, stopped, tiny_data, tmp_path, monkeypatch, capsys
):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    (root / "manifest.json").write_text((root / "manifest.json").read_text() + "\n")
    shutil.copytree(stopped, tmp_path / "out")
    at_step(monkeypatch, 6, terminate)
    assert run([*teacher_command, "--data", str(root), "--output", str(tmp_path / "out"), "--resume"]) == 143
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert f"cls: not started on the data now in {root}" in warning


def test_a_warning_given_before_the_stop_is_not_given_again(tiny_data, tmp_path, capsys):
    """Else the log of a resumed run would have a warning that the log of one never stopped has not."""
    command = ["train-unified", "--data", str(tiny_data), "--epochs", "2", "--lambda-distill", "0", *SMALL]
    command += ["--set", "student.task_weights=fixed", "--set", "student.fixed_weights.seg=0.01"]
    command += ["--output", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, terminate)
        assert run(command) == 143
    assert capsys.readouterr().err.count("weight of task seg") == 1
    assert run([*command, "--resume"]) == 0
    assert "weight of task seg" not in capsys.readouterr().err
    assert [bool(r["warnings"]) for r in lines(tmp_path / "all.jsonl") if r["kind"] == "epoch"] == [True, False]


@pytest.mark.parametrize(
    ("key", "value", "plain", "with_imagenet"),
    [
        ("distill.lambda", 1.0, {"all"}, {"all", "cls"}),
        ("distill.temperature", 3.0, {"all"}, {"all", "cls"}),
        ("student.normalise_losses", False, {"all", "cls", "seg", "det"}, {"all", "cls", "seg", "det"}),
        ("distill.images", "all", {"all"}, {"all"}),
        ("distill.imagenet_images", "all", {"all"}, {"all"}),
        ("student.lr", 0.5, {"all"}, {"all"}),
        ("teacher.lr", 0.5, {"cls", "seg", "det"}, {"cls", "seg", "det"}),
        ("model.detection_loss", "yolov1", {"all", "cls", "seg", "det"}, {"all", "cls", "seg", "det"}),
        ("distill.teachers", "elsewhere", set(), set()),
        ("student.save_every", 5, set(), set()),
        ("student.log_conflict", 5, set(), set()),
        ("teacher.cls.epochs", 3, {"cls"}, {"cls"}),
        ("teacher.keep", "last", {"cls", "seg", "det"}, {"cls", "seg", "det"}),
        ("student.best_mean", 3, {"all"}, {"all"}),
        ("detection.ignore_iou", 0.75, {"all", "det"}, {"all", "det"}),
        ("segmentation.lovasz", 0.5, {"all", "seg"}, {"all", "seg"}),
        ("evaluation.nms_iou", 0.45, set(), set()),
        ("evaluation.batch_size", 1, set(), set()),
    ],
)
def test_the_settings_that_a_training_reads_are_compared(key, value, plain, with_imagenet):
    for imagenet, expected in ((False, plain), (True, with_imagenet)):
        both = {"teacher.imagenet_teacher": imagenet}
        before = load_config(None, both).model_dump(mode="json", by_alias=True)
        config = load_config(None, {**both, key: value})
        found = {name: changed_settings(before, config, name) for name in ("cls", "seg", "det", "all")}
        assert {name for name, changed in found.items() if changed} == expected
        assert all(len(changed) == 1 and changed[0].startswith(f"{key} was ") for changed in found.values() if changed)
        assert not any(changed_settings(before, load_config(None, both), name) for name in found)


def test_a_config_of_0_1_0_is_read_with_what_0_1_0_did():
    """Its keys are fewer, one of them is gone, it wrote out what is unset now, and some defaults are others."""
    as_then = {
        "model.skip": "none",
        "detection.confidence": "quality",
        "detection.confidence_cost": 0.0,
        "detection.ignore_iou": 1.0,
    }
    now = load_config(None, as_then)
    before = now.model_dump(mode="json", by_alias=True)
    for key in ("detection", "segmentation"):
        del before[key]
    for section, younger in {"teacher": ["keep", "best_mean"], "student": ["renew_norms"], "model": ["skip"]}.items():
        for key in younger:
            del before[section][key]
    before["evaluation"] |= {"nms_iou": 0.6, "predict_nms_iou": 0.4}
    before["distill"]["gate_masks"] = False
    assert not any(changed_settings(before, now, name) for name in ("cls", "seg", "det", "all"))
    today = {name: changed_settings(before, load_config(None), name) for name in ("seg", "det")}
    assert today["seg"] == ["model.skip was none, now auto"] and len(today["det"]) == len(as_then)
    before["distill"]["gate_masks"] = True
    assert changed_settings(before, now, "all") == ["distill.gate_masks was True, removed in 0.2.0: it lost mIoU"]
    assert changed_settings(before, now, "seg") == []


def test_a_finished_teacher_of_other_settings_is_not_taken_for_this_one(teacher_command, undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "out")
    command = [*teacher_command, "--output", str(tmp_path / "out"), "--resume"]
    assert run([*command, "--set", "student.normalise_losses=false"]) == 1
    assert "student.normalise_losses was True, now False" in capsys.readouterr().err
    assert run([*command, "--set", "distill.lambda=1"]) == 0  # it has no teacher of its own

    last = load_checkpoint(tmp_path / "out/cls_last.pth")
    last.config["teacher"]["imagenet_teacher"] = True
    save_checkpoint(tmp_path / "out/cls_last.pth", last)
    capsys.readouterr()
    assert run([*command, "--set", "teacher.imagenet_teacher=true", "--set", "distill.lambda=1"]) == 1
    assert capsys.readouterr().err.endswith("was trained with another config: distill.lambda was 2.0, now 1.0\n")
