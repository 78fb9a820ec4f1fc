"""The conflict between tasks: cosines worked out by hand, what is compared, and a training that it leaves as it is."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import at_step, differences, lines, read, timeless
from test_buffer import gradients, make_batches, make_objective
from tiny import SMALL
from torch import nn

from onehead_cli.app import run
from onehead_cli.errors import OneheadError
from onehead_cli.network.backbone import create_backbone
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.training.log import read_run
from onehead_cli.training.loop import gather_buffer
from onehead_cli.training.task_gradients import TaskGradients

PAIRS = ["cls-seg", "cls-det", "seg-det"]
STAGES = [*(f"backbone.stride{2**i}" for i in range(1, 6)), "upsample", "necks", "head"]


def measured(*steps, rows=slice(None)):
    """The cosines by pair for losses linear in one weight w: the loss g . w has the gradient g.

    steps: of each mini-batch, g by task.
    """
    weight = nn.Parameter(torch.tensor([0.5, -2.0]))
    found = TaskGradients(list(dict.fromkeys(task for step in steps for task in step)), {"all": [(weight, rows)]})
    for step in steps:
        found.add({task: torch.tensor(g) @ weight for task, g in step.items()})
    assert weight.grad is None
    return {pair: stages["all"] for pair, stages in found.cosines().items()}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 0.0], [2.0, 0.0], 1.0),
        ([1.0, 0.0], [0.0, 3.0], 0.0),
        ([1.0, 0.0], [-5.0, 0.0], -1.0),
        ([1.0, 0.0], [3.0, 4.0], 0.6),
        ([1.0, 0.0], [-3e-30, 4e-30], -0.6),  # whose squares are 0 in float32
        ([1.0, 0.0], [0.0, 0.0], None),
    ],
)
def test_the_cosine_of_two_losses_that_are_linear_in_the_weights(one, other, expected):
    [found] = measured({"a": one, "b": other}).values()
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-6))


def test_the_gradients_of_all_mini_batches_of_a_step_are_added_up():
    # (1, 0) + (2, 4) = (3, 4); b has an example in the second mini-batch alone, c in none.
    found = measured({"a": [1.0, 0.0]}, {"a": [2.0, 4.0], "b": [7.0, 0.0]}, {"c": [0.0, 0.0]})
    assert found == {"a-b": pytest.approx(0.6), "a-c": None, "b-c": None}


def test_only_the_rows_that_are_shared_are_compared():
    assert measured({"a": [1.0, 5.0], "b": [-2.0, 7.0]}, rows=slice(0, 1)) == {"a-b": -1.0}


vectors = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2)


@given(vectors, vectors, st.floats(2**-10, 2**10, width=32))
def test_a_cosine_lies_between_minus_1_and_1_whatever_the_losses_are_scaled_by(one, other, scale):
    found, reverse = measured({"a": one, "b": other})["a-b"], measured({"a": other, "b": one})["a-b"]
    assert found == reverse and (found is None or -1 <= found <= 1)
    bigger = [math.ldexp(x, math.frexp(scale)[1]) for x in other]  # by a power of two, which rounds nothing
    if found is not None and all(x == 0 or 1e-30 < abs(x) < 1e30 for x in bigger):
        assert measured({"a": one, "b": bigger})["a-b"] == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "resnet18"])
@pytest.mark.parametrize("skip", [False, True])
def test_what_is_compared_is_what_the_losses_of_two_tasks_reach(backbone, skip):
    """Asked of autograd, row by row; classes in such numbers that no two maps have as many channels."""
    classes = {"cls": ["a"], "seg": ["a", "b", "c"], "det": ["a", "b"]}
    torch.manual_seed(0)
    model = build_model(Architecture(backbone, classes, TASKS, skip=skip, of_tasks={"boxes_per_cell": 2}))
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # ResNet's blocks begin with a 0, which no gradient passes
    outputs = model.train()(torch.rand(2, 3, 64, 64))
    named = dict(model.named_parameters())
    reached = {name: torch.zeros(len(p), dtype=torch.long) for name, p in named.items()}
    for task in TASKS:
        loss = (outputs[task] * torch.randn_like(outputs[task])).sum()
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
        for name, grad in zip(named, found, strict=True):
            reached[name] += grad.flatten(1).any(1) if grad.ndim > 1 else grad != 0
    compared = {name: torch.zeros(len(p), dtype=torch.bool) for name, p in named.items()}
    names = {id(p): name for name, p in named.items()}
    for rows_of_stage in model.shared_stages().values():
        for parameter, rows in rows_of_stage:
            assert not compared[names[id(parameter)]].any(), "each is in one stage"
            compared[names[id(parameter)]][rows] = True
    assert list(model.shared_stages()) == STAGES
    for name, by_row in compared.items():
        if name.startswith(("head.", "identity.")):
            assert torch.equal(by_row, reached[name] >= 2), name
        else:
            assert by_row.all() and reached[name].max() == 3, name


def test_frozen_stages_are_left_out():
    classes, boxes = {task: ["a", "b"] for task in TASKS}, {"boxes_per_cell": 2}
    model = build_model(Architecture("tf_efficientnet_lite0", classes, TASKS, of_tasks=boxes))
    model.backbone.freeze(3)  # stem and blocks.0 to blocks.2
    assert list(model.shared_stages()) == STAGES[3:]


def test_a_backbones_stages_end_where_timm_says():
    for name in "tf_efficientnet_lite0", "resnet18", "convnext_atto":
        backbone = create_backbone(name)
        stages = backbone.stages()
        assert [*stages] == [info["reduction"] for info in timm.create_model(name).feature_info]
        assert {id(p) for stage in stages.values() for p in stage} == {id(p) for p in backbone.parameters()}
    body = create_backbone("tf_efficientnet_lite0")
    stage_of = {id(p): stride for stride, stage in body.stages().items() for p in stage}
    found = {name.removesuffix(".weight"): stage_of[id(p)] for name, p in body.body.named_parameters()}
    expected = {"conv_stem": 2, "blocks.0.0.conv_dw": 2, "blocks.1.0.conv_pw": 4, "blocks.3.0.conv_pw": 16}
    expected |= {"blocks.4.2.bn3": 16, "blocks.5.0.conv_pw": 32, "conv_head": 32}
    assert found | expected == found
    del body.body.feature_info
    assert list(body.stages()) == [32]


def test_the_gradients_of_the_tasks_add_up_to_that_of_the_step():
    objective = make_objective(torch.float32)
    model, batches = objective.model, make_batches(2, torch.float32)
    found = TaskGradients(TASKS, model.shared_stages())
    gather_buffer(objective, batches, 2, gradients=found)
    for stage, shared in model.shared_stages().items():
        whole = torch.cat([p.grad[rows].flatten() for p, rows in shared])
        total = sum(found._sums[task][stage] for task in TASKS) / 2
        assert (whole - total).norm() <= 1e-5 * whole.norm(), stage
    before = gradients(objective)
    objective.zero_grad()
    gather_buffer(objective, batches, 2)
    assert differences(before, gradients(objective)) == []


def test_a_loss_that_is_of_no_one_task_is_in_no_share():
    objective, [batch] = make_objective(torch.float32), make_batches(1, torch.float32)
    del batch["det"]
    total, _, shares = objective.by_task(batch)
    assert list(shares) == ["cls", "seg"]
    torch.testing.assert_close(sum(shares.values()), total)
    objective.terms["distilled"].images_of = lambda name: "cells"
    total, means, shares = objective.by_task(batch)
    weights, scale = objective.task_weights().detach(), objective.normaliser.mean
    assert {task: share.item() for task, share in shares.items()} == {
        task: pytest.approx((weights[i] * means[task]).item() / scale[task]) for i, task in enumerate(("cls", "seg"))
    }


@pytest.fixture(scope="module")
def command(tiny_data, small_teachers):
    """Two mini-batches per step and three steps per epoch; batch-norm learns, and dropout draws random numbers."""
    command = ["train-unified", "--data", str(tiny_data), "--teachers", str(small_teachers), "--epochs", "2", *SMALL]
    for setting in "student.buffer_size=2", "model.batch_norm=train", "model.neck_dropout=0.1":
        command += ["--set", setting]
    return command


@pytest.fixture(scope="module")
def logged(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    assert run([*command, "--output", str(folder), "--set", "student.log_conflict=1"]) == 0
    return folder


def everything(folder):
    """All of a run that its result depends on, and its log without the cosines."""
    checkpoints = [read(folder / f"all_{which}.pth") for which in ("best", "last")]
    for checkpoint in checkpoints:
        checkpoint["config"]["student"].pop("log_conflict")
        checkpoint["config"].pop("output"), checkpoint["origin"].pop("commit")
    log = [{k: v for k, v in r.items() if k != "gradient_cosine"} for r in timeless(lines(folder / "all.jsonl"))]
    return [*checkpoints, log]


def cosines(folder):
    return {r["step"]: r["gradient_cosine"] for r in lines(folder / "all.jsonl") if r["kind"] == "step"}


def test_the_log_holds_each_pair_and_stage_and_their_mean_is_read_back(logged):
    found = cosines(logged)
    assert list(found) == list(range(1, len(found) + 1)) and len(found) >= 4
    for step in found.values():
        assert list(step) == PAIRS and all(list(stages) == STAGES for stages in step.values())
        assert all(-1 <= value <= 1 for stages in step.values() for value in stages.values())
    mean = sum(step["cls-det"]["necks"] for step in found.values()) / len(found)
    means = read_run(logged / "all.jsonl")["conflict"]
    assert list(means) == PAIRS and means["cls-det"]["necks"] == pytest.approx(mean)


def test_a_run_that_measures_it_ends_with_the_same_bits(command, logged, tmp_path):
    """Weights, batch-norm's statistics, the average, the optimizer, random states and every loss."""
    assert run([*command, "--output", str(tmp_path)]) == 0
    assert differences(everything(logged), everything(tmp_path)) == []
    assert not any(cosines(tmp_path).values()) and read_run(tmp_path / "all.jsonl")["conflict"] == {}


