"""Batch-norm over the images of all processes, on any device (torch.nn.SyncBatchNorm runs on GPUs alone).

The norms of the new layers always learn from the batch, so without this two processes would not agree with one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.processes import sum_

_MOMENTUM = 0.1


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """A batch-norm whose mean and variance are those of all processes' images; shares the tensors of `norm`."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.load_state_dict(norm.state_dict(), assign=True)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """float [B, C, H, W] -> the same; B may be 0 in some processes."""
        if not self.training:
            return super().forward(x)
        out, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), _MOMENTUM)
            unbiased = variance * count / (count - 1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), _MOMENTUM)
        return out  # type: ignore[no-any-return]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = sum_(torch.cat([wide.sum((0, 2, 3)), wide.new_tensor([len(x) * x.shape[2] * x.shape[3]])]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = wide - mean[:, None, None]
        # Not the mean of the squares minus the square of the mean: that would lose digits in float32.
        variance = sum_(centred.square().sum((0, 2, 3))) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        out = centred * (scale * weight)[:, None, None] + bias[:, None, None]
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = grads[0].to(mean.dtype)
        normalised = (x.to(mean.dtype) - mean[:, None, None]) * scale[:, None, None]
        grad_bias, grad_weight = grad.sum((0, 2, 3)), (grad * normalised).sum((0, 2, 3))
        # The mean and the variance depend on the images of all processes, so their gradients are summed here; those
        # of weight and bias are summed with all others, once per step.
        mean_grad, mean_projection = (sum_(torch.stack([grad_bias, grad_weight])) / count)[..., None, None]
        grad_x = (grad - mean_grad - normalised * mean_projection) * (scale * weight)[:, None, None]
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def synchronise_new_layers(model: OneHead) -> None:
    """Swap the norms of all but the backbone for ones that share their tensors and are synchronised."""
    backbone = set(model.backbone.modules())
    for parent in [module for module in model.modules() if module not in backbone]:
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SynchronisedBatchNorm(child))
