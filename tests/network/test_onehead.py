"""The network against its description: shapes, counts worked out by hand, gradient everywhere."""

import copy

import pytest
import torch
from torch import nn

from onehead_cli.errors import ConfigError
from onehead_cli.network.batch_norm import set_training
from onehead_cli.network.depthwise import DepthwiseConv2d
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["c"] * 10, "seg": ["s"] * 21, "det": ["d"] * 10}


def architecture(backbone="tf_efficientnet_lite0", tasks=TASKS):
    return Architecture(backbone, CLASSES, tuple(tasks), of_tasks={"boxes_per_cell": 2})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(architecture())


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_each_part_by_hand(model):
    assert count(model.upsample) == 1280 * 2560 + 2 * 2560
    for neck in model.necks.values():
        assert count(neck) == 640 * 9 + 2 * 640 + 640 * 256 + 2 * 256
    width = 21
    assert count(model.head) == (256 * 4 * width + 4 * width) + (4 * width * width + 4 * width)
    assert count(model.identity) == (256 + 1) * (10 + 21 + 20)


@pytest.mark.parametrize(("backbone", "millions"), [("efficientnet_b0", 7.8402), ("tf_efficientnet_lite0", 7.2036)])
def test_parameters_in_all(backbone, millions):
    assert count(build_model(architecture(backbone))) / 1e6 == pytest.approx(millions, rel=1e-4)


def test_without_a_task_the_head_has_a_group_fewer():
    classes = {"seg": ["s"] * 5, "cls": ["c"] * 12}
    model = build_model(Architecture("tf_efficientnet_lite0", classes, ("cls", "seg"), of_tasks={"boxes_per_cell": 2}))
    assert count(model.head) == (256 * 3 * 12 + 3 * 12) + (3 * 12 * 12 + 3 * 12)
    outputs = model.eval()(torch.rand(1, 3, 64, 64))
    assert {task: output.shape[1] for task, output in outputs.items()} == {"cls": 12, "seg": 5}


def test_maps_have_a_sixteenth_of_the_side(model):
    outputs = model.eval()(torch.rand(2, 3, 96, 64))
    assert {t: tuple(o.shape) for t, o in outputs.items()} == {
        "cls": (2, 10, 6, 4),
        "seg": (2, 21, 6, 4),
        "det": (2, 20, 6, 4),
    }


def test_output_is_own_group_plus_shared_group_plus_identity(model):
    model.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        outputs = model(images)
        features = model.upsample(model.backbone((images - 0.5) / 0.5)[0])
        necks = [model.necks[t](features) for t in TASKS]
        projected = model.head.project(necks[0] + necks[1] + necks[2])
        weight, bias = model.head.grouped.weight[:, :, 0, 0], model.head.grouped.bias
        groups = []
        for g in range(4):
            part = projected[:, g * 21 : (g + 1) * 21]
            mixed = torch.einsum("oi,bihw->bohw", weight[g * 21 : (g + 1) * 21], part)
            groups.append(mixed + bias[g * 21 : (g + 1) * 21, None, None])
        for i, (task, channels) in enumerate([("cls", 10), ("seg", 21), ("det", 20)]):
            expected = groups[i][:, :channels] + groups[3][:, :channels] + model.identity[task](necks[i])
            torch.testing.assert_close(outputs[task], expected, atol=1e-4, rtol=1e-4)


def test_gradient_reaches_all_four_groups_of_the_head(model):
    model.train().zero_grad()
    sum(o.square().mean() for o in model(torch.rand(2, 3, 64, 64)).values()).backward()
    grad = model.head.grouped.weight.grad.view(4, 21, -1).abs().sum((1, 2))
    assert (grad > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.identity.parameters())


def test_a_teacher_keeps_all_groups_but_has_one_neck_and_output():
    teacher = build_model(architecture(tasks=["det"]))
    assert set(teacher(torch.rand(2, 3, 64, 64))) == {"det"}
    assert list(teacher.necks) == ["det"] and teacher.head.grouped.groups == 4 and teacher.head.width == 21


def test_a_fresh_detector_hardly_believes_in_boxes(model):
    bias = model.identity["det"].bias.detach()[10:].view(2, 5)
    assert bias[:, 4].sigmoid().tolist() == pytest.approx([0.01, 0.01])
    assert bias[:, 2].exp().tolist() == pytest.approx([0.12, 0.6])


def test_frozen_batch_norm_keeps_the_backbone_and_learns_the_rest(model):
    model = copy.deepcopy(model)
    before = {k: v.clone() for k, v in model.state_dict().items() if "running_mean" in k}
    set_training(model, model.backbone, "frozen")
    model(torch.rand(2, 3, 64, 64))
    changed = {k for k, v in model.state_dict().items() if "running_mean" in k and not torch.equal(v, before[k])}
    assert changed == {k for k in before if not k.startswith("backbone.")}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite", "vit_tiny_patch16_224"])
def test_a_backbone_that_cannot_be_used_is_named(name):
    with pytest.raises(ConfigError, match=name):
        build_model(architecture(name))


def test_another_backbone_by_name():
    model = build_model(architecture("mobilenetv3_small_050"))
    assert model.eval()(torch.rand(1, 3, 64, 64))["seg"].shape == (1, 21, 4, 4)


class TestDepthwise:
    def make(self, kernel, stride, dilation=1):
        torch.manual_seed(0)
        size = {"stride": stride, "padding": dilation * (kernel // 2), "dilation": dilation}
        plain = nn.Conv2d(8, 8, kernel, groups=8, bias=False, **size)
        return plain, DepthwiseConv2d(copy.deepcopy(plain))

    @pytest.mark.parametrize("stride", [1, 2])
    def test_equals_the_plain_convolution_in_float32(self, stride):
        plain, ours = self.make(5, stride)
        x = torch.randn(2, 8, 9, 9)
        torch.testing.assert_close(ours(x), plain(x))

    @pytest.mark.parametrize("side", [9, 12])
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (4, 1), (5, 1), (7, 1), (3, 2), (5, 2)])
    def test_gradients_in_bf16_are_those_of_float32_within_its_precision(self, kernel, dilation, stride, side):
        plain, ours = self.make(kernel, stride, dilation)
        x1 = torch.randn(2, 8, side, side).bfloat16().float().requires_grad_()
        x2 = x1.detach().clone().requires_grad_()
        plain(x1).square().sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            out = ours(x2)
        assert out.dtype is torch.bfloat16
        out.float().square().sum().backward()
        for a, b in [(x1.grad, x2.grad), (plain.weight.grad, ours.weight.grad)]:
            assert ((a - b).norm() / a.norm()).item() < 0.02
