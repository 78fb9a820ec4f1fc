"""Rates, groups and the average, against their formulas."""

import math

import pytest
import torch

from onehead_cli.config.sections import Config
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import Setting
from onehead_cli.training.ema import WeightAverage
from onehead_cli.training.objective import Objective
from onehead_cli.training.optim import build_optimizer, clip_gradients, lr_factor, set_lr
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights
from onehead_cli.training.terms import Supervised

CLASSES = {task: ["a", "b"] for task in TASKS}
ARCHITECTURE = Architecture("mobilenetv3_small_050", CLASSES, TASKS, of_tasks={"boxes_per_cell": 1})


def tiny_model():
    torch.manual_seed(0)
    return build_model(ARCHITECTURE)


def test_rate_rises_in_a_line_and_falls_as_a_cosine():
    factors = [lr_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert factors[99] < 0.001


def test_backbone_has_its_own_rate_and_norms_have_no_decay():
    model, weights, config = tiny_model(), TaskWeights(TASKS), Config().student
    supervised = Supervised(weights, Setting(ARCHITECTURE, Config(), config))
    objective = Objective(model, supervised, [], LossNormaliser(), schedule=config, precision=torch.float32)
    optimizer = build_optimizer(objective, config)
    set_lr(optimizer, 0.5)
    rate, decay = {}, {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            rate[id(p)], decay[id(p)] = group["lr"], group["weight_decay"]
    everything = [*model.parameters(), weights.r]
    assert sorted(rate) == sorted(map(id, everything))
    assert rate[id(model.backbone.body.conv_stem.weight)] == pytest.approx(0.5 * config.lr * config.backbone_lr_factor)
    assert rate[id(model.head.project.weight)] == pytest.approx(0.5 * config.lr)
    assert decay[id(model.head.project.weight)] == config.weight_decay
    assert decay[id(model.head.project.bias)] == decay[id(model.upsample.norm.weight)] == 0
    assert (rate[id(weights.r)], decay[id(weights.r)]) == (0.5 * config.weights_lr, config.weights_decay)


def test_clipping_returns_the_norm_before():
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip_gradients(model.parameters(), 1.0) == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8]]))


def test_average_follows_its_formula():
    model = tiny_model()
    average = WeightAverage(model, decay=0.5)
    expected = float(model.head.project.bias[0].detach())
    for step in range(8):
        with torch.no_grad():
            model.head.project.bias += 1.0
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * float(model.head.project.bias[0].detach())
    assert float(average.model.head.project.bias[0]) == pytest.approx(expected, rel=1e-5)
    assert not any(p.requires_grad for p in average.model.parameters())
