"""train-teacher and train-unified through the real entry point."""

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from runs import lines, read
from tiny import SMALL, TINY

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from onehead_cli.errors import CheckpointError
from onehead_cli.registry import TASKS

#: Without that for one's own data, whose paths have a test of their own.
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("[!o]*.yaml"))


def test_the_chain_leaves_its_files(trained):
    for name in ("cls", "seg", "det", "all"):
        files = {f"{name}_{which}.pth" for which in ("best", "last", "previous")} | {f"{name}.jsonl"}
        assert {p.name for p in trained.glob(f"{name}*")} == files
    locks = {f".{name}.lock" for name in ("cls", "seg", "det", "all")}
    assert {path.name for path in trained.glob(".*")} == {".scan.json", *locks}  # no temporary file is left
    best = load_checkpoint(trained / "all_best.pth")
    assert best.architecture.tasks == TASKS and not best.training
    assert best.preprocess == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "image_size": 64,
        "fit": "resize",
    }
    assert len(best.thresholds["boxes"]) == 10 and 0 <= best.thresholds["cells"] < 1
    assert set(best.scores) == {"top1", "top5", "miou", "pixel_accuracy", "map", "map50"}
    assert best.architecture.classes["seg"][0] == "background"


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


def test_training_reads_only_train_and_val(tiny_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for folder in ("imagenette-160/test", "mini_voc_seg/test", "mini_coco_det/test"):
        shutil.rmtree(root / folder)
    (root / "mini_coco_det/annotations/instances_test.json").unlink()
    where = ["--data", str(root), "--output", str(tmp_path / "out"), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", "det", *where]) == 0
    assert run(["train-unified", "--lambda-distill", "0", *where]) == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_trains(config, tiny_data, tmp_path):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", "--no-pretrained", *TINY]
    # ImageNet does not know the drawn classes, and there are no weights of it.
    of_imagenet = ("teacher.imagenet_teacher", "student.imagenet_teacher")
    of_imagenet += ("model.imagenet_classes", "model.class_evidence")
    where += [part for key in of_imagenet for part in ("--set", f"{key}=false")]
    assert run(["train-teacher", "--task", "all", "--config", str(config), *where]) == 0
    assert run(["train-unified", "--config", str(config), *where]) == 0
    assert (tmp_path / "all_best.pth").is_file()


def test_losses_weights_and_batch_norm_by_choice(tiny_data, tmp_path):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", "--lambda-distill", "0", *SMALL]
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
    """A loss that is not finite ends the run before the step, names task and images, and leaves the last save."""
    from onehead_cli.tasks.segmentation import task as segmentation

    real, calls = segmentation.segmentation_loss, []

    def broken(maps, masks, **how):
        calls.append(1)
        return real(maps, masks, **how) * (float("nan") if len(calls) > 9 else 1)

    monkeypatch.setattr(segmentation, "segmentation_loss", broken)
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
        *SMALL,
    ]
    assert run(base) == 1
    message = capsys.readouterr().err
    assert "loss 'seg' is nan on the batch" in message and ".jpg" in message
    saved = read(tmp_path / "seg_last.pth")
    assert saved["epoch"] >= 1
    assert all(torch.isfinite(v).all() for v in saved["weights"].values())
    assert all(torch.isfinite(v).all() for v in saved["training"]["model"].values())


def test_fault_49_a_task_weight_under_its_floor_is_warned_about_once(tiny_data, tmp_path, capsys):
    """A task weight under `student.weights_floor` is warned about, once per task."""
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "2", "--lambda-distill", "0", *SMALL]
    extra = ["--set", "student.task_weights=fixed", "--set", "student.fixed_weights.seg=0.01"]
    assert run(["train-unified", *where, *extra]) == 0
    assert capsys.readouterr().err.count("weight of task seg is 0.005, below 0.05") == 1


def test_fault_42_resuming_with_another_config_lists_the_keys(tiny_data, trained, capsys):
    """A run is not resumed with settings other than its own: one line lists each key with both values."""
    where = ["--data", str(tiny_data), "--output", str(trained), *TINY]
    assert run(["train-teacher", "--task", "cls", *where, "--epochs", "3", "--lr", "0.5", "--resume"]) == 1
    message = capsys.readouterr().err
    assert "teacher.epochs was 2, now 3" in message and "teacher.lr was 0.001, now 0.5" in message


def test_a_run_is_not_resumed_on_other_classes_or_images(tiny_data, trained, tmp_path, capsys):
    root, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_data, root)
    output.mkdir()
    shutil.copy(trained / "cls_last.pth", output)
    command = ["train-teacher", "--task", "cls", "--data", str(root), "--output", str(output), "--epochs", "2", *TINY]
    extra = next((root / "imagenette-160" / "train" / "arrow").iterdir())
    shutil.copy(extra, extra.with_name("again.jpg"))
    assert run([*command, "--resume"]) == 1
    assert "trained on other data: {'cls': 12} images, now {'cls': 13}" in capsys.readouterr().err
    for split in ("train", "val", "test"):
        (root / "imagenette-160" / split / "arrow").rename(root / "imagenette-160" / split / "zebra")
    assert run([*command, "--resume"]) == 1
    message = capsys.readouterr().err
    assert "trained on other cls classes: arrow, ball" in message and "zebra" in message


