"""The ImageNet classifier of each cell as a teacher, and dropout: the objective's term, resuming, several processes."""

from __future__ import annotations

import os
import signal

import pytest
import timm
import torch
from processes import in_turn
from runs import assert_same_run, at_step, lines, read
from safetensors.torch import save_file
from test_buffer import make_batches, make_objective
from tiny import SMALL
from torch.nn import functional as F

from onehead_cli.app import run
from onehead_cli.errors import NonFiniteLossError
from onehead_cli.network.backbone import create_backbone
from onehead_cli.network.imagenet import ImageNetCells
from onehead_cli.registry import TASKS
from onehead_cli.tasks.soft_targets import distil_cells
from onehead_cli.training import terms
from onehead_cli.training.loop import gather_buffer

BACKBONE = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights that stands for the pretrained ones."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model(BACKBONE, pretrained=False).state_dict(), path)
    return ["--backbone-weights", str(path)]


@pytest.fixture
def with_cells(monkeypatch):
    """Builds an objective with the cells of a classifier of random weights; gives both."""

    def build(weight, *, teachers=False, backbone=BACKBONE):
        torch.manual_seed(5)
        features = create_backbone(backbone)
        cells = ImageNetCells(features, torch.nn.Linear(features.out_channels, 7))
        monkeypatch.setattr(terms, "imagenet_cells", lambda *of: cells)
        return make_objective(torch.float32, teachers, segmentation={"imagenet_cells": weight}), cells

    return build


@pytest.mark.parametrize("teachers", [False, True])
def test_the_term_is_the_mean_over_all_images_with_a_weight_of_its_own(teachers, with_cells):
    [batch] = make_batches(1, torch.float32)
    plain, parts_before = make_objective(torch.float32, teachers)(batch)
    objective, cells = with_cells(0.5, teachers=teachers)
    objective.normaliser.update({"kd_cells": 4.0}, first_epoch=True)
    total, parts = objective(batch)
    images = torch.cat([part.images for part in batch.values()])
    trunk = objective.model.trunk(images)
    features = objective.model.features(trunk)
    mine = objective.terms["cells"].layer(F.avg_pool2d(features, 2))
    assert mine.shape == (6, 7, 2, 2)
    expected = distil_cells(mine, cells(images), temperature=2.0).mean().item()
    assert parts["kd_cells"].item() == pytest.approx(expected, rel=1e-4) and expected > 0
    assert total.item() == pytest.approx(plain.item() + 0.5 * expected / 4, rel=1e-4)
    assert {name: parts[name].item() for name in parts_before} == {n: p.item() for n, p in parts_before.items()}


def test_its_layer_learns_as_in_one_big_batch_and_the_classifier_does_not(with_cells):
    batches = make_batches(2, torch.float32)
    objective, cells = with_cells(1.0)
    layer = objective.terms["cells"].layer
    objective.normaliser.update({"kd_cells": 1.0}, first_epoch=True)
    gather_buffer(objective, batches, 2)
    buffered = layer.weight.grad.clone()
    layer.zero_grad()
    objective.model.zero_grad()
    (sum(objective(batch)[0] for batch in batches) / 2).backward()
    torch.testing.assert_close(layer.weight.grad, buffered)
    assert buffered.any() and all(p.grad is None for p in cells.parameters())


def test_it_goes_on_from_the_trunk_of_the_network_where_that_is_its_own(with_cells):
    [batch] = make_batches(1, torch.float32)
    objective, cells = with_cells(1.0, backbone="test_efficientnet")
    objective.model.backbone = cells.backbone  # equal layers
    objective.model.upsample.conv = torch.nn.Conv2d(256, 2560, 1, bias=False)
    _, whole = objective(batch)
    objective.model.backbone.freeze(2)
    objective.terms["cells"]._split.clear()
    cells.forward = None  # not called
    _, shared = objective(batch)
    torch.testing.assert_close(shared["kd_cells"], whole["kd_cells"])


def test_a_loss_of_the_cells_that_is_no_number_names_all_images(with_cells):
    [batch] = make_batches(1, torch.float32)
    objective, _ = with_cells(1.0)
    torch.nn.init.constant_(objective.terms["cells"].layer.bias, torch.nan)
    with pytest.raises(NonFiniteLossError, match="'kd_cells' is nan on the batch a, b, c, d, e, f"):
        objective(batch)


@pytest.mark.parametrize("name", ["seg", "all"])
def test_a_run_with_all_keys_that_was_stopped_ends_as_one_that_was_not(name, weights, tiny_data, tmp_path):
    command = ["train-teacher", "--task", "seg"] if name == "seg" else ["train-unified", "--lambda-distill", "0"]
    command += ["--data", str(tiny_data), "--epochs", "2", *SMALL, *weights]
    section = {"imagenet_cells": 0.5, "lovasz": 0.3, "repeat_factor": 0.9, "copy_paste": 0.5}
    for setting in ("model.neck_dropout=0.3", *(f"segmentation.{key}={value}" for key, value in section.items())):
        command += ["--set", setting]
    assert run([*command, "--output", str(tmp_path / "straight")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run([*command, "--output", str(tmp_path / "stopped")]) == 143
    assert run([*command, "--output", str(tmp_path / "stopped"), "--resume"]) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped", name)
    last = read(tmp_path / "straight" / f"{name}_last.pth")
    assert last["training"]["auxiliary"]["cells.layer.weight"].shape == (1000, 640, 1, 1)
    assert not any("auxiliary" in key for key in last["weights"])
    steps = [record for record in lines(tmp_path / "straight" / f"{name}.jsonl") if record["kind"] == "step"]
    assert all(record["losses"]["kd_cells"] > 0 for record in steps)


def test_networks_without_segmentation_have_no_such_term(weights, tiny_data, tmp_path):
    command = ["train-teacher", "--task", "det", "--data", str(tiny_data), "--epochs", "1", *SMALL, *weights]
    assert run([*command, "--output", str(tmp_path), "--set", "segmentation.imagenet_cells=1"]) == 0
    assert read(tmp_path / "det_last.pth")["training"]["auxiliary"] == {}


def test_two_processes_agree_with_one(weights, tiny_data, tmp_path):
    command = ["train-unified", "--data", str(tiny_data), "--epochs", "1", "--lambda-distill", "0", *SMALL, *weights]
    command += ["--set", "student.batch_size=3", "--set", "model.precision=fp32", "--device", "cpu"]
    for setting in ("imagenet_cells=0.5", "lovasz=0.3", "repeat_factor=0.9", "copy_paste=0.8"):
        command += ["--set", f"segmentation.{setting}"]
    assert run([*command, "--output", str(tmp_path / "one")]) == 0
    [results] = in_turn(2, [[*command, "--output", tmp_path / "two"]], tmp_path)
    assert [code for code, _, _ in results] == [0, 0], results
    one, two = (
        next(record for record in lines(tmp_path / folder / "all.jsonl") if record["kind"] == "step")
        for folder in ("one", "two")
    )
    assert set(one["losses"]) == {*TASKS, "kd_cells"}
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
