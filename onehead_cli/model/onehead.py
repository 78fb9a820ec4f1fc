"""The network: one backbone, a neck a task, one head, one forward pass for all outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onehead_cli.config import ModelConfig
from onehead_cli.datasets.priors import SPREAD
from onehead_cli.decode import BOX_CHANNELS
from onehead_cli.model.backbone import Backbone, Preprocess, create_backbone
from onehead_cli.model.depthwise import replace_depthwise
from onehead_cli.model.head import Head, IdentityMapping
from onehead_cli.model.icnr import start_equal
from onehead_cli.model.necks import Neck
from onehead_cli.model.skip import Skip
from onehead_cli.model.upsample import Upsample
from onehead_cli.model.weights import load_pretrained
from onehead_cli.types import TASKS, SizeUnit, Task, TaskOutputs

#: A fresh detector believes that 1 % of its boxes hold something, so that empty cells do not drown the first steps.
_PRIOR_CONFIDENCE = 0.01
#: Pixels of the input that a cell of the maps stands for, along each side.
STRIDE = 16


@dataclass(frozen=True)
class Architecture:
    """What is needed to rebuild a network without its config; stored in every checkpoint.

    classes: the class names of every task that there is data for, also of those that a teacher does not do: they set
        the head's width and its groups.
    tasks: the tasks that the network has a neck and an output for.
    skip: the backbone's last map of stride 16 is added to the upsampled features.
    priors: width and height, in `size_unit`, that each of a cell's boxes starts with; empty for squares spread evenly
        between .12 and .6 of the input, as in 0.1.0.
    size_unit: sizes of boxes are shares of the input, or counted in cells.
    """

    backbone: str
    classes: Mapping[Task, Sequence[str]]
    boxes_per_cell: int
    tasks: tuple[Task, ...]
    skip: bool = False
    priors: tuple[tuple[float, float], ...] = ()
    size_unit: SizeUnit = "input"

    @property
    def channels(self) -> dict[Task, int]:
        """Channels of each task's map."""
        counts = {task: len(self.classes[task]) for task in TASKS if task in self.classes}
        if Task.DET in counts:
            counts[Task.DET] += self.boxes_per_cell * BOX_CHANNELS
        return counts

    @property
    def width(self) -> int:
        """N, the channels of a group of the head."""
        return max(self.channels.values())


class OneHead(nn.Module):
    """float [B, 3, S, S] in 0..1 -> TaskOutputs, a map [B, channels of the task, S / 16, S / 16] each.

    out_t = head_t[:n_t] + head_shared[:n_t] + identity_t(neck_t)
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        channels: dict[Task, int],
        width: int,
        tasks: Sequence[Task] = TASKS,
        size_unit: SizeUnit = "input",
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.size_unit = size_unit
        self.channels = {task: channels[task] for task in self.tasks}
        self.backbone = backbone
        self.upsample = Upsample(backbone.out_channels)
        self.skip = Skip(backbone.skip.channels) if backbone.skip else None
        self.necks = nn.ModuleDict({task.value: Neck() for task in self.tasks})
        self.head = Head(width, tuple(channels))
        self.identity = IdentityMapping(channels, self.tasks)
        self.register_buffer("mean", torch.tensor(backbone.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1))
        replace_depthwise(self.necks)

    @property
    def preprocess(self) -> Preprocess:
        return self.backbone.preprocess

    def forward(self, images: Tensor) -> TaskOutputs:
        return self.read(self.trunk(images))

    def trunk(self, images: Tensor) -> Tensor:
        """What the backbone's frozen layers make of the pictures; see `Backbone.trunk`."""
        return self.backbone.trunk((images - self.mean) / self.std)

    def read(self, trunk: Tensor) -> TaskOutputs:
        """The maps, from what `trunk` gave."""
        return self.maps(self.features(trunk))

    def features(self, trunk: Tensor) -> Tensor:
        """What all tasks read, float [B, 640, S / 16, S / 16], from what `trunk` gave."""
        coarse, skipped = self.backbone.rest(trunk)
        features: Tensor = self.upsample(coarse)
        return features if self.skip is None else self.skip(features, skipped)

    def maps(self, features: Tensor) -> TaskOutputs:
        """The maps, from what `features` gave."""
        necks = {task: self.necks[task.value](features) for task in self.tasks}
        aggregate = torch.stack(list(necks.values())).sum(0) if len(necks) > 1 else necks[self.tasks[0]]
        own, shared = self.head(aggregate)
        outputs = {}
        for task, channels in self.channels.items():
            outputs[task] = own[task][:, :channels] + shared[:, :channels] + self.identity[task.value](necks[task])
        return outputs


def build_model(architecture: Architecture) -> OneHead:
    """A network with random weights.

    Raises:
        ConfigError: the backbone cannot be used.
    """
    model = OneHead(
        create_backbone(architecture.backbone, skip=architecture.skip),
        channels=architecture.channels,
        width=architecture.width,
        tasks=architecture.tasks,
        size_unit=architecture.size_unit,
    )
    if Task.DET in architecture.tasks:
        _set_detection_prior(model, architecture)
    return model


def build_pretrained(architecture: Architecture, config: ModelConfig) -> OneHead:
    """A network to be trained: its backbone starts from ImageNet weights, unless `model.pretrained` is false, and its
    first `model.frozen_stages` stages do not learn. Its necks drop channels as `model.neck_dropout` says.

    Raises:
        ConfigError: the backbone cannot be used.
        CheckpointError: there are no weights for it.
    """
    model = build_model(architecture)
    if config.icnr:
        start_equal(model.upsample)
    if config.pretrained:
        load_pretrained(model.backbone.body, architecture.backbone, config.backbone_weights)
    model.backbone.freeze(config.frozen_stages)
    for neck in model.necks.children():
        assert isinstance(neck, Neck)
        neck.dropout = config.neck_dropout
    return model


def _set_detection_prior(model: OneHead, architecture: Architecture) -> None:
    bias = model.identity[Task.DET.value].bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        boxes = bias[len(architecture.classes[Task.DET]) :].view(architecture.boxes_per_cell, BOX_CHANNELS)
        boxes.zero_()
        if architecture.priors:
            boxes[:, 2:4] = torch.tensor(architecture.priors).log()
        else:
            small, large = map(math.log, SPREAD)
            boxes[:, 2:4] = torch.linspace(small, large, architecture.boxes_per_cell)[:, None]
        boxes[:, 4] = -math.log(1 / _PRIOR_CONFIDENCE - 1)
