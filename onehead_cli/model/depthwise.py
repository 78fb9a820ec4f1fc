"""Depthwise convolutions that train at full speed in bfloat16 on a CPU.

oneDNN's bfloat16 backward of a depthwise convolution is several times slower than its float32 one, which makes the
whole training step slower than in float32. Only that backward is computed in float32 here; the forward and all other
layers stay in bfloat16. `benchmarks/precision.py` measures it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """A bias-free depthwise convolution; float [B, C, H, W] -> [B, C, H', W'], weights named as in `nn.Conv2d`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=False,
        )
        self.weight = conv.weight
        # TensorFlow's "same" padding depends on the input's size, so it cannot be a number here.
        self.pads_same = isinstance(conv, Conv2dSame)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.pads_same:
            x, padding = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation)), (0, 0)
        if x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
            with torch.autocast("cpu", enabled=False):
                out: Tensor = _FloatBackward.apply(x, self.weight, self.stride, padding, self.dilation, self.groups)
            return out
        return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)


class _FloatBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:  # [B, C, H', W'] in the type of x
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation, groups)
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grads[0].float(),
            x.float(),
            weight.float(),
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
        )
        return (grad_x.to(x.dtype) if grad_x is not None else None), grad_weight, None, None, None, None


def replace_depthwise(module: nn.Module) -> None:
    """Swap every depthwise convolution below `module` for a `DepthwiseConv2d` that shares its weights."""
    for name, child in module.named_children():
        if (
            isinstance(child, nn.Conv2d)
            and not isinstance(child, DepthwiseConv2d)
            and child.groups == child.in_channels > 1
            and child.bias is None
            and not isinstance(child.padding, str)
        ):
            setattr(module, name, DepthwiseConv2d(child))
        else:
            replace_depthwise(child)
