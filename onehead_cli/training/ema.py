"""The exponential moving average of the weights, which is what gets evaluated and kept."""

from __future__ import annotations

import copy

import torch
from torch import nn

from onehead_cli.network.onehead import OneHead


class WeightAverage:
    """Averaged copy of a model. The decay rises as min(decay, (1 + t) / (10 + t)), so that short runs average too."""

    def __init__(self, model: OneHead, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step `step` (from 0); batch-norm statistics are averaged as well."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [key for key, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[key] for key in floats], [theirs[key] for key in floats], 1 - decay)
        for key in mine.keys() - set(floats):
            mine[key].copy_(theirs[key])
