"""Any timm backbone of stride 32, with its preprocessing; for EfficientNets up to and with `conv_head`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from onehead_cli.errors import ConfigError
from onehead_cli.network.depthwise import replace_depthwise
from onehead_cli.suggestion import did_you_mean


@dataclass(frozen=True)
class Preprocess:
    """What the backbone was trained on; images are normalised inside the model as (x - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


@dataclass(frozen=True)
class SkipMap:
    """A backbone's last map of stride 16. index: its place in timm's `feature_info`; module: what gives it."""

    index: int
    module: str
    channels: int


class Backbone(nn.Module):
    """Features of an image: float [B, 3, S, S] -> [B, out_channels, S / 32, S / 32], and the skip where it is used.

    skip: the map of stride 16, [B, skip.channels, S / 16, S / 16], that is given as well; None for none.
    """

    def __init__(
        self, name: str, body: nn.Module, *, out_channels: int, preprocess: Preprocess, skip: SkipMap | None = None
    ) -> None:
        super().__init__()
        self.skip = skip
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
        return self._first_modules(self.frozen_stages)

    def stages(self) -> dict[int, list[nn.Parameter]]:
        """Its parameters, by the stride of the map that they lead to (timm's `feature_info`): 2, 4, ... 32.

        What comes after the last map, such as `conv_head`, counts with it. A backbone of which timm does not say where
        its maps are is one stage, of stride 32.
        """
        infos: Any = getattr(self.body, "feature_info", ())
        names = [f"{name}." for name, _ in self.body.named_modules()]
        ends: dict[int, int] = {}
        for info in infos:
            # The last layer inside the module that gives the map; of ResNets the first is an activation.
            inside = [place for place, name in enumerate(names) if name.startswith(f"{info['module']}.")]
            ends[info["reduction"]] = max(inside, default=0)
        found: dict[int, list[nn.Parameter]] = {}
        for place, module in enumerate(self.body.modules()):
            stride = next((stride for stride, end in ends.items() if place <= end), max(ends, default=32))
            found.setdefault(stride, []).extend(module.parameters(recurse=False))
        return found

    def trunk(self, images: Tensor) -> Tensor:
        """What the frozen layers, as far as the skip, make of the images; the images themselves where all learns."""
        with torch.no_grad():
            for module in self._first_modules(self._trunk_stages(self.frozen_stages)):
                images = module(images)
        return images

    def rest(self, trunk: Tensor) -> tuple[Tensor, Tensor | None]:
        """The features and the skip, from what `trunk` gave."""
        body: Any = self.body
        if not isinstance(body, EfficientNet):
            return (body(trunk), None) if self.skip is None else _with_intermediate(body, trunk, self.skip)
        if not self.frozen_stages:
            trunk = body.bn1(body.conv_stem(trunk))
        begin, x, skipped = self._trunk_stages(self.frozen_stages), trunk, None
        if self.skip is not None:
            end = _stages_before(self.skip)
            x = skipped = body.blocks[begin:end](trunk)
            begin = end
        return body.forward_head(body.bn2(body.conv_head(body.blocks[begin:](x)))), skipped

    def has_trunk_of(self, other: Backbone) -> bool:
        """Whether the other's trunk is also the first part here, to the last bit."""
        stages = other._trunk_stages(other.frozen_stages)
        if not stages or self.name != other.name or self._trunk_stages(other.frozen_stages) != stages:
            return False
        mine, stem = self.body.state_dict(), ("conv_stem.", "bn1.")
        layers = stem + tuple(f"blocks.{i}." for i in range(stages))
        theirs = {key: value for key, value in other.body.state_dict().items() if key.startswith(layers)}
        return all(torch.equal(mine[key], value) for key, value in theirs.items())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.rest(self.trunk(images))

    def _trunk_stages(self, frozen: int) -> int:
        """The stages of the trunk of so many frozen ones: it ends where the skip begins, which the rest needs too."""
        return min(frozen, _stages_before(self.skip)) if self.skip and frozen else frozen

    def _first_modules(self, stages: int) -> list[nn.Module]:
        body: Any = self.body
        return [body.conv_stem, body.bn1, *body.blocks[:stages]] if stages else []


def find_skip(body: nn.Module) -> SkipMap | None:
    """The last map of stride 16 by timm's `feature_info`; None where there is none, or where the model does not give
    it beside its features."""
    infos: Any = getattr(body, "feature_info", ())
    found = [
        SkipMap(index, info["module"], info["num_chs"]) for index, info in enumerate(infos) if info["reduction"] == 16
    ]
    if not found or not hasattr(body, "forward_intermediates"):
        return None
    last = found[-1]
    was_training = body.training
    body.eval()
    try:
        with torch.no_grad():
            image = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
            features, skipped = _with_intermediate(body, image, last)
            fits = skipped.shape == (1, last.channels, 4, 4) and torch.allclose(features, body(image), atol=1e-4)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError, AttributeError):
        return None  # each family of models has its own way of not giving it
    finally:
        body.train(was_training)
    return last if fits else None


