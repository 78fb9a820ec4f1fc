from __future__ import annotations

from onehead_cli.network.onehead import build_model
from onehead_cli.profiling.counts import Count, count_stages, count_with_torch
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["c"] * 10, "seg": ["c"] * 21, "det": ["c"] * 10}


def architecture(backbone: str) -> Architecture:
    return Architecture(backbone=backbone, classes=CLASSES, of_tasks={"boxes_per_cell": 2}, tasks=TASKS)


def test_subclasses_of_other_backbones_are_counted() -> None:
    # ConvNeXt has timm's own LayerNorm2d and parameters outside any layer.
    model = build_model(architecture("convnext_atto")).eval()
    before = set(model.state_dict())
    stages = count_stages(model, 64)
    assert stages["backbone"].norms > 0
    assert sum(stage.parameters for stage in stages.values()) == sum(p.numel() for p in model.parameters())
    assert sum(stage.convolutions for stage in stages.values()) == count_with_torch(model, 64)
    assert set(model.state_dict()) == before


def test_flops_are_two_a_multiply_add() -> None:
    count = Count(parameters=0, convolutions=10, norms=4, other=1) + Count(1, 0, 0, 0)
    assert (count.parameters, count.multiply_adds, count.flops) == (1, 15, 25)
