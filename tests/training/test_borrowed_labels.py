"""What one task learns from another's labels: the objective against its parts, and the keys through the commands."""

from __future__ import annotations

import json

import pytest
import torch
from test_buffer import make_batches, make_objective, teachers_of
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.config.sections import Config
from onehead_cli.tasks.classification.loss import distil_classes
from onehead_cli.tasks.detection.loss import detection_loss
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.soft_targets import distil_cells
from onehead_cli.training import terms
from onehead_cli.training.terms import Pass

LABELLED = (0,)  # detection class 0 is in the masks too; class 1 is labelled on detection images alone


def _images(batch):
    return torch.cat([part.images for part in batch.values()])


def test_detection_learns_from_boxes_of_masks_as_the_mean_over_both_kinds_of_images():
    objective, [batch] = make_objective(torch.float32, teachers=False), make_batches(1, torch.float32)
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 50.0]], [[0.0, 0.0, 0.0, 0.0]]])
    borrowed = DetectionTarget(boxes, torch.tensor([[0], [-1]]), torch.zeros(2, 1, dtype=torch.bool), LABELLED)
    batch["seg"].also = {"det": borrowed}
    _, parts = objective(batch)
    maps = objective.model(_images(batch))["det"]
    sizes = {"num_classes": 2, "image_size": 64}
    own = detection_loss(maps[4:], batch["det"].target, **sizes)
    from_masks = detection_loss(maps[2:4], borrowed, **sizes)
    assert parts["det"].item() == pytest.approx((own.sum() + from_masks.sum()).item() / 4, rel=1e-5)


def test_a_detection_teacher_may_see_segmentation_images_for_their_boxes_alone():
    objective, [batch] = make_objective(torch.float32, teachers=False), make_batches(1, torch.float32)
    padding, none = torch.full((2, 1), -1), torch.zeros(2, 1, dtype=torch.bool)
    boxes = DetectionTarget(torch.zeros(2, 1, 4), padding, none, LABELLED)
    batch["seg"].also = {"det": boxes}
    only, images = {"seg": batch["seg"]}, batch["seg"].images
    trunk = objective.model.trunk(images)
    features = objective.model.features(trunk)
    outputs = {"det": objective.model.maps(features)["det"]}
    parts = objective.supervised(Pass(objective.model, only, images, trunk, features, outputs, torch.float32))
    expected = detection_loss(outputs["det"], boxes, num_classes=2, image_size=64).mean()
    assert list(parts) == ["det"] and parts["det"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_teacher_labels_the_images_of_all_tasks_where_asked():
    [batch], found = make_batches(1, torch.float32), {}
    for images in ("own", "all"):
        objective = make_objective(torch.float32, distill={"images": images})
        found[images] = objective(batch)[1]["kd_seg"].item()
    with torch.no_grad():
        student = objective.model(_images(batch))["seg"]
        teacher = teachers_of(objective)["seg"](_images(batch))["seg"]
    each = distil_cells(student, teacher, temperature=Config().distill.temperature)
    assert found == pytest.approx({"own": each[2:4].mean().item(), "all": each.mean().item()}, rel=1e-5)


class _Said(torch.nn.Module):
    """A classifier that says the same of the first image, of the second, ..., whatever they show."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits[: len(images)]


def test_the_backbone_s_classifier_is_one_more_teacher(monkeypatch):
    [batch] = make_batches(1, torch.float32)
    plain, _ = make_objective(torch.float32)(batch)
    said = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
    monkeypatch.setattr(terms, "imagenet_classifier", lambda *of: _Said(said))
    objective = make_objective(torch.float32, student={"imagenet_teacher": True})
    total, parts = objective(batch)
    student = objective.model(_images(batch))["cls"][:2]
    settings = {"cell_threshold": Config().model.cell_threshold, "temperature": 2.0}
    term = distil_classes(student, said[..., None, None], **settings).mean()
    assert parts["kd_imagenet"].item() == pytest.approx(term.item(), rel=1e-5)
    # Four teachers instead of three share lambda; the new term, which has no running mean yet, is divided by itself.
    share = Config().distill.lambda_
    others = sum(
        parts[name].item() / objective.normaliser.scale(name, parts[name]) for name in ("kd_cls", "kd_seg", "kd_det")
    )
    expected = plain.item() - share / 3 * others + share / 4 * (others + 1)
    assert total.item() == pytest.approx(expected, rel=1e-4)


def test_the_backbone_s_classifier_is_asked_about_the_images_of_all_tasks_where_asked(monkeypatch):
    [batch] = make_batches(1, torch.float32)
    said = torch.arange(3.0 * len(_images(batch))).reshape(-1, 3).sin()
    monkeypatch.setattr(terms, "imagenet_classifier", lambda *of: _Said(said))
    objective = make_objective(
        torch.float32, student={"imagenet_teacher": True}, distill={"imagenet_images": "all", "images": "own"}
    )
    _, parts = objective(batch)
    with torch.no_grad():
        student = objective.model(_images(batch))["cls"]
    settings = {"cell_threshold": Config().model.cell_threshold, "temperature": 2.0}
    each = distil_classes(student, said[..., None, None], **settings)
    assert len(each) > 2 and parts["kd_imagenet"].item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_a_detection_teacher_trains_on_the_boxes_of_masks(tiny_data, tmp_path):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", "det", *where, "--set", "teacher.boxes_from_masks=true"]) == 0
    last = torch.load(tmp_path / "det_last.pth", weights_only=True)
    assert last["training"]["pictures"] == {"det": 12, "seg": 12}
    scan = json.loads((tmp_path / "det.jsonl").read_text().splitlines()[0])
    assert scan["skipped"] == {"det": {"train": 0, "val": 0}}


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        (["teacher.imagenet_teacher=true"], 2, "arrow is not an ImageNet class"),
        (["teacher.boxes_from_masks=true", "data.tasks=[cls,det]"], 2, "boxes_from_masks: "),
        (["teacher.boxes_from_masks=true", "model.detection_loss=yolov1"], 2, "needs model.detection_loss=quality"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line(tiny_data, tmp_path, capsys, settings, code, message):
    task = "cls" if "imagenet" in settings[0] else "det"
    options = [part for setting in settings for part in ("--set", setting)]
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", task, *where, *options]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
