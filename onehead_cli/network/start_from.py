"""A network's first weights from any checkpoint with its backbone, whatever classes and tasks that has.

Layers are taken where name and shape fit. Outputs are taken class by class, by name. The head's two layers are linear
with nothing between them, so that what a group computes is one affine map of the aggregate: where the groups differ,
these maps are moved, not the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onehead_cli.errors import ConfigError
from onehead_cli.network.onehead import Head, OneHead
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import get_task


@dataclass(frozen=True)
class _Channels:
    """Which channels of a task's map mean the same: mine[i] here is theirs[i] there. all: none is new or moved."""

    mine: list[int]
    theirs: list[int]
    all: bool


@dataclass(frozen=True)
class Fit:
    """What of two networks does not fit, in words. anew: keeps its own start. left_out: has no place in the new one."""

    anew: list[str]
    left_out: list[str]


@torch.no_grad()
def start_from(model: OneHead, architecture: Architecture, source: OneHead, other: Architecture) -> Fit:
    """Give a network what fits of another one's weights.

    Args: source, other: of a checkpoint, on the device of the network.

    Raises:
        ConfigError: the checkpoint has another backbone.
    """
    if other.backbone != architecture.backbone:
        raise ConfigError(
            f"model.start_from: the checkpoint has the backbone {other.backbone}, model.backbone is "
            f"{architecture.backbone}"
        )
    mine, theirs = model.state_dict(), source.state_dict()
    anew = list[str]()
    for name, value in mine.items():
        if name.startswith(("head.", "identity.")):
            continue
        if name in theirs and theirs[name].shape == value.shape:
            value.copy_(theirs[name])
        elif not _is_of_new_task(name, other) and (layer := name.rpartition(".")[0]) not in anew:
            anew.append(layer)
    same_width = model.head.width == source.head.width
    _take_shared(model.head, source.head)
    for task in TASKS:
        if task not in architecture.classes:
            continue
        if task not in other.tasks:
            anew += [task] if task in model.tasks else []
            continue
        channels = _same_channels(task, architecture, other)
        _take_group(model.head, source.head, task, channels, as_it_is=same_width and channels.all)
        if task in model.tasks:
            _take_rows(model.identity[task], source.identity[task], channels)
            anew += _what_is_new(task, architecture, other, channels)
    known = {_part(name) for name in mine}
    left_out = dict.fromkeys(_part(name) for name in theirs if _part(name) not in known)
    return Fit(anew, [part for part in left_out if part.partition(".")[2] not in TASKS])


def _part(layer: str) -> str:
    """The part of the network that a layer is of: "skip", "upsampling", or "necks.seg"."""
    part, _, rest = layer.partition(".")
    return f"{part}.{rest.partition('.')[0]}" if part in ("necks", "identity") else part


def _is_of_new_task(name: str, other: Architecture) -> bool:
    part, _, rest = name.partition(".")
    return part == "necks" and rest.partition(".")[0] not in other.tasks


def _same_channels(task: str, architecture: Architecture, other: Architecture) -> _Channels:
    names, known = list(architecture.classes[task]), {name: i for i, name in enumerate(other.classes[task])}
    mine = [index for index, name in enumerate(names) if name in known]
    theirs = [known[names[index]] for index in mine]
    counts = architecture.channels[task], other.channels[task]
    if get_task(task).difference(architecture, other) is None:
        further = range(counts[0] - len(names))
        mine += [len(names) + channel for channel in further]
        theirs += [len(other.classes[task]) + channel for channel in further]
    return _Channels(mine, theirs, all=mine == theirs and (len(mine), len(mine)) == counts)


def _what_is_new(task: str, architecture: Architecture, other: Architecture, channels: _Channels) -> list[str]:
    names = [name for index, name in enumerate(architecture.classes[task]) if index not in channels.mine]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    difference = get_task(task).difference(architecture, other)
    return [f"{task} ({shown})"] * bool(names) + ([f"{task}, which has {difference}"] if difference else [])


def _take_shared(head: Head, source: Head) -> None:
    if head.width == source.width:
        for mine, theirs in zip(_layers(head, len(head.tasks)), _layers(source, len(source.tasks)), strict=True):
            mine.copy_(theirs)
        return
    rows = list(range(min(head.width, source.width)))
    weight, bias = _affine(source, len(source.tasks))
    _set_affine(head, len(head.tasks), rows, weight[rows], bias[rows])


def _take_group(head: Head, source: Head, task: str, channels: _Channels, *, as_it_is: bool) -> None:
    """Give a task's own group what own and shared group together made of its classes there, less what the shared group
    makes of them here. `as_it_is`: the shared group makes the same of them, so that the layers can be taken."""
    group, theirs = head.tasks.index(task), source.tasks.index(task)
    if as_it_is:
        for mine, layer in zip(_layers(head, group), _layers(source, theirs), strict=True):
            mine.copy_(layer)
        return
    own, shared, here = _affine(source, theirs), _affine(source, len(source.tasks)), _affine(head, len(head.tasks))
    weight, bias = (own[i][channels.theirs] + shared[i][channels.theirs] - here[i][channels.mine] for i in range(2))
    _set_affine(head, group, channels.mine, weight, bias)


def _layers(head: Head, group: int) -> list[Tensor]:
    """Weight and bias of a group in both layers."""
    rows = slice(group * head.width, (group + 1) * head.width)
    return [t[rows] for layer in (head.project, head.grouped) for t in (layer.weight, layer.bias) if t is not None]


def _affine(head: Head, group: int) -> tuple[Tensor, Tensor]:
    """What a group computes: weight, float64 [N, 256], and bias, float64 [N]."""
    first, first_bias, second, second_bias = (
        t.double().flatten(1) if t.ndim > 1 else t.double() for t in _layers(head, group)
    )
    return second @ first, second @ first_bias + second_bias


def _set_affine(head: Head, group: int, rows: list[int], weight: Tensor, bias: Tensor) -> None:
    """Let a group compute this in `rows`: the first layer does, the second hands it on."""
    first, first_bias, second, second_bias = _layers(head, group)
    first[rows], first_bias[rows] = weight[..., None, None].float(), bias.float()
    second[rows], second_bias[rows] = 0, 0
    second[rows, rows] = 1


def _take_rows(conv: nn.Module, source: nn.Module, channels: _Channels) -> None:
    for name, value in conv.state_dict().items():
        value[channels.mine] = source.state_dict()[name][channels.theirs]
