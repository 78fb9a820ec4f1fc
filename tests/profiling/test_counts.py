from __future__ import annotations

import pytest
import torch

from onehead_cli.network.onehead import build_model
from onehead_cli.profiling.counts import Count, count_of_teacher, count_parts, count_with_torch, stages_of, total
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["c"] * 10, "seg": ["c"] * 21, "det": ["c"] * 10}


def architecture(backbone: str, tasks: tuple[str, ...] = TASKS) -> Architecture:
    return Architecture(backbone=backbone, classes=CLASSES, of_tasks={"boxes_per_cell": 2}, tasks=tasks)


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "convnext_atto"])
def test_counts_do_not_depend_on_the_numbers(backbone: str) -> None:
    model = build_model(architecture(backbone)).eval()
    parts = count_parts(model, 64, torch.bfloat16)
    assert parts == count_parts(model, 64, torch.float32)
    multiply_adds = count_with_torch(model, 64, torch.bfloat16)
    assert multiply_adds == count_with_torch(model, 64, torch.float32)
    assert multiply_adds == total(parts.values()).convolutions


def test_subclasses_of_other_backbones_are_counted() -> None:
    # ConvNeXt has timm's own LayerNorm2d and parameters outside any layer.
    model = build_model(architecture("convnext_atto")).eval()
    before = set(model.state_dict())
    parts = count_parts(model, 64, torch.float32)
    assert parts["backbone"].norms > 0
    assert total(parts.values()).parameters == sum(p.numel() for p in model.parameters())
    assert set(model.state_dict()) == before


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "convnext_atto"])
def test_a_teacher_counts_as_a_network_of_one_task(backbone: str) -> None:
    parts = count_parts(build_model(architecture(backbone)).eval(), 64, torch.float32)
    for task in TASKS:
        alone = build_model(architecture(backbone, (task,))).eval()
        assert count_of_teacher(parts, task) == total(count_parts(alone, 64, torch.float32).values())


def test_the_identity_mapping_is_one_stage() -> None:
    parts = {"head": Count(1, 2, 3, 4), "identity.cls": Count(1, 10, 0, 0), "identity.det": Count(2, 20, 0, 1)}
    assert stages_of(parts) == {"head": Count(1, 2, 3, 4), "identity": Count(3, 30, 0, 1)}


def test_flops_are_two_a_multiply_add() -> None:
    count = Count(parameters=0, convolutions=10, norms=4, other=1) + Count(1, 0, 0, 0)
    assert (count.parameters, count.multiply_adds, count.flops) == (1, 15, 25)