def test_a_student_is_not_resumed_with_other_teachers(tiny_data, trained, tmp_path, capsys):
    shutil.copy(trained / "all_last.pth", tmp_path)
    for task in TASKS:
        shutil.copy(trained / f"{task}_best.pth", tmp_path)
    teacher = load_checkpoint(tmp_path / "seg_best.pth")
    teacher.scores["miou"] += 0.25
    save_checkpoint(tmp_path / "seg_best.pth", teacher)
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "2", *TINY]
    assert run(["train-unified", *where, "--resume"]) == 1
    assert "trained with other teachers" in capsys.readouterr().err


def test_a_new_round_is_not_resumed_from_an_older_one(tiny_data, trained, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    for task in TASKS:
        shutil.copy(trained / f"{task}_last.pth", output)
    from onehead_cli.training.log import RunLog

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
    from onehead_cli.training import saves as saver

    epochs, save = [], saver.save_checkpoint
    monkeypatch.setattr(
        saver,
        "save_checkpoint",
        lambda path, c, **more: (epochs.append((path.name, c.epoch)), save(path, c, **more)),
    )
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "3", *SMALL]
    assert run(["train-teacher", "--task", "cls", *where, "--set", "teacher.eval_every=2"]) == 0
    assert [e for name, e in epochs if name == "cls_last.pth"] == [1, 2, 3]
    assert 1 not in [e for name, e in epochs if name == "cls_best.pth"]
    records = [r for r in lines(tmp_path / "cls.jsonl") if r["kind"] == "epoch"]
    assert [bool(r["scores"]) for r in records] == [False, True, True] and records[0]["criterion"] is None


def test_patience_ends_a_training_that_no_longer_gains(tiny_data, tmp_path, monkeypatch, capsys):
    from onehead_cli.training import setup

    real, criteria = setup.validate, iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    monkeypatch.setattr(setup, "validate", lambda *a, **k: dataclasses.replace(real(*a, **k), criterion=next(criteria)))
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "6", *SMALL[:-1]]
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
    from onehead_cli.files import atomic

    path = tmp_path / "cls_best.pth"
    shutil.copy(trained / "cls_best.pth", path)
    before, loaded = path.read_bytes(), load_checkpoint(path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
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


def test_fault_39_output_that_cannot_be_written_is_noticed_before_training(tiny_data, tmp_path, monkeypatch, capsys):
    """An output folder that cannot be written is one line before any data or network is loaded."""
    monkeypatch.setattr("onehead_cli.training.run.architecture_for", lambda *args: pytest.fail("it began"))
    (tmp_path / "file").write_text("")
    read_only = tmp_path / "read-only"
    read_only.mkdir(mode=0o500)
    outputs = [tmp_path / "file" / "x"] if os.access(read_only, os.W_OK) else [tmp_path / "file" / "x", read_only]
    for output in outputs:  # root may write into any folder
        assert run(["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(output)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"output folder {output} cannot be written" in line and "--output" in line


def test_an_evaluation_that_could_not_be_written_does_not_begin(trained, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("onehead_cli.evaluation.compare.scan_for_run", lambda *args: pytest.fail("it began"))
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "x"
    checkpoint = ["--checkpoint", str(trained / "all_best.pth")]
    assert run(["evaluate", "--data", str(tiny_data), "--output", str(output), *checkpoint]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"output folder {output} cannot be written" in line


def test_fault_34_a_batch_of_one_is_trained_and_evaluated(tiny_data, tmp_path):
    """A batch of one image, the last of an evaluation or all of a training, gives finite losses and scores."""
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    sizes = ["--set", "teacher.batch_size=1", "--set", "model.batch_norm=train", "--set", "evaluation.batch_size=9"]
    assert run(["train-teacher", "--task", "det", *where, *sizes]) == 0  # val has 10 images
    records = lines(tmp_path / "det.jsonl")
    assert [r["kind"] for r in records] == ["scan"] + ["step"] * 12 + ["epoch"]
    assert all(math.isfinite(r["loss"]) for r in records[1:-1])
    assert math.isfinite(records[-1]["scores"]["map"])


def real_allocation():
    torch.empty(2**60, dtype=torch.uint8)


def gpu_allocation():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")


def gpu_library_allocation():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def python_allocation():
    bytearray(2**62)


@pytest.mark.parametrize("allocate", [real_allocation, gpu_allocation, gpu_library_allocation, python_allocation])
def test_fault_35_out_of_memory_is_one_line_with_advice(
    allocate, teacher_command, stopped, tmp_path, monkeypatch, capsys
):
    """Out of memory, on CPU or GPU, is one line that names --batch-size and --image-size; the last save is whole."""
    from onehead_cli.tasks.classification import task as classification

    shutil.copytree(stopped, tmp_path / "out")
    before = (tmp_path / "out" / "cls_last.pth").read_bytes()
    monkeypatch.setattr(classification, "classification_loss", lambda *args, **kwargs: allocate())
    assert run([*teacher_command, "--output", str(tmp_path / "out"), "--resume"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "error: out of memory: lower --batch-size or --image-size"
    assert (tmp_path / "out" / "cls_last.pth").read_bytes() == before and not list(tmp_path.rglob("*.tmp"))


def test_teachers_of_other_classes_are_refused(tiny_data, trained, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    for split in ("train", "val", "test"):
        folder = sorted((root / "imagenette-160" / split).iterdir())[0]
        folder.rename(folder.with_name("aardvark"))
    where = ["--data", str(root), "--output", str(tmp_path), "--teachers", str(trained), *TINY]
    assert run(["train-unified", *where]) == 1
    assert "teacher cls knows the classes" in capsys.readouterr().err
