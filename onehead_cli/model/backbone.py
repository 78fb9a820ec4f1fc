"""Any timm backbone of stride 32, with its preprocessing; for EfficientNets up to and with `conv_head`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from onehead_cli.errors import ConfigError
from onehead_cli.model.depthwise import replace_depthwise


@dataclass(frozen=True)
class Preprocess:
    """What the backbone was trained on; pictures are normalised inside the model as (x - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class Backbone(nn.Module):
    """Features of a picture: float [B, 3, S, S] -> [B, out_channels, S / 32, S / 32]."""

    def __init__(self, name: str, body: nn.Module, *, out_channels: int, preprocess: Preprocess) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.out_channels = out_channels
        self.preprocess = preprocess
        self.frozen_stages = 0

    def freeze(self, stages: int) -> None:
        """Keep the weights of the stem and the first stages as they are; they and the rest can then be run apart.

        Raises:
            ConfigError: the backbone is no EfficientNet, or has fewer stages.
        """
        if not stages:
            return
        if not isinstance(self.body, EfficientNet):
            raise ConfigError(f"model.frozen_stages: only EfficientNets can be frozen in part, not {self.name}")
        if stages > len(self.body.blocks):
            raise ConfigError(f"model.frozen_stages: {self.name} has {len(self.body.blocks)} stages, not {stages}")
        self.frozen_stages = stages
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def frozen_modules(self) -> list[nn.Module]:
        """The stem's and the first stages' layers in their order; none where all learns."""
        if not self.frozen_stages:
            return []
        body: Any = self.body
        return [body.conv_stem, body.bn1, *body.blocks[: self.frozen_stages]]

    def trunk(self, images: Tensor) -> Tensor:
        """What the frozen layers make of the pictures, without gradient; the pictures themselves where all learns."""
        with torch.no_grad():
            for module in self.frozen_modules():
                images = module(images)
        return images

    def rest(self, trunk: Tensor) -> Tensor:
        """The features, from what `trunk` gave."""
        if not self.frozen_stages:
            features: Tensor = self.body(trunk)
            return features
        body: Any = self.body
        x = body.blocks[self.frozen_stages :](trunk)
        features = body.forward_head(body.bn2(body.conv_head(x)))
        return features

    def has_trunk_of(self, other: Backbone) -> bool:
        """Whether the other's frozen layers are also the first ones here, to the last bit."""
        if not other.frozen_stages or self.name != other.name:
            return False
        mine, stem = self.body.state_dict(), ("conv_stem.", "bn1.")
        stages = tuple(f"blocks.{i}." for i in range(other.frozen_stages))
        theirs = {key: value for key, value in other.body.state_dict().items() if key.startswith(stem + stages)}
        return all(torch.equal(mine[key], value) for key, value in theirs.items())

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.trunk(images))


def create_backbone(name: str) -> Backbone:
    """Build a timm backbone with random weights; `weights.py` loads the pretrained ones.

    Raises:
        ConfigError: timm does not know the name, or its features are not a map of stride 32.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.0)
        raise ConfigError(f"model.backbone: timm has no '{name}'; did you mean '{near[0]}'?")
    try:
        body = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:  # each family of models refuses its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"model.backbone: '{name}' cannot be built without its classifier ({reason})") from None
    cfg = resolve_data_config({}, model=body)  # type: ignore[no-untyped-call]
    out_channels = _probe_channels(name, body)
    replace_depthwise(body)
    preprocess = Preprocess(tuple(cfg["mean"]), tuple(cfg["std"]), cfg["interpolation"])
    return Backbone(name, body, out_channels=out_channels, preprocess=preprocess)


def _probe_channels(name: str, body: nn.Module) -> int:
    was_training = body.training
    body.eval()
    try:
        with torch.no_grad():
            shape = tuple(body(torch.zeros(1, 3, 64, 64)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        # Transformers of a fixed input size refuse 64 px; the first line says so.
        raise ConfigError(
            f"model.backbone: '{name}' cannot read a 64 px picture ({str(error).splitlines()[0]})"
        ) from None
    finally:
        body.train(was_training)
    if len(shape) != 4 or shape[2:] != (2, 2):
        raise ConfigError(
            f"model.backbone: '{name}' gives features {shape} for 64 px, not a [1, C, 2, 2] map of stride 32"
        )
    return int(shape[1])