def test_a_run_is_resumed_with_the_same_bits_whatever_is_logged(command, logged, tmp_path):
    resumed = [*command, "--output", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run([*resumed, "--set", "student.log_conflict=1"]) == 143
    assert run([*resumed, "--set", "student.log_conflict=2", "--resume"]) == 0
    assert differences(everything(logged), everything(tmp_path)) == []
    before, after = cosines(logged), cosines(tmp_path)
    assert after == {step: before[step] if step <= 3 or step % 2 == 0 else {} for step in before}


def test_a_network_with_one_task_has_nothing_to_compare(tiny_data, tmp_path):
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--epochs", "1", *SMALL]
    assert run([*command, "--output", str(tmp_path), "--set", "student.log_conflict=1"]) == 0
    steps = [record for record in lines(tmp_path / "cls.jsonl") if record["kind"] == "step"]
    assert steps and not any(step["gradient_cosine"] for step in steps)


def test_means_are_of_the_steps_that_have_one(tmp_path):
    log = tmp_path / "all.jsonl"
    assert read_run(log) is None
    values = [{"a-b": {"x": 0.5, "y": None}}, {}, {"a-b": {"x": None, "y": None}}, {"a-b": {"x": -1.0, "y": None}}]
    records = [{"kind": "step", "step": i, "epoch": 1, "gradient_cosine": value} for i, value in enumerate(values)]
    records += [{"kind": "step", "step": 4}, {"kind": "epoch", "step": 4}]  # the first as an older onehead wrote it
    log.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "st')
    assert read_run(log)["conflict"] == {"a-b": {"x": -0.25, "y": None}}


def test_a_log_that_cannot_be_read_is_one_error(tmp_path, monkeypatch):
    log = tmp_path / "all.jsonl"
    log.write_text("")

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(OneheadError, match=r"all\.jsonl: cannot be read \(Permission denied\)"):
        read_run(log)
