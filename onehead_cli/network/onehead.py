"""The network: one backbone, a neck per task, one head, one forward pass for all outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onehead_cli.config.sections import ModelConfig
from onehead_cli.network.backbone import Backbone, Preprocess, create_backbone
from onehead_cli.network.depthwise import replace_depthwise
from onehead_cli.network.weights import load_pretrained
from onehead_cli.registry import OWN_TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import get_task

#: The map of each task by its name: float [B, channels of the task, S / 16, S / 16].
TaskOutputs = dict[str, Tensor]
#: A parameter of layers that several tasks share, and which of its rows (the first dimension) they do share.
SharedRows = tuple[nn.Parameter, slice]


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
        channels: dict[str, int],
        width: int,
        tasks: Sequence[str] = OWN_TASKS,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.channels = {task: channels[task] for task in self.tasks}
        self.backbone = backbone
        self.upsample = Upsample(backbone.out_channels)
        self.skip = Skip(backbone.skip.channels) if backbone.skip else None
        self.necks = nn.ModuleDict({task: Neck() for task in self.tasks})
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
        """What the backbone's frozen layers make of the images; see `Backbone.trunk`."""
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
        necks = {task: self.necks[task](features) for task in self.tasks}
        aggregate = torch.stack(list(necks.values())).sum(0) if len(necks) > 1 else necks[self.tasks[0]]
        own, shared = self.head(aggregate)
        outputs = {}
        for task, channels in self.channels.items():
            outputs[task] = own[task][:, :channels] + shared[:, :channels] + self.identity[task](necks[task])
        return outputs

    def shared_stages(self) -> dict[str, list[SharedRows]]:
        """The layers that learn and that at least two tasks' losses reach, by stage, from the images to the maps.

        backbone.stride2 ... backbone.stride32: see `Backbone.stages`. upsample: with the skip. necks: of all tasks, for
        every task reads the sum of them. head: the shared group alone, of which two tasks use as many rows as the task
        with the second most channels has.
        """
        stages = {f"backbone.stride{stride}": whole for stride, whole in self.backbone.stages().items()}
        stages["upsample"] = [*self.upsample.parameters(), *(self.skip.parameters() if self.skip else ())]
        stages["necks"] = [*self.necks.parameters()]
        shared = {
            stage: [(p, slice(None)) for p in parameters if p.requires_grad] for stage, parameters in stages.items()
        }
        head, begin = self.head, len(self.head.tasks) * self.head.width
        of_two = slice(begin, begin + sorted(self.channels.values())[-2])
        shared["head"] = [(p, slice(begin, None)) for p in head.project.parameters()]
        shared["head"] += [(p, of_two) for p in head.grouped.parameters()]
        return {stage: rows for stage, rows in shared.items() if rows}


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
    )
    with torch.no_grad():
        for task in architecture.tasks:
            bias = model.identity[task].bias
            assert isinstance(bias, Tensor)
            get_task(task).set_first_bias(bias, architecture)
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


class Head(nn.Module):
    """Project the aggregated necks and give each group its own 1x1 convolution.

    float [B, 256, h, w] -> own [B, width, h, w] a task, and shared [B, width, h, w].

    tasks: those that have a group, in the order of the groups; a teacher's head has the student's.
    """

    def __init__(self, width: int, tasks: Sequence[str]) -> None:
        super().__init__()
        self.width = width
        self.tasks = tuple(tasks)
        groups = len(self.tasks) + 1
        self.project = nn.Conv2d(NECK_CHANNELS, groups * width, 1)
        self.grouped = nn.Conv2d(groups * width, groups * width, 1, groups=groups)

    def forward(self, aggregate: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        *own, shared = self.grouped(self.project(aggregate)).split(self.width, dim=1)
        return dict(zip(self.tasks, own, strict=True)), shared


class IdentityMapping(nn.ModuleDict):
    """A 1x1 convolution of each task's own neck, added to its slice of the head."""

    def __init__(self, channels: dict[str, int], tasks: Iterable[str]) -> None:
        super().__init__({task: nn.Conv2d(NECK_CHANNELS, channels[task], 1) for task in tasks})


@torch.no_grad()
def start_equal(upsample: Upsample) -> None:
    """Make the four sub-kernels that PixelShuffle deals to a 2 x 2 square of cells equal, so that the square is even.

    The batch norm's rows are equal as they are, in a new network.
    """
    kernels = upsample.conv.weight.view(UPSAMPLED_CHANNELS, 4, -1)
    kernels.copy_(kernels[:, :1].clone().expand_as(kernels))


NECK_CHANNELS = 256


class Neck(nn.Module):
    """A depthwise-separable block: float [B, 640, h, w] -> [B, 256, h, w].

    dropout: how often a channel is left out in training (Tompson et al., arXiv 1411.4280), drawn per image from torch's
        own generator. It is part of the training, not of the network. Each of several processes draws for its own
        images, so the result depends on their number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            UPSAMPLED_CHANNELS, UPSAMPLED_CHANNELS, 3, padding=1, groups=UPSAMPLED_CHANNELS, bias=False
        )
        self.norm1 = nn.BatchNorm2d(UPSAMPLED_CHANNELS)
        self.pointwise = nn.Conv2d(UPSAMPLED_CHANNELS, NECK_CHANNELS, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(NECK_CHANNELS)
        self.act = nn.SiLU(inplace=True)
        self.dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.depthwise(x)))
        out: Tensor = self.act(self.norm2(self.pointwise(x)))
        return F.dropout2d(out, self.dropout, self.training) if self.dropout else out


class Skip(nn.Module):
    """Add a map to the first channels of the features, through a batch norm of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Features float [B, 640, h, w] and the map [B, channels, h, w] -> [B, 640, h, w]."""
        channels = skipped.shape[1]
        first, rest = torch.split(features, [channels, features.shape[1] - channels], dim=1)
        # Not padded with zeros: exported in 8 bits, OpenVINO pads with something else.
        return torch.cat([first + self.norm(skipped), rest], dim=1)


UPSAMPLED_CHANNELS = 640


class Upsample(nn.Module):
    """1x1 convolution, batch norm, PixelShuffle: float [B, C, h, w] -> [B, 640, 2h, 2w]."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, UPSAMPLED_CHANNELS * 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(UPSAMPLED_CHANNELS * 4)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if not len(x):  # a process without images; PixelShuffle has no backward for an empty batch
            return x.reshape(0, UPSAMPLED_CHANNELS, 2 * x.shape[2], 2 * x.shape[3])
        out: Tensor = self.shuffle(x)
        return out
