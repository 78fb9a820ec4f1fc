"""Batch-norm statistics measured on given mini-batches, as in the recalculation after averaged weights
(Izmailov et al., arXiv 1803.05407)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onehead_cli.network.onehead import OneHead


class NormStatistics:
    """Mean and unbiased variance of what enters a batch norm, float [C] each: the means over the mini-batches, as
    torch's batch norm keeps them with momentum=None."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.mean = torch.zeros_like(norm.weight)
        self.variance = torch.ones_like(norm.weight)
        self._seen = 0

    def take_in(self, norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        """A forward hook: the norm's output becomes the one that it has in training."""
        self._seen += 1
        share, kept = 1 / self._seen, (self.mean, self.variance)
        return F.batch_norm(inputs[0], *kept, norm.weight, norm.bias, training=True, momentum=share, eps=norm.eps)


@torch.no_grad()
def measure_norms(model: OneHead, norms: Sequence[nn.BatchNorm2d], batches: Iterable[Tensor]) -> list[NormStatistics]:
    """The statistics of `norms` where these alone normalise by the mini-batch, and no weight changes.

    Args:
        batches: images, float [B, 3, S, S] in 0..1; the same in all processes, which then need not speak.
    """
    found = [NormStatistics(norm) for norm in norms]
    was_training = model.training
    model.eval()
    with ExitStack() as hooks:
        for norm, statistics in zip(norms, found, strict=True):
            hooks.enter_context(norm.register_forward_hook(statistics.take_in))
        for images in batches:
            model(images)
    model.train(was_training)
    return found


@torch.no_grad()
def renew_norms(model: OneHead, batches: Iterable[Tensor]) -> None:
    """Measure the norms of the new layers anew; the backbone's stay. Args: as for `measure_norms`."""
    old = {id(module) for module in model.backbone.body.modules()}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and id(m) not in old]
    for norm, statistics in zip(norms, measure_norms(model, norms, batches), strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(statistics.mean)
        norm.running_var.copy_(statistics.variance)
