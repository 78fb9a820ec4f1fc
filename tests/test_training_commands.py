"""train-teacher and train-unified through the real entry point."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import TINY

from onehead_cli.app import run
from onehead_cli.checkpoint import load_checkpoint, save_checkpoint
from onehead_cli.errors import CheckpointError
from onehead_cli.types import TASKS, Task

#: Without that for one's own data, whose paths have a test of their own.
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("[!o]*.yaml"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(records):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records if r["kind"] != "resumed"]


def same(a, b):
    """Equal to the last bit, whatever the nesting."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def read(path):
    return torch.load(path, weights_only=True)


def test_the_chain_leaves_its_files(trained):
    for name in ("cls", "seg", "det", "all"):
        assert {p.name for p in trained.glob(f"{name}*")} >= {f"{name}_best.pth", f"{name}_last.pth", f"{name}.jsonl"}
    assert [path.name for path in trained.glob(".*")] == [".scan.json"]  # no temporary file is left
    best = load_checkpoint(trained / "all_best.pth")
    assert best.architecture.tasks == TASKS and not best.training
    assert best.preprocess == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "image_size": 64,
        "fit": "resize",
    }
    assert len(best.thresholds.boxes) == 10 and 0 <= best.thresholds.cells < 1
    assert set(best.scores) == {"top1", "top5", "miou", "pixel_accuracy", "map", "map50"}
    assert best.architecture.classes[Task.SEG][0] == "background"


def test_the_log_has_every_step_with_losses_and_weights(trained):
    records = lines(trained / "all.jsonl")
    steps = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, steps[0]["total_steps"] + 1))
    for record in steps:
        assert set(record["losses"]) == {"cls", "seg", "det", "kd_cls", "kd_seg", "kd_det"}
        assert sum(record["weights"].values()) == pytest.approx(1)
    assert [r["epoch"] for r in records if r["kind"] == "epoch"] == [1, 2]


def test_the_best_student_has_the_largest_smallest_gain(trained):
    teachers = {t: load_checkpoint(trained / f"{t}_best.pth").scores for t in TASKS}
    metric = {"cls": "top1", "seg": "miou", "det": "map"}
    epochs = [r for r in lines(trained / "all.jsonl") if r["kind"] == "epoch"]
    for record in epochs:
        gains = [record["scores"][metric[t]] - teachers[t][metric[t]] for t in TASKS]
        assert record["criterion"] == pytest.approx(min(gains))
    best = max(epochs, key=lambda r: r["criterion"])
    assert load_checkpoint(trained / "all_best.pth").epoch == best["epoch"]


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_stopped_and_resumed_run_equals_one_that_was_not(name, tiny_data, trained, tmp_path, monkeypatch, capsys):
    if name == "teacher":
        command, file, stop_at = ["train-teacher", "--task", "seg"], "seg", 4
    else:
        command, file, stop_at = ["train-unified", "--teachers", str(trained)], "all", 3
        command += ["--set", "student.buffer_size=2"]
    base = [*command, "--data", str(tiny_data), "--epochs", "2", *TINY[:-1]]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run([*base, "--output", str(straight)]) == 0

    from onehead_cli.training.runlog import RunLog

    write = RunLog.write

    def interrupt(self, info):
        write(self, info)
        if type(info).__name__ == "StepInfo" and info.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "write", interrupt)
    assert run([*base, "--output", str(stopped)]) == 143
    monkeypatch.setattr(RunLog, "write", write)
    message = capsys.readouterr().err
    assert f"stopped at step {stop_at} of" in message and "--resume" in message

    assert run([*base, "--output", str(stopped), "--resume"]) == 0
    assert "resumed from epoch " in capsys.readouterr().err
    a, b = read(straight / f"{file}_last.pth"), read(stopped / f"{file}_last.pth")
    a["config"]["output"] = b["config"]["output"]
    assert a["training"]["step"] > stop_at
    assert same(a, b)
    a, b = read(straight / f"{file}_best.pth"), read(stopped / f"{file}_best.pth")
    assert same(a["weights"], b["weights"]) and a["epoch"] == b["epoch"]
    assert timeless(lines(straight / f"{file}.jsonl")) == timeless(lines(stopped / f"{file}.jsonl"))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tiny_data, trained, tmp_path):
    base = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--epochs", "2", *TINY]
    assert run([*base, "--output", str(tmp_path / "a")]) == 0
    weights = read(tmp_path / "a" / "cls_last.pth")["weights"]
    assert same(weights, read(trained / "cls_last.pth")["weights"])
    assert run([*base, "--output", str(tmp_path / "b"), "--seed", "1"]) == 0
    assert not same(weights, read(tmp_path / "b" / "cls_last.pth")["weights"])


