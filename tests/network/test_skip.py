"""The skip against what a hook sees in the backbone, and against the network without it."""

import pytest
import torch
from torch.nn import functional as F

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.errors import ConfigError
from onehead_cli.network.backbone import create_backbone, find_skip, resolve_skip
from onehead_cli.network.batch_norm import set_training
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["c"] * 10, "seg": ["s"] * 21, "det": ["d"] * 10}


def network(name="tf_efficientnet_lite0", *, skip=True, tasks=TASKS):
    return build_model(Architecture(name, CLASSES, tuple(tasks), skip=skip, of_tasks={"boxes_per_cell": 2}))


@pytest.mark.parametrize(
    ("name", "module", "channels"),
    [
        ("tf_efficientnet_lite0", "blocks.4", 112),
        ("efficientnet_b0", "blocks.4", 112),
        ("mobilenetv3_small_050", "blocks.3", 24),
        ("resnet18", "layer3", 256),
        ("convnext_atto", "stages.2", 160),
    ],
)
def test_the_skip_is_what_the_stage_gives_and_the_features_are_the_same(name, module, channels):
    torch.manual_seed(0)
    backbone = create_backbone(name, skip=True).eval()
    seen = []
    backbone.body.get_submodule(module).register_forward_hook(lambda _, __, out: seen.append(out))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        features, skipped = backbone(images)
        whole = backbone.body(images)
    assert skipped.shape == (2, channels, 4, 6)
    assert torch.equal(skipped, seen[0])
    torch.testing.assert_close(features, whole)


@pytest.mark.parametrize("frozen", [0, 2, 5, 7])
def test_frozen_stages_before_at_and_past_the_skip_change_no_output(frozen):
    torch.manual_seed(0)
    model = network().eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        model.backbone.freeze(frozen)
        trunk = model.trunk(images)
        after = model.read(trunk)
    assert all(torch.equal(before[task], after[task]) for task in TASKS)
    if frozen > 4:  # the trunk ends with the skip, which the rest needs
        assert trunk.shape == (1, 112, 4, 4)
    set_training(model, model.backbone, "frozen")
    sum(o.square().mean() for o in model(torch.rand(2, 3, 64, 64)).values()).backward()
    stages = tuple(f"backbone.body.blocks.{stage}." for stage in range(frozen))
    frozen_names = {name for name, p in model.named_parameters() if name.startswith(stages)} if frozen else set()
    assert all((p.grad is None) == (name in frozen_names) for name, p in model.named_parameters() if "blocks." in name)


def test_it_is_added_to_the_first_channels_through_a_norm_of_its_own():
    torch.manual_seed(0)
    model = network().eval()
    features, skipped = torch.rand(1, 640, 4, 4), torch.rand(1, 112, 4, 4)
    norm = model.skip.norm
    (
        norm.running_mean.uniform_(),
        norm.running_var.uniform_(0.5, 2),
        norm.weight.data.uniform_(),
        norm.bias.data.uniform_(),
    )
    by_hand = features.clone()
    statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    by_hand[:, :112] += F.batch_norm(skipped, *statistics, eps=norm.eps)
    torch.testing.assert_close(model.skip(features, skipped), by_hand)


def test_a_trunk_is_not_shared_where_only_one_network_goes_past_the_skip():
    with_skip, without = network(), network(skip=False)
    without.load_state_dict({k: v for k, v in with_skip.state_dict().items() if not k.startswith("skip.")})
    for stages, shared in ((3, True), (5, True), (6, False)):
        without.backbone.freeze(stages)
        assert with_skip.backbone.has_trunk_of(without.backbone) == shared


def test_auto_goes_without_where_there_is_no_map_that_fits():
    assert resolve_skip("tf_efficientnet_lite0", "auto")
    assert not resolve_skip("tf_efficientnet_lite0", "none")
    assert find_skip(create_backbone("darknet17").body).channels == 512
    assert not resolve_skip("darknet17", "auto")  # 512 channels
    with pytest.raises(ConfigError, match=r"model.skip=stride16: darknet17 has one of 512 channels"):
        resolve_skip("darknet17", "stride16")


def test_a_training_says_that_it_goes_without(tiny_data, tmp_path, capsys):
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1"]
    command += ["--backbone", "darknet17", "--no-pretrained", "--image-size", "64", "--set", "teacher.batch_size=12"]
    assert run(command) == 0
    said = "model.skip=auto: darknet17 has no map of stride 16 that fits; going without"
    assert capsys.readouterr().err.splitlines().count(said) == 1
    assert not load_checkpoint(tmp_path / "cls_best.pth").architecture.skip


def test_it_costs_a_norm():
    parameters = [sum(p.numel() for p in network("efficientnet_b0", skip=skip).parameters()) for skip in (True, False)]
    assert parameters[0] - parameters[1] == 2 * 112
    assert parameters[0] / parameters[1] < 1.002


def test_a_training_with_it_keeps_it_in_the_checkpoint(tiny_data, tmp_path):
    command = ["train-teacher", "--task", "det", "--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1"]
    small = ["--backbone", "test_efficientnet", "--no-pretrained", "--image-size", "64", "--quiet"]
    assert run([*command, *small, "--set", "model.skip=auto", "--set", "model.frozen_stages=4"]) == 0
    checkpoint = load_checkpoint(tmp_path / "det_best.pth")
    assert checkpoint.architecture.skip
    assert checkpoint.weights["skip.norm.weight"].shape == (48,)
    assert checkpoint.model().skip is not None
    assert checkpoint.origin.keys() == {"precision", "processor", "commit", "imagenet_classes"}
