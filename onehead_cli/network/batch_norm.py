"""Batch-norm in small batches: the backbone's statistics learned, learned slowly, or kept."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_MOMENTUM = 0.1


def set_training(model: nn.Module, backbone: nn.Module, mode: Literal["train", "slow", "frozen"]) -> None:
    """Put a model into training mode with the backbone's batch-norm as `mode` says; the new layers' always learn.

    frozen: running statistics are used and not changed; the affine weights are still trained. Layers whose weights are
    frozen (`model.frozen_stages`) keep their statistics in every mode.
    """
    model.train()
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = _MOMENTUM / 10 if mode == "slow" else _MOMENTUM
            if mode == "frozen" or not module.weight.requires_grad:
                module.eval()
