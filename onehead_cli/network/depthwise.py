"""Depthwise convolutions that train at full speed in bfloat16 on a CPU.

oneDNN's bfloat16 forward of a depthwise convolution is fast, and so is its backward where the kernel is small and the
stride 1; with stride 2 the gradient of the input takes tens of times longer than the forward, and with a kernel of 5
that of the weights does, in float32 too. Both are computed here from the operations that are fast.
`benchmarks/precision.py` measures it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
                out: Tensor = _FastBackward.apply(x, self.weight, self.stride, padding, self.dilation, self.groups)
            return out
        return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)


class _FastBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:  # [B, C, H', W'] in the type of x
        ctx.save_for_backward(x, weight)
        ctx.geometry = _Geometry(stride, padding, dilation, groups)
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = _grad_of_input(grads[0], x, weight, ctx.geometry) if ctx.needs_input_grad[0] else None
        grad_weight = _grad_of_weight(grads[0], x, weight, ctx.geometry) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None, None, None


class _Geometry(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def _grad_of_input(grad: Tensor, x: Tensor, weight: Tensor, at: _Geometry) -> Tensor:
    """The gradient, float [B, C, H, W] in the type of x."""
    pads = tuple(side - 1 - pad for side, pad in zip(weight.shape[2:], at.padding, strict=True))
    if at.stride == at.dilation == (1, 1) and min(pads) >= 0:
        return F.conv2d(grad, weight.flip(2, 3).to(grad.dtype), None, 1, pads, 1, at.groups)
    # Only the shape of the input matters here.
    shape = torch.empty_like(x, dtype=torch.float32)
    wanted = (True, False, False)
    found = torch.ops.aten.convolution_backward(
        grad.float(), shape, weight.float(), None, *at[:3], False, (0, 0), at.groups, wanted
    )
    return found[0].to(x.dtype)  # type: ignore[no-any-return]


def _grad_of_weight(grad: Tensor, x: Tensor, weight: Tensor, at: _Geometry) -> Tensor:
    """The gradient, float32 [C, 1, K, K], in tiles of at most 3 x 3: what a tile sees is the input without its first
    rows and columns."""
    if at.dilation != (1, 1):
        return _grad_of_tile(grad.float(), x.float(), weight.float(), at)
    top, left = at.padding
    padded = F.pad(x, (left, left, top, top)) if top or left else x
    whole = torch.empty_like(weight, dtype=torch.float32)
    for row, rows in _tiles(weight.shape[2]):
        for column, columns in _tiles(weight.shape[3]):
            height = (grad.shape[2] - 1) * at.stride[0] + rows
            width = (grad.shape[3] - 1) * at.stride[1] + columns
            seen = padded[:, :, row : row + height, column : column + width]
            tile = weight[:, :, row : row + rows, column : column + columns].to(x.dtype)
            found = _grad_of_tile(grad, seen, tile, at._replace(padding=(0, 0)))
            whole[:, :, row : row + rows, column : column + columns] = found
    return whole


def _grad_of_tile(grad: Tensor, x: Tensor, tile: Tensor, at: _Geometry) -> Tensor:
    wanted = (False, True, False)
    found = torch.ops.aten.convolution_backward(grad, x, tile, None, *at[:3], False, (0, 0), at.groups, wanted)
    return found[1]  # type: ignore[no-any-return]


def _tiles(side: int) -> list[tuple[int, int]]:
    """Start and length of the pieces of a kernel's side; the last may cover a part of the one before once more."""
    if side <= 3:
        return [(0, side)]
    return [(start, 3) for start in [*range(0, side - 3, 3), side - 3]]


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
