"""The keys of detection in a training: what it weighs, logs, keeps and resumes by."""

from __future__ import annotations

import pytest
import torch
from loading import load_split
from runs import lines
from test_buffer import make_batches, make_objective
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.detection import reader as detection
from onehead_cli.tasks.detection.decode import decode_boxes
from onehead_cli.tasks.detection.loss import detection_loss
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.task import Setting, get_task
from onehead_cli.training.resume import changed_settings

ALL_KEYS = [
    "detection.confidence=varifocal",
    "detection.confidence_cost=0.5",
    "detection.ignore_iou=0.5",
    "detection.every_box=true",
    "detection.smallest=0.5",
    "detection.priors=kmeans",
    "detection.size_unit=cells",
    "detection.mask_box_weight=0.5",
    "distill.box_confidence=0.005",
    "student.normaliser_floor=0.2",
    "teacher.boxes_from_masks=true",
]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 3.0])
def test_images_with_boxes_from_masks_count_by_their_weight(weight):
    objective, [batch] = make_objective(torch.float32, teachers=False), make_batches(1, torch.float32)
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 50.0]], [[0.0, 0.0, 0.0, 0.0]]])
    labels, crowd = torch.tensor([[0], [-1]]), torch.zeros(2, 1, dtype=torch.bool)
    borrowed = DetectionTarget(boxes, labels, crowd, labelled=(0,), weight=weight)
    batch["seg"].also = {"det": borrowed}
    _, parts = objective(batch)
    maps = objective.model(torch.cat([part.images for part in batch.values()]))["det"]
    true = detection_loss(maps[4:], batch["det"].target, num_classes=2, image_size=64)
    from_masks = detection_loss(maps[2:4], borrowed, num_classes=2, image_size=64)
    expected = (true.sum() + weight * from_masks.sum()) / (2 + weight * 2)
    assert parts["det"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_boxes_of_masks_come_with_the_weight_of_the_config_and_the_classes_that_both_know(tiny_data):
    config = Config.model_validate({"data": {"root": tiny_data}, "detection": {"mask_box_weight": 0.25}})
    split = load_split("seg", "train", config)
    classes = {"seg": split.classes, "det": ["unknown", split.classes[2], split.classes[1]]}
    setting = Setting(Architecture("mobilenetv3_small_050", classes, ("det",)), config, config.teacher)
    get_task("det").borrow(split, setting)
    borrowed = split.batch([0]).also["det"]
    assert (borrowed.weight, borrowed.labelled) == (0.25, (1, 2))


def options(*settings):
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def changed(tiny_data, tmp_path_factory):
    """An output folder with small teachers and a student that were trained with every key changed."""
    output = tmp_path_factory.mktemp("changed")
    where = ["--data", str(tiny_data), "--output", str(output), "--epochs", "1", *SMALL, *options(*ALL_KEYS)]
    assert run(["train-teacher", "--task", "all", *where]) == 0
    assert run(["train-unified", *where, *options("student.from_teachers=true")]) == 0
    return output


def test_whether_confidence_ranks_boxes_is_logged_where_boxes_are_found(changed):
    for name in ("det", "all"):
        [epoch] = [line for line in lines(changed / f"{name}.jsonl") if line["kind"] == "epoch"]
        assert epoch["diagnostics"].keys() == {"box_spearman", "box_confidence"}
        assert -1 <= epoch["diagnostics"]["box_spearman"] <= 1
        assert 0 < epoch["diagnostics"]["box_confidence"] < 1
    [epoch] = [line for line in lines(changed / "cls.jsonl") if line["kind"] == "epoch"]
    assert epoch["diagnostics"] == {}


def test_a_checkpoint_says_what_its_sizes_are_counted_in(changed, tiny_data, tmp_path, monkeypatch):
    student, teacher = (load_checkpoint(changed / f"{name}_best.pth") for name in ("all", "det"))
    assert student.architecture.of_tasks["priors"] == teacher.architecture.of_tasks["priors"] != []
    assert student.architecture.of_tasks["size_unit"] == teacher.architecture.of_tasks["size_unit"] == "cells"
    assert student.reader("det", Config().evaluation).layout.size_unit == "cells"
    # The commands read by it, though their own default is to count in shares of the input.
    units = []

    def record(maps, classes, size_unit="input"):
        units.append(size_unit)
        return decode_boxes(maps, classes, size_unit)

    monkeypatch.setattr(detection, "decode_boxes", record)
    assert (
        run(["evaluate", "--no-report", "--data", str(tiny_data), "--output", str(changed), "--task", "det", "--quiet"])
        == 0
    )
    read = len(units)
    images = tiny_data / "mini_coco_det" / "test"
    assert run(["predict", str(images), "--output", str(tmp_path), "--checkpoint", str(changed / "all_best.pth")]) == 0
    assert 0 < read < len(units) and set(units) == {"cells"}


def test_a_student_counts_sizes_as_its_teachers_do(changed, tiny_data, tmp_path, capsys):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--teachers", str(changed), "--epochs", "1", *SMALL]
    assert run(["train-unified", *where]) == 1
    message = capsys.readouterr().err
    assert "teacher det cannot teach this student: it has sizes of boxes in units of cells, not of input" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("student.normaliser_floor", 0.2), ("detection.ignore_iou", 0.75), ("detection.priors", "kmeans")],
)
def test_a_detection_teacher_is_not_resumed_with_another_key(key, value):
    before, now = load_config(), load_config(overrides={key: value})
    assert [line.split()[0] for line in changed_settings(before.model_dump(mode="json"), now, "det")] == [key]