def resolve_skip(backbone: str, mode: Literal["auto", "none", "stride16"]) -> bool:
    """Whether a network with this backbone has the skip.

    Raises:
        ConfigError: it must (stride16) and cannot, or timm does not know the backbone.
    """
    if mode == "none":
        return False
    skip = find_skip(_create_body(backbone))
    if skip is not None and skip.channels <= MAX_SKIP_CHANNELS:
        return True
    if mode == "stride16":
        has = "no map of stride 16 to give" if skip is None else f"one of {skip.channels} channels"
        raise ConfigError(
            f"model.skip=stride16: {backbone} has {has}, not one of at most {MAX_SKIP_CHANNELS} channels; "
            "use model.skip=none"
        )
    return False


def _with_intermediate(body: Any, images: Tensor, skip: SkipMap) -> tuple[Tensor, Tensor]:
    features, [skipped] = body.forward_intermediates(images, indices=[skip.index])
    return body.forward_head(features), skipped


def _stages_before(skip: SkipMap) -> int:
    """How many stages an EfficientNet runs through until it has the skip."""
    return int(skip.module.removeprefix("blocks.")) + 1


def create_backbone(name: str, *, skip: bool = False) -> Backbone:
    """Build a timm backbone with random weights; `weights.py` loads the pretrained ones.

    Raises:
        ConfigError: timm does not know the name, its features are not a map of stride 32, or it has no map to skip.
    """
    body = _create_body(name)
    cfg = resolve_data_config({}, model=body)  # type: ignore[no-untyped-call]
    out_channels = _probe_channels(name, body)
    skip_map = find_skip(body) if skip else None
    if skip and skip_map is None:
        raise ConfigError(f"model.skip: {name} has no map of stride 16 to give")
    replace_depthwise(body)
    preprocess = Preprocess(tuple(cfg["mean"]), tuple(cfg["std"]), cfg["interpolation"])
    return Backbone(name, body, out_channels=out_channels, preprocess=preprocess, skip=skip_map)


def _create_body(name: str) -> nn.Module:
    if not timm.is_model(name):
        raise ConfigError(f"model.backbone: timm has no '{name}'{did_you_mean(name, timm.list_models())}")
    try:
        body: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:  # each family of models refuses its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"model.backbone: '{name}' cannot be built without its classifier ({reason})") from None
    return body


def _probe_channels(name: str, body: nn.Module) -> int:
    was_training = body.training
    body.eval()
    try:
        with torch.no_grad():
            shape = tuple(body(torch.zeros(1, 3, 64, 64)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        # Transformers of a fixed input size refuse 64 px; the first line says so.
        raise ConfigError(
            f"model.backbone: '{name}' cannot read a 64 px image ({str(error).splitlines()[0]})"
        ) from None
    finally:
        body.train(was_training)
    if len(shape) != 4 or shape[2:] != (2, 2):
        raise ConfigError(
            f"model.backbone: '{name}' gives features {shape} for 64 px, not a [1, C, 2, 2] map of stride 32"
        )
    return int(shape[1])


#: A wider map is not taken: the closed-form classification keeps the last channels of the 640 for itself.
MAX_SKIP_CHANNELS = 320
