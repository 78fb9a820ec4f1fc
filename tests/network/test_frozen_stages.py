"""Frozen stages against the whole network: same maps, no gradient, no drift, one trunk for student and teachers."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.errors import ConfigError
from onehead_cli.network.backbone import create_backbone
from onehead_cli.network.batch_norm import set_training
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["c"] * 3, "seg": ["s"] * 4, "det": ["d"] * 2}


def network(name="tf_efficientnet_lite0", tasks=TASKS):
    return build_model(Architecture(name, CLASSES, tuple(tasks), of_tasks={"boxes_per_cell": 2}))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_the_two_parts_give_what_the_whole_gives(name):
    backbone = create_backbone(name).eval()
    images = torch.rand(2, 3, 64, 96)
    whole, _ = backbone(images)
    backbone.freeze(3)
    assert backbone.trunk(images).shape == (2, 40, 8, 12)  # stages 0, 1, 2 of both networks: 40 channels at stride 8
    assert torch.equal(backbone.rest(backbone.trunk(images))[0], whole)
    assert torch.equal(backbone(images)[0], whole)


@pytest.mark.parametrize("mode", ["train", "slow", "frozen"])
def test_frozen_layers_learn_nothing_and_all_others_learn(mode):
    model = network()
    model.backbone.freeze(2)
    set_training(model, model.backbone, mode)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outputs = model(torch.rand(2, 3, 64, 64))
    sum(o.square().mean() for o in outputs.values()).backward()
    torch.optim.AdamW([p for p in model.parameters() if p.grad is not None], lr=0.1).step()
    stem_and_two = (
        "backbone.body.conv_stem",
        "backbone.body.bn1",
        "backbone.body.blocks.0.",
        "backbone.body.blocks.1.",
    )
    for key, value in model.state_dict().items():
        if key.startswith(stem_and_two):
            assert torch.equal(value, before[key]), key
    learning = {name for name, p in model.named_parameters() if not name.startswith(stem_and_two)}
    assert learning == {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(
        m.training for part in model.backbone.frozen_modules() for m in part.modules() if isinstance(m, _BatchNorm)
    )


def test_a_trunk_is_shared_only_where_it_is_the_same_to_the_last_bit():
    student, teacher = network(), network(tasks=("seg",))
    student.backbone.freeze(2)
    assert not teacher.backbone.has_trunk_of(student.backbone)
    teacher.backbone.load_state_dict(student.backbone.state_dict())
    assert teacher.backbone.has_trunk_of(student.backbone)
    with torch.no_grad():
        teacher.backbone.body.blocks[2][0].conv_pw.weight.add_(1)  # beyond the trunk
    assert teacher.backbone.has_trunk_of(student.backbone)
    with torch.no_grad():
        teacher.backbone.body.blocks[1][0].bn1.running_mean[0] += 1e-6
    assert not teacher.backbone.has_trunk_of(student.backbone)
    assert not network("efficientnet_b0").backbone.has_trunk_of(student.backbone)


def test_other_backbones_and_too_many_stages_are_refused():
    with pytest.raises(ConfigError, match="only EfficientNets can be frozen in part, not mobilenetv3_small_050"):
        create_backbone("mobilenetv3_small_050").freeze(1)
    with pytest.raises(ConfigError, match="has 7 stages, not 8"):
        create_backbone("tf_efficientnet_lite0").freeze(8)


@pytest.mark.parametrize("images", ["own", "all"])
def test_distillation_over_one_trunk_is_that_over_whole_teachers(images, tiny_data, tmp_path, monkeypatch):
    weights = tmp_path / "backbone.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), weights)
    common = ["--data", tiny_data, "--output", tmp_path, "--image-size", "64", "--epochs", "1", "--batch-size", "2"]
    common += ["--backbone", "test_efficientnet", "--backbone-weights", weights]
    common += ["--set", "model.frozen_stages=2", "--set", "model.precision=fp32", "--quiet"]
    common = [str(part) for part in common]
    assert run(["train-teacher", "--task", "all", *common]) == 0
    student = ["train-unified", *common, "--set", f"distill.images={images}"]
    passes = []
    monkeypatch.setattr(nn.Sequential, "forward", counted(nn.Sequential.forward, passes))
    assert run(student) == 0
    shared, seen = load_checkpoint(tmp_path / "all_last.pth").weights, len(passes)
    passes.clear()
    monkeypatch.setattr("onehead_cli.network.backbone.Backbone.has_trunk_of", lambda self, other: False)
    assert run(student) == 0
    whole = load_checkpoint(tmp_path / "all_last.pth").weights
    assert seen < len(passes)  # the teachers' own first stages were not run
    assert all(torch.allclose(shared[key], whole[key], atol=1e-4) for key in whole)


def counted(forward, passes):
    def wrapper(self, x):
        passes.append(1)
        return forward(self, x)

    return wrapper
