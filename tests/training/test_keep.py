"""Which weights a run keeps: the best by a mean of evaluations, or the last; and the same after a stop."""

import json
import os
import shutil
import signal

import pytest
import torch
from runs import assert_same_run, at_step, lines, read
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.training.loop import LoopState, TrainingLoop


@pytest.mark.parametrize(
    ("mean_of", "best", "mean"),
    [
        (1, [True, True, False, False, True], 1.0),
        # .25; (.25 + .75) / 2; (.75 + .25) / 2; (.25 + .5) / 2; (.5 + 1) / 2
        (2, [True, True, False, False, True], 0.75),
        # .25; 1 / 2; 1.25 / 3; 1.5 / 3; 1.75 / 3
        (3, [True, True, False, False, True], 1.75 / 3),
    ],
)
def test_the_mean_of_the_last_evaluations_by_hand(mean_of, best, mean):
    assert _course([0.25, 0.75, 0.25, 0.5, 1.0], mean_of) == (best, pytest.approx(mean))


def test_one_lucky_evaluation_does_not_make_the_best():
    # Means of three: .25, .25, 1.25 / 3, 1.5 / 3, 2 / 3 (the best), 1.75 / 3. The luck of the third wins alone.
    course = [0.25, 0.25, 0.75, 0.5, 0.75, 0.5]
    assert _course(course, 1) == ([True, False, True, False, False, False], 0.75)
    assert _course(course, 3) == ([True, False, True, True, True, False], pytest.approx(2 / 3))


def _course(criteria, mean_of):
    loop = object.__new__(TrainingLoop)
    loop.state = LoopState()
    loop.schedule = type("Schedule", (), {"best_mean": mean_of})
    return [loop._take_in(criterion) for criterion in criteria], loop.state.best


@pytest.fixture(scope="module")
def command(tiny_data):
    return ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--epochs", "3", *SMALL]


@pytest.fixture(scope="module")
def kept(command, tmp_path_factory):
    """The output folder of a run that keeps its last weights."""
    output = tmp_path_factory.mktemp("kept")
    assert run([*command, "--set", "teacher.keep=last", "--output", str(output)]) == 0
    return output


def test_the_last_weights_are_kept_with_thresholds_of_their_own(command, kept, tmp_path):
    best, last = load_checkpoint(kept / "cls_best.pth"), load_checkpoint(kept / "cls_last.pth")
    assert best.epoch == last.epoch == 3 and best.scores == last.scores and best.thresholds == last.thresholds
    assert all(torch.equal(best.weights[key], value) for key, value in last.weights.items())
    # `evaluate` says of the file what the last line of the log says.
    [*_, logged] = [record for record in lines(kept / "cls.jsonl") if record["kind"] == "epoch"]
    where = ["--data", command[4], "--output", str(tmp_path), "--checkpoint", str(kept / "cls_best.pth")]
    assert run(["evaluate", "--no-report", "--task", "cls", "--split", "val", *where, "--quiet"]) == 0
    said = json.loads((tmp_path / "evaluate.json").read_text())
    assert said["baseline"]["top1"] == pytest.approx(logged["scores"]["top1"])
    # What is kept changes nothing of what is learned.
    assert run([*command, "--output", str(tmp_path / "best")]) == 0
    one, other = read(tmp_path / "best/cls_last.pth")["training"], read(kept / "cls_last.pth")["training"]
    assert all(torch.equal(one["model"][key], value) for key, value in other["model"].items())


@pytest.mark.parametrize("settings", [["teacher.keep=last"], ["teacher.best_mean=2"]])
def test_a_stopped_run_keeps_what_one_never_stopped_keeps(command, settings, tmp_path):
    command = [*command, *(part for setting in settings for part in ("--set", setting))]
    assert run([*command, "--output", str(tmp_path / "straight")]) == 0
    steps = lines(tmp_path / "straight/cls.jsonl")
    after_two = [record["step"] for record in steps if record["kind"] == "epoch"][1] + 1
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, after_two, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run([*command, "--output", str(tmp_path / "stopped")]) == 143
    if settings == ["teacher.keep=last"]:
        assert load_checkpoint(tmp_path / "stopped/cls_best.pth").epoch == 2
    else:
        assert len(read(tmp_path / "stopped/cls_last.pth")["training"]["recent"]) == 2
    assert run([*command, "--output", str(tmp_path / "stopped"), "--resume"]) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped", "cls")


def without_labels(tiny_data, root, split="val"):
    """A copy of the tiny data; of a split's boxes nothing is left."""
    shutil.copytree(tiny_data, root)
    path = root / "mini_coco_det" / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    return root


@pytest.mark.parametrize("settings", [[], ["--set", "teacher.best_mean=2", "--set", "teacher.patience=1"]])
def test_fault_88_val_without_a_label(tiny_data, tmp_path, capsys, settings):
    """If nothing in val is labelled, no score counts as 0: the last weights are kept, patience does not end the run,
    and a warning says so, also with --quiet."""
    data = without_labels(tiny_data, tmp_path / "data")
    where = ["--data", str(data), "--output", str(tmp_path), "--epochs", "3", *SMALL, *settings]
    assert run(["train-teacher", "--task", "det", *where]) == 0
    best, last = load_checkpoint(tmp_path / "det_best.pth"), load_checkpoint(tmp_path / "det_last.pth")
    assert best.epoch == last.epoch == 3 and best.scores == {"map": None, "map50": None}
    assert all(torch.equal(best.weights[key], value) for key, value in last.weights.items())
    warning = "warning: nothing in val is labelled for det, so no epoch is the best: the last one's weights are kept"
    assert capsys.readouterr().err.count(warning) == 1
    records = [record for record in lines(tmp_path / "det.jsonl") if record["kind"] == "epoch"]
    assert [record["criterion"] for record in records] == [None] * 3 and not any(r["best"] for r in records)


def test_a_task_that_val_cannot_measure_has_no_part_in_the_choice(tiny_data, tmp_path, capsys):
    """The student's best epoch is that of the other tasks' mean; their scores are in its log."""
    data = without_labels(tiny_data, tmp_path / "data")
    where = ["--data", str(data), "--output", str(tmp_path), "--epochs", "3", *SMALL]
    assert run(["train-unified", "--lambda-distill", "0", *where]) == 0
    assert (
        "nothing in val is labelled for det, which does not count in choosing the best epoch" in capsys.readouterr().err
    )
    records = [record for record in lines(tmp_path / "all.jsonl") if record["kind"] == "epoch"]
    means = [(record["scores"]["top1"] + record["scores"]["miou"]) / 2 for record in records]
    assert [record["criterion"] for record in records] == pytest.approx(means)
    assert load_checkpoint(tmp_path / "all_best.pth").epoch == 1 + means.index(max(means))


def test_a_teacher_without_a_score_is_not_one_with_the_score_0(tiny_data, tmp_path, capsys):
    """The student is then judged by the mean score, and a warning says so."""
    data = without_labels(tiny_data, tmp_path / "data")
    where = ["--data", str(data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", "all", *where]) == 0
    path = data / "mini_coco_det" / "annotations" / "instances_val.json"
    shutil.copy(tiny_data / "mini_coco_det" / "annotations" / "instances_val.json", path)
    assert run(["train-unified", *where]) == 0
    assert "the teacher of det has no score on val, so the best epoch is chosen by" in capsys.readouterr().err
    [record] = [record for record in lines(tmp_path / "all.jsonl") if record["kind"] == "epoch"]
    scores = record["scores"]
    assert record["criterion"] == pytest.approx((scores["top1"] + scores["miou"] + scores["map"]) / 3)
