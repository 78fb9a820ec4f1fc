"""What a network costs in parameters and operations.

Multiply-adds are thop's, norms counted, because the reference system's are; torch's own counter checks them. thop is
used here and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import thop
import torch
from thop.vision.basic_hooks import count_convNd, count_linear, count_normalization
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.compute import autocast

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)

_RULES: tuple[tuple[Any, Any], ...] = (
    (_ConvNd, count_convNd),
    (nn.Linear, count_linear),
    (_NORMS, count_normalization),
)

#: What thop says of a module: its operations, its parameters, and the same of each module below it by name.
_Counted = tuple[float, float, Mapping[str, Any]]


@dataclass(frozen=True)
class Count:
    """The cost of one image, as thop counts it.

    convolutions: multiply-adds of convolutions and linear layers, without biases.
    norms: 4 operations per value (subtract, divide, multiply, add).
    other: operations of all else that thop knows, such as pooling.
    """

    parameters: int
    convolutions: int
    norms: int
    other: int

    @property
    def multiply_adds(self) -> int:
        """The sum that thop prints: operations of norms stand in it beside true multiply-adds."""
        return self.convolutions + self.norms + self.other

    @property
    def flops(self) -> int:
        """Floating point operations: two per multiply-add; those of norms and the rest are single ones already."""
        return 2 * self.convolutions + self.norms + self.other

    def __add__(self, more: Count) -> Count:
        return Count(
            self.parameters + more.parameters,
            self.convolutions + more.convolutions,
            self.norms + more.norms,
            self.other + more.other,
        )


def total(counts: Iterable[Count]) -> Count:
    return sum(counts, Count(0, 0, 0, 0))


def count_parts(model: OneHead, image_size: int, precision: torch.dtype) -> dict[str, Count]:
    """The cost of each part of the network for one image, by thop; the parts add up to the whole.

    Keys: backbone, upsample, skip where there is one, head, and for each task necks.{task} and identity.{task}.

    Args:
        precision: the numbers of the pass that is counted. They change no count; those of the passes before it have
            their kernels built already.
    """
    # thop leaves buffers behind in modules that it has no rule for.
    model = copy.deepcopy(model).eval()
    # thop looks a layer up by its exact type: without a rule it counts a subclass as nothing.
    rules = {
        kind: rule for kind in {type(m) for m in model.modules()} for base, rule in _RULES if issubclass(kind, base)
    }
    image = torch.zeros(1, 3, image_size, image_size, device=model.mean.device)
    with torch.inference_mode(), autocast(image.device, precision):
        *_, tree = thop.profile(model, (image,), custom_ops=rules, verbose=False, ret_layer_info=True)
    parts: dict[str, Count] = {}
    for name, child in model.named_children():
        if name in ("necks", "identity"):
            for task, own in child.named_children():
                parts[f"{name}.{task}"] = _count(own, tree[name][2][task])
        else:
            parts[name] = _count(child, tree[name])
    return parts


def stages_of(parts: Mapping[str, Count]) -> dict[str, Count]:
    """The parts with those of the identity mapping as one, which costs little.

    Keys: backbone, upsample, skip where there is one, necks.cls, necks.seg, necks.det, head, identity.
    """
    stages: dict[str, Count] = {}
    for name, count in parts.items():
        stage = "identity" if name.startswith("identity.") else name
        stages[stage] = total([stages[stage], count]) if stage in stages else count
    return stages


def count_of_teacher(parts: Mapping[str, Count], task: str) -> Count:
    """What the network would cost that does this task only: all but the others' necks and outputs."""
    return total(count for name, count in parts.items() if name.partition(".")[2] in ("", task))


def count_with_torch(model: OneHead, image_size: int, precision: torch.dtype) -> int:
    """Multiply-adds of one image by torch's own counter, which leaves norms and biases out."""
    image = torch.zeros(1, 3, image_size, image_size, device=model.mean.device)
    with (
        torch.inference_mode(),
        autocast(image.device, precision),
        FlopCounterMode(display=False) as counter,
    ):
        model(image)
    return int(counter.get_total_flops()) // 2


def _count(module: nn.Module, counted: _Counted) -> Count:
    # thop's own parameters leave out those of layers it does not know.
    count = Count(sum(p.numel() for p in module.parameters()), 0, 0, 0)
    for leaf, operations in _leaves(module, counted):
        if isinstance(leaf, (_ConvNd, nn.Linear)):
            count += Count(0, operations, 0, 0)
        elif isinstance(leaf, _NORMS):
            count += Count(0, 0, operations, 0)
        else:
            count += Count(0, 0, 0, operations)
    return count


def _leaves(module: nn.Module, counted: _Counted) -> Iterator[tuple[nn.Module, int]]:
    """The modules that thop counted as one, with their operations."""
    operations, _, below = counted
    if not below:
        yield module, int(operations)
    for name, child in below.items():
        yield from _leaves(module.get_submodule(name), child)
