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
from onehead_cli.network.backbone import Backbone, create_backbone
from onehead_cli.network.weights import load_pretrained


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
        features, _ = self.backbone.rest(trunk)
        logits: Tensor = self.classifier(features)
        return logits


def imagenet_rows(classes: Sequence[str], *, asked_by: str = "imagenet_teacher") -> list[int]:
    """The rows of ImageNet-1k's 1,000 outputs that stand for these classes.

    Args:
        classes: WordNet ids, such as n01440764, as ImageNet and Imagenette name their folders, or one of ImageNet's
            names of a class, such as "golf ball", "Golf_ball" or "golf-ball".
        asked_by: the key of the config that the message names.

    Raises:
        ConfigError: a class is not one of ImageNet's, or two of ImageNet's have its name.
    """
    known = rows_by_name()
    for name in classes:
        found = known.get(plain_name(name), [])
        if len(found) > 1:
            ids = ", ".join(ImageNetInfo("imagenet-1k").index_to_label_name(row) for row in found)
            raise ConfigError(f"{asked_by}: ImageNet has several classes named {name}; name the folder {ids}")
        if not found:
            raise ConfigError(
                f"{asked_by}: {name} is not an ImageNet class; name the class folders by their WordNet ids (n01440764) "
                f"or by ImageNet's names (tench), or leave {asked_by} out"
            )
    return [known[plain_name(name)][0] for name in classes]


def rows_by_name() -> dict[str, list[int]]:
    """Rows of ImageNet-1k's outputs by the plain form of the class's WordNet id and of each of its names."""
    info, rows = ImageNetInfo("imagenet-1k"), dict[str, list[int]]()
    for row, label in enumerate(info.label_names()):  # type: ignore[no-untyped-call]
        description = info.label_name_to_description(label, detailed=False)
        for name in {plain_name(label), *map(plain_name, description.split(","))}:
            rows.setdefault(name, []).append(row)
    return rows


def plain_name(name: str) -> str:
    """A class's name in lower case, with spaces for underscores and hyphens."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


@torch.no_grad()
def imagenet_linear(backbone: str, weights_file: Path | None, *, asked_by: str) -> tuple[Tensor, Tensor]:
    """Weight, float [1000, C], and bias, float [1000], of the ImageNet classifier that reads the backbone's features.

    Args:
        asked_by: the key of the config that the message names.

    Raises:
        ConfigError: its logits are not those of one linear layer on the mean of the features over the image.
        CheckpointError: there are no weights for the backbone.
    """
    whole, body = timm.create_model(backbone, pretrained=False).eval(), create_backbone(backbone).body.eval()
    load_pretrained(whole, backbone, weights_file)
    classifier, weights = whole.get_classifier(), whole.state_dict()  # type: ignore[operator]
    if isinstance(classifier, nn.Linear) and classifier.out_features == 1000:
        body.load_state_dict({key: weights[key] for key in body.state_dict()})
        probe = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        if torch.allclose(classifier(body(probe).mean((2, 3))), whole(probe), rtol=1e-3, atol=1e-3):
            return classifier.weight.detach(), classifier.bias.detach()
    raise ConfigError(f"{asked_by}: {backbone} has no linear ImageNet-1k classifier on the mean of its features")


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
