"""Batch-norm statistics against torch's own cumulative ones."""

import copy

import pytest
import torch
from torch import nn

from onehead_cli.network.norm_statistics import measure_norms, renew_norms
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.training.synchronised_norm import synchronise_new_layers

CLASSES = {"cls": ["a"] * 3, "seg": ["b"] * 4, "det": ["c"] * 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(Architecture("mobilenetv3_small_050", CLASSES, TASKS, of_tasks={"boxes_per_cell": 2}))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 3, 64, 64, generator=generator) * scale for scale in (1, 2, 3)]


def by_torch(model, batches):
    """What torch keeps with momentum=None, the backbone's norms in eval mode."""
    model = copy.deepcopy(model).train()
    model.backbone.eval()
    for part in (model.upsample, model.necks):
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
    with torch.no_grad():
        for images in batches:
            model(images)
    return {key: value for key, value in model.state_dict().items() if "num_batches" not in key}


@pytest.mark.parametrize("shared", [False, True])
def test_the_new_layers_norms_are_those_of_torch_and_nothing_else_changes(model, batches, shared):
    expected = by_torch(model, batches)
    if shared:  # as several processes have them; all see the same images, so none needs the others
        synchronise_new_layers(model)
    renew_norms(model, iter(batches))
    found = model.state_dict()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert not torch.equal(found["upsample.norm.running_var"], torch.ones(2560))
    assert model.training


def test_one_norm_alone_is_measured_without_a_trace(model, batches):
    before = copy.deepcopy(model.state_dict())
    [found] = measure_norms(model, [model.upsample.norm], batches)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(found.mean, by_torch(model, batches)["upsample.norm.running_mean"])
    inputs = []
    model.upsample.conv.register_forward_hook(lambda _, __, out: inputs.append(out))
    for images in batches:
        model.eval()(images)
    by_hand = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    torch.testing.assert_close(found.variance, by_hand, rtol=1e-4, atol=1e-7)
