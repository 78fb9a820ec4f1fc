"""A checkpoint as one safetensors file of half the size: to be used, not to go on training from.

Matrices and kernels are float16, rounded so that bfloat16 makes the same of them as of the original: a network that
computes in bf16 gives the same outputs to the last bit. Plain rounding would not do, for it rounds twice. What float16
cannot hold that well, numbers below about 1e-5 or above 65504, stands beside the tensor `name` as `name.exact`, at the
places `name.exact_at` of the flattened tensor. Vectors (norms and biases, 1.5 % of the numbers) stay float32, for what
a norm computes with is never rounded to bfloat16.

The header's metadata hold one entry, `onehead`: the checkpoint without its weights as JSON, and before all else in it
`sha256`, the checksum of the whole file as it is with zeros in place of that checksum.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from onehead_cli.errors import CheckpointError, DamagedCheckpointError

SUFFIX = ".safetensors"
#: Larger files are not read: they are no checkpoint of a network that onehead trains.
MAX_BYTES = 1 << 30

_ENTRY = "onehead"
_ZEROS = b"0" * 64
_EXACT, _PLACES = ".exact", ".exact_at"


def to_half_precision(document: Mapping[str, Any]) -> bytes:
    """The file of a checkpoint's document; its training state is left out.

    Args:
        document: weights, a state dict; all else as JSON knows it.
    """
    rest = {key: value for key, value in document.items() if key not in ("weights", "training")}
    metadata = {_ENTRY: json.dumps({"sha256": _ZEROS.decode(), **rest}, allow_nan=False)}
    tensors: dict[str, Tensor] = {}
    for name, value in document["weights"].items():
        tensors |= _halved(name, value.contiguous())
    raw = safetensors.torch.save(tensors, metadata)
    return raw.replace(_ZEROS, hashlib.sha256(raw).hexdigest().encode(), 1)


def read_half_precision(path: Path) -> dict[str, Any]:
    """The document of such a file, weights in float32 and training empty; no code in it can run.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: damaged (DamagedCheckpointError), or not a checkpoint.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise CheckpointError(f"{path}: not a checkpoint: larger than {MAX_BYTES >> 20} MiB")
    try:
        header = json.loads(raw[8 : 8 + struct.unpack_from("<Q", raw)[0]])
        entry = header.get("__metadata__", {}).get(_ENTRY)
        document = None if entry is None else dict(json.loads(entry))
    except (struct.error, ValueError, TypeError, AttributeError, RecursionError):
        raise DamagedCheckpointError(f"{path}: damaged, or not a safetensors file") from None
    if document is None:
        raise CheckpointError(f"{path}: not a checkpoint of onehead; give backbone weights with --backbone-weights")
    checksum = str(document.pop("sha256", "")).encode("utf-8", "replace")  # JSON may hold half a character
    if hashlib.sha256(raw.replace(checksum, _ZEROS, 1)).hexdigest().encode() != checksum:
        raise DamagedCheckpointError(f"{path}: damaged: its checksum does not match")
    try:
        weights = _restored(safetensors.torch.load(raw))
    except Exception as error:  # the library raises many types for a header that is not of its making
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    return {**document, "weights": weights, "training": {}}


def _halved(name: str, value: Tensor) -> dict[str, Tensor]:
    """The tensors that a weight is stored as."""
    # autocast leaves vectors in float32, the [1, 3, 1, 1] mean and deviation of the colours among them.
    if value.squeeze().ndim < 2 or not value.is_floating_point():
        return {name: value}
    target, near = value.bfloat16(), value.half()
    # The bits of a float16 count up with its magnitude: this is the neighbour on the other side of the value.
    step = torch.where(near.float().abs() < value.abs(), 1, -1).to(torch.int16)
    neighbour = (near.view(torch.int16) + step).view(torch.float16)
    half = torch.where(near.bfloat16() == target, near, neighbour)
    exact_at = (half.bfloat16() != target).flatten().nonzero().flatten()
    if not len(exact_at):
        return {name: half}
    return {name: half, f"{name}{_PLACES}": exact_at.int(), f"{name}{_EXACT}": value.flatten()[exact_at]}


def _restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float32."""
    weights = {}
    for name, stored in tensors.items():
        if name.endswith((_PLACES, _EXACT)):
            continue
        weights[name] = stored.float() if stored.is_floating_point() else stored
        if f"{name}{_PLACES}" in tensors:
            places = tensors[f"{name}{_PLACES}"].long()
            weights[name].view(-1)[places] = tensors[f"{name}{_EXACT}"]
    return weights
