"""torchvision's specialists on our backbone, and their losses."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block
from torchvision.models.segmentation.lraspp import LRASPPHead

from onehead_cli.config.sections import Config
from onehead_cli.data.batch import Batch, Target
from onehead_cli.network.backbone import Preprocess, create_backbone
from onehead_cli.network.depthwise import replace_depthwise
from onehead_cli.network.weights import load_pretrained
from onehead_cli.runtime.compute import autocast
from onehead_cli.tasks.classification.split import ClassLabels
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.segmentation.loss import segmentation_loss
from onehead_cli.tasks.segmentation.split import Masks
from onehead_cli.training.objective import Objective
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights


class Specialist(nn.Module):
    """A backbone and a head; images come in 0..1 and are normalised here, as in our networks."""

    def __init__(self, backbone: nn.Module, head: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1))

    def features(self, images: Tensor) -> Any:
        return self.backbone((images - self.mean) / self.std)


class LinearClassifier(nn.Module):
    """float [B, C, h, w] -> logits, float [B, classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class GivenFeatures(nn.Module):
    """Stands where torchvision's SSD expects its backbone: gives the maps that were computed outside."""

    maps: OrderedDict[str, Tensor]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.maps


class SsdLite(SSD):
    """torchvision's SSD head and matching over features that are computed outside, for boxes in input pixels."""

    def __init__(self, channels: list[int], size: int, classes: int) -> None:
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        deeper = [512, 256, 256, 128]
        extras = nn.ModuleList(
            _extra_block(a, b, norm) for a, b in zip([channels[-1], *deeper[:-1]], deeper, strict=True)
        )
        widths = [*channels, *deeper]
        anchors = DefaultBoxGenerator([[2, 3]] * len(widths), min_ratio=0.2, max_ratio=0.95)
        head = SSDLiteHead(widths, anchors.num_anchors_per_location(), classes + 1, norm)
        super().__init__(
            GivenFeatures(), anchors, (size, size), classes + 1, head=head, score_thresh=0.01, nms_thresh=0.55
        )
        self.extras = extras
        self.transform.image_mean, self.transform.image_std = [0.0] * 3, [1.0] * 3

    def with_features(self, features: list[Tensor]) -> SsdLite:
        maps = [feature.float() for feature in features]
        for block in self.extras:
            maps.append(block(maps[-1]))
        self.backbone.maps = OrderedDict((str(i), m) for i, m in enumerate(maps))
        return self


def build(task: str, config: Config, classes: int) -> Specialist:
    """A specialist with ImageNet weights in its backbone, unless `model.pretrained` is false."""
    name = config.model.backbone
    preprocess = create_backbone(name).preprocess
    if task == "cls":
        backbone = timm.create_model(name, num_classes=0, global_pool="")
        head: nn.Module = LinearClassifier(backbone.head_hidden_size, classes)
    elif task == "seg":
        backbone = timm.create_model(name, features_only=True, out_indices=(2, 4), output_stride=16)
        low, high = backbone.feature_info.channels()
        head = LRASPPHead(low, high, classes, 128)
    else:
        backbone = timm.create_model(name, features_only=True, out_indices=(3, 4))
        head = SsdLite(backbone.feature_info.channels(), config.data.image_size, classes)
    if config.model.pretrained:
        load_pretrained(backbone, name, config.model.backbone_weights)
    replace_depthwise(backbone)
    return Specialist(backbone, head, preprocess)


@dataclass
class SpecialistObjective:
    """The loss of one mini-batch, in the form that the training loop asks for."""

    task: str
    model: Specialist
    schedule: Any
    precision: torch.dtype
    task_weights: TaskWeights
    normaliser: LossNormaliser
    terms: nn.ModuleDict = field(default_factory=nn.ModuleDict)

    # It has the same parts, so they are saved in the same way.
    saved = Objective.saved
    restore = Objective.restore

    def learned(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        part = batch[self.task]
        with autocast(part.images.device, self.precision):
            features = self.model.features(part.images)
        loss = self._loss(features, part.images, part.target)
        return loss, {self.task: loss.detach()}

    def _loss(self, features: Any, images: Tensor, target: Target) -> Tensor:
        if isinstance(target, DetectionTarget):
            wanted = [target.labels[i] >= 0 for i in range(len(images))]
            truth = [
                {"boxes": target.boxes[i][keep], "labels": target.labels[i][keep] + 1} for i, keep in enumerate(wanted)
            ]
            losses = self.model.head.with_features(features)(list(images), truth)
            return losses["bbox_regression"] + losses["classification"]
        if isinstance(target, Masks):
            return segmentation_loss(self._maps(features), target.masks).mean()
        assert isinstance(target, ClassLabels)
        return F.cross_entropy(self._maps(features), target.labels, label_smoothing=self.schedule.label_smoothing)

    def _maps(self, features: Any) -> Tensor:
        return maps_of(self.model, features, self.task)


def maps_of(model: Specialist, features: Any, task: str) -> Tensor:
    inputs = {"low": features[0].float(), "high": features[1].float()} if task == "seg" else features.float()
    return model.head(inputs)
