"""The backbone's own ImageNet classifier, a teacher that comes with the weights: cut to the classes of a dataset, or
whole and asked in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from onehead_cli.errors import ConfigError
from onehead_cli.model.backbone import Backbone, create_backbone
from onehead_cli.model.weights import load_pretrained


class ImageNetClassifier(nn.Module):
    """float [B, 3, S, S] in 0..1 -> logits of the chosen rows, float [B, len(rows)]; frozen, in eval mode."""

    mean: Tensor
    std: Tensor
    rows: Tensor

    def __init__(self, body: nn.Module, rows: Sequence[int], *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("rows", torch.tensor(rows))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body((images - self.mean) / self.std)
        return logits[:, self.rows]


class ImageNetCells(nn.Module):
    """float [B, 3, S, S] in 0..1 -> logits of ImageNet's classes in each cell, [B, 1000, S / 32, S / 32]; frozen.

    The classifier reads the features of each cell in place of their mean over the image. (Where a classifier is linear
    from that mean on, as EfficientNet's is, the mean of the cells' logits is what it says of the image.)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, classifier: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(classifier.in_features, classifier.out_features, 1)
        self.classifier.load_state_dict(
            {"weight": classifier.weight[..., None, None].detach(), "bias": classifier.bias.detach()}
        )
        self.register_buffer("mean", torch.tensor(backbone.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.backbone.trunk((images - self.mean) / self.std))

    def read(self, trunk: Tensor) -> Tensor:
        """The logits, from what a backbone with the same frozen layers made of the images; see `Backbone.trunk`."""
        logits: Tensor = self.classifier(self.backbone.rest(trunk))
        return logits


def imagenet_rows(classes: Sequence[str]) -> list[int]:
    """The rows of ImageNet-1k's 1,000 outputs that stand for these classes.

    Args:
        classes: WordNet ids, such as n01440764, as ImageNet and Imagenette name their folders.

    Raises:
        ConfigError: a class is not one of ImageNet's.
    """
    names = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    row = {name: index for index, name in enumerate(names)}
    if unknown := [name for name in classes if name not in row]:
        raise ConfigError(
            f"imagenet_teacher: {unknown[0]} is no ImageNet class; name the class folders by their WordNet ids "
            "(n01440764), or leave imagenet_teacher out"
        )
    return [row[name] for name in classes]


def imagenet_classifier(backbone: str, classes: Sequence[str], weights_file: Path | None) -> ImageNetClassifier:
    """The pretrained network that the backbone was cut from, with the outputs of these classes.

    Raises:
        ConfigError: a class is not one of ImageNet's.
        CheckpointError: there are no weights for the backbone.
    """
    rows = imagenet_rows(classes)
    body = timm.create_model(backbone, pretrained=False)
    load_pretrained(body, backbone, weights_file)
    cfg = resolve_data_config({}, model=body)  # type: ignore[no-untyped-call]
    return ImageNetClassifier(body, rows, mean=cfg["mean"], std=cfg["std"])


def imagenet_cells(backbone: str, weights_file: Path | None) -> ImageNetCells:
    """The pretrained network that the backbone was cut from, asked in each cell.

    Raises:
        ConfigError: its classifier is not one linear layer over the backbone's features.
        CheckpointError: there are no weights for the backbone.
    """
    whole, features = timm.create_model(backbone, pretrained=False), create_backbone(backbone)
    classifier: object = whole.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or classifier.in_features != features.out_channels:
        raise ConfigError(f"segmentation.imagenet_cells: {backbone} has no linear classifier over its features")
    load_pretrained(whole, backbone, weights_file)
    weights = whole.state_dict()
    features.body.load_state_dict({key: weights[key] for key in features.body.state_dict()})
    return ImageNetCells(features, classifier)