def test_training_reads_only_train_and_val(tiny_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for folder in ("imagenette-160/test", "mini_voc_seg/test", "mini_coco_det/test"):
        shutil.rmtree(root / folder)
    (root / "mini_coco_det/annotations/instances_test.json").unlink()
    where = ["--data", str(root), "--output", str(tmp_path / "out"), "--epochs", "1", *TINY]
    assert run(["train-teacher", "--task", "det", *where]) == 0
    assert run(["train-unified", "--lambda-distill", "0", *where]) == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_trains(config, tiny_data, tmp_path):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", "--no-pretrained", *TINY]
    assert run(["train-teacher", "--task", "cls", "--config", str(config), *where]) == 0
    assert run(["train-unified", "--lambda-distill", "0", "--config", str(config), *where]) == 0
    assert (tmp_path / "all_best.pth").is_file()


def test_losses_weights_and_batch_norm_by_choice(tiny_data, tmp_path):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", "--lambda-distill", "0", *TINY]
    choices = [
        "model.detection_loss=yolov1",
        "student.task_weights=fixed",
        "student.fixed_weights.det=2",
        "model.batch_norm=slow",
        "data.fit=letterbox",
        "model.precision=fp32",
    ]
    assert run(["train-unified", *where, *[a for c in choices for a in ("--set", c)]]) == 0
    steps = [r for r in lines(tmp_path / "all.jsonl") if r["kind"] == "step"]
    assert {tuple(r["weights"].values()) for r in steps} == {(0.25, 0.25, 0.5)}
    assert load_checkpoint(tmp_path / "all_best.pth").preprocess["fit"] == "letterbox"


def test_a_missing_teacher_is_an_error_that_says_what_to_do(tiny_data, trained, tmp_path, capsys):
    shutil.copy(trained / "cls_best.pth", tmp_path)
    code = run(["train-unified", "--data", str(tiny_data), "--output", str(tmp_path), *TINY])
    message = capsys.readouterr().err
    assert code == 1 and message.count("\n") == 1
    assert "seg_best.pth" in message and "cls_best.pth" not in message and "--lambda-distill 0" in message


def test_fault_32_loss_that_is_not_finite_stops_before_the_step(tiny_data, tmp_path, monkeypatch, capsys):
    from onehead_cli.training import objective

    real, calls = objective.segmentation_loss, []

    def broken(maps, masks):
        calls.append(1)
        return real(maps, masks) * (float("nan") if len(calls) > 9 else 1)

    monkeypatch.setattr(objective, "segmentation_loss", broken)
    base = [
        "train-teacher",
        "--task",
        "seg",
        "--data",
        str(tiny_data),
        "--output",
        str(tmp_path),
        "--epochs",
        "9",
        *TINY,
    ]
    assert run(base) == 1
    message = capsys.readouterr().err
    assert "loss 'seg' is nan on the batch" in message and ".jpg" in message
    saved = read(tmp_path / "seg_last.pth")
    assert saved["epoch"] >= 1
    assert all(torch.isfinite(v).all() for v in saved["weights"].values())
    assert all(torch.isfinite(v).all() for v in saved["training"]["model"].values())


def test_fault_49_a_task_weight_under_its_floor_is_warned_about_once(tiny_data, tmp_path, capsys):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "2", "--lambda-distill", "0", *TINY]
    extra = ["--set", "student.task_weights=fixed", "--set", "student.fixed_weights.seg=0.01"]
    assert run(["train-unified", *where, *extra]) == 0
    assert capsys.readouterr().err.count("weight of task seg is 0.005, below 0.05") == 1


