"""Any timm backbone of stride 32, with its preprocessing; for EfficientNets up to and with `conv_head`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import timm
import torch
from timm.data.config import resolve_data_config
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

    def __init__(self, body: nn.Module, *, out_channels: int, preprocess: Preprocess) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features


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
    return Backbone(body, out_channels=out_channels, preprocess=preprocess)


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
