"""A training step of the student in bf16 with our backward of depthwise convolutions, in plain bf16, and in fp32.

Reported without a bound: what is fastest depends on the processor. `network/depthwise.py` says why the first exists.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import (
    BATCH_SIZE,
    Check,
    FixedLoader,
    Options,
    draw_data,
    finish,
    interleaved_minima,
    milliseconds,
    parse_options,
    student_loop,
    take_step,
    training_config,
)
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from onehead_cli.network.depthwise import DepthwiseConv2d


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_data(root, train=3 * BATCH_SIZE, image_size=options.image_size)
        config = training_config(options, root)
        variants = {}
        for name, precision in (("bf16, our depthwise backward", "bf16"), ("plain bf16", "bf16"), ("fp32", "fp32")):
            model = config.model.model_copy(update={"precision": precision})
            loop = student_loop(config.model_copy(update={"model": model}))
            loop.loader = FixedLoader(loop.loader, [loop.loader.minibatch(0)])
            if name == "plain bf16":
                restore_convolutions(loop.objective.model)
            variants[name] = lambda loop=loop: take_step(loop)
        seconds = interleaved_minima(variants, rounds=options.rounds)
    ours, plain, fp32 = seconds.values()
    checks = [Check("ours / plain bf16", ours / plain), Check("ours / fp32", ours / fp32)]
    return finish("precision", options, measured=milliseconds(seconds), checks=checks, seconds=seconds)


def restore_convolutions(module: nn.Module) -> None:
    """Undo `replace_depthwise`: plain convolutions that share the weights."""
    for name, child in module.named_children():
        if isinstance(child, DepthwiseConv2d):
            kind = Conv2dSame if child.pads_same else nn.Conv2d
            plain = kind(
                child.in_channels,
                child.out_channels,
                child.kernel_size,
                stride=child.stride,
                padding=child.padding,
                dilation=child.dilation,
                groups=child.groups,
                bias=False,
            )
            plain.weight = child.weight
            setattr(module, name, plain)
        else:
            restore_convolutions(child)


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=15)))