def test_fault_42_resuming_with_another_config_lists_the_keys(tiny_data, trained, capsys):
    where = ["--data", str(tiny_data), "--output", str(trained), *TINY]
    assert run(["train-teacher", "--task", "cls", *where, "--epochs", "3", "--lr", "0.5", "--resume"]) == 1
    message = capsys.readouterr().err
    assert "teacher.epochs was 2, now 3" in message and "teacher.lr was 0.001, now 0.5" in message


def test_a_run_is_not_resumed_on_other_classes_or_pictures(tiny_data, trained, tmp_path, capsys):
    root, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_data, root)
    output.mkdir()
    shutil.copy(trained / "cls_last.pth", output)
    command = ["train-teacher", "--task", "cls", "--data", str(root), "--output", str(output), "--epochs", "2", *TINY]
    extra = next((root / "imagenette-160" / "train" / "arrow").iterdir())
    shutil.copy(extra, extra.with_name("again.jpg"))
    assert run([*command, "--resume"]) == 1
    assert "trained on other data: {'cls': 12} pictures, now {'cls': 13}" in capsys.readouterr().err
    for split in ("train", "val", "test"):
        (root / "imagenette-160" / split / "arrow").rename(root / "imagenette-160" / split / "zebra")
    assert run([*command, "--resume"]) == 1
    message = capsys.readouterr().err
    assert "trained on other cls classes: arrow, ball" in message and "zebra" in message


def test_a_student_is_not_resumed_with_other_teachers(tiny_data, trained, tmp_path, capsys):
    shutil.copy(trained / "all_last.pth", tmp_path)
    for task in TASKS:
        shutil.copy(trained / f"{task}_best.pth", tmp_path)
    state = read(tmp_path / "seg_best.pth")
    state["scores"]["miou"] += 0.25
    torch.save(state, tmp_path / "seg_best.pth")
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "2", *TINY]
    assert run(["train-unified", *where, "--resume"]) == 1
    assert "trained with other teachers" in capsys.readouterr().err


def test_a_new_round_is_not_resumed_from_an_older_one(tiny_data, trained, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    for task in TASKS:
        shutil.copy(trained / f"{task}_last.pth", output)
    from onehead_cli.training.runlog import RunLog

    write = RunLog.write
    monkeypatch.setattr(RunLog, "write", lambda self, info: (write(self, info), os.kill(os.getpid(), signal.SIGINT)))
    where = ["--data", str(tiny_data), "--output", str(output), "--epochs", "2", *TINY]
    assert run(["train-teacher", "--task", "all", *where]) == 130
    assert [p.name for p in sorted(output.glob("*_last.pth"))] == ["cls_last.pth"]
    capsys.readouterr()


def test_a_best_file_is_not_taken_for_a_last_one(tiny_data, trained, tmp_path, capsys):
    shutil.copy(trained / "cls_best.pth", tmp_path / "cls_last.pth")
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "2", *TINY]
    assert run(["train-teacher", "--task", "cls", *where, "--resume"]) == 1
    assert "holds no training state" in capsys.readouterr().err


def test_every_epoch_is_saved_and_logged_also_without_an_evaluation(tiny_data, tmp_path, monkeypatch):
    from onehead_cli.training import run as training_run

    epochs, save = [], training_run.save_checkpoint
    monkeypatch.setattr(
        training_run, "save_checkpoint", lambda path, c: (epochs.append((path.name, c.epoch)), save(path, c))
    )
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "3", *TINY]
    assert run(["train-teacher", "--task", "cls", *where, "--set", "teacher.eval_every=2"]) == 0
    assert [e for name, e in epochs if name == "cls_last.pth"] == [1, 2, 3]
    assert 1 not in [e for name, e in epochs if name == "cls_best.pth"]
    records = [r for r in lines(tmp_path / "cls.jsonl") if r["kind"] == "epoch"]
    assert [bool(r["scores"]) for r in records] == [False, True, True] and records[0]["criterion"] is None


def test_patience_ends_a_training_that_no_longer_gains(tiny_data, tmp_path, monkeypatch, capsys):
    from onehead_cli.training import setup

    real, criteria = setup.validate, iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    monkeypatch.setattr(setup, "validate", lambda *a, **k: dataclasses.replace(real(*a, **k), criterion=next(criteria)))
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "6", *TINY[:-1]]
    command = ["train-teacher", "--task", "cls", *where, "--set", "teacher.patience=3"]
    assert run(command) == 0
    assert "no new best in 3 evaluations" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "cls_best.pth").epoch == 2
    assert load_checkpoint(tmp_path / "cls_last.pth").epoch == 5
    assert run([*command, "--resume"]) == 0  # it stays ended
    assert load_checkpoint(tmp_path / "cls_last.pth").epoch == 5


def test_without_all_teachers_the_mean_score_chooses(tiny_data, trained, tmp_path):
    shutil.copy(trained / "cls_best.pth", tmp_path)
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", "--lambda-distill", "0", *TINY]
    assert run(["train-unified", *where]) == 0
    record = [r for r in lines(tmp_path / "all.jsonl") if r["kind"] == "epoch"][-1]
    scores = [record["scores"][name] for name in ("top1", "miou", "map")]
    assert record["criterion"] == pytest.approx(sum(scores) / 3)


def test_a_save_that_fails_keeps_the_old_file_and_leaves_no_other(trained, tmp_path, monkeypatch):
    from onehead_cli import checkpoint as module

    path = tmp_path / "cls_best.pth"
    shutil.copy(trained / "cls_best.pth", path)
    before, loaded = path.read_bytes(), load_checkpoint(path)

    def half(document, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", half)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, loaded)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_checkpoints_can_be_read_by_others(trained):
    umask = os.umask(0)
    os.umask(umask)
    assert (trained / "cls_best.pth").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_finished_run_resumed_has_nothing_left_to_do(tiny_data, trained, capsys):
    before = (trained / "cls_best.pth").read_bytes()
    where = ["--data", str(tiny_data), "--output", str(trained), "--epochs", "2", *TINY]
    assert run(["train-teacher", "--task", "cls", *where, "--resume", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1 and document["networks"]["cls"]["resumed_from_epoch"] == 2
    assert (trained / "cls_best.pth").read_bytes() == before


def test_resume_without_a_checkpoint_is_an_error(tiny_data, tmp_path, capsys):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), *TINY]
    assert run(["train-teacher", "--task", "all", *where, "--resume"]) == 1
    assert "nothing to resume" in capsys.readouterr().err


def test_fault_39_output_that_cannot_be_written_is_noticed_before_training(tiny_data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = run(["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(tmp_path / "file" / "x")])
    assert code == 1 and "cannot be written" in capsys.readouterr().err


def test_fault_40_a_damaged_and_fault_41_a_malicious_checkpoint_are_refused(tiny_data, trained, tmp_path, capsys):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    good = (trained / "cls_best.pth").read_bytes()
    shutil.copy(trained / "seg_best.pth", tmp_path)
    for content in (pickle.dumps(Payload()), good[: len(good) // 2], b""):
        (tmp_path / "cls_best.pth").write_bytes(content)
        assert run(["train-unified", "--data", str(tiny_data), "--output", str(tmp_path), *TINY]) == 1
        message = capsys.readouterr().err
        assert "cls_best.pth: not a readable checkpoint" in message and message.count("\n") == 1
    assert not marker.exists()


def test_teachers_of_other_classes_are_refused(tiny_data, trained, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for split in ("train", "val", "test"):
        folder = sorted((root / "imagenette-160" / split).iterdir())[0]
        folder.rename(folder.with_name("aardvark"))
    where = ["--data", str(root), "--output", str(tmp_path), "--teachers", str(trained), *TINY]
    assert run(["train-unified", *where]) == 1
    assert "teacher cls knows the classes" in capsys.readouterr().err
