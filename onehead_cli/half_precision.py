"""A checkpoint as one safetensors file of half the size: to be used, not to go on training from.

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
from torch import Tensor

from onehead_cli.errors import CheckpointError, DamagedCheckpointError

SUFFIX = ".safetensors"
#: Larger files are not read: they are no checkpoint of a network that onehead trains.
MAX_BYTES = 1 << 30
#: Largest relative rounding error of a tensor, in norm, with which it is still stored in half precision.
MAX_ERROR = 1e-3

_ENTRY = "onehead"
_ZEROS = b"0" * 64


def to_half_precision(document: Mapping[str, Any]) -> bytes:
    """The file of a checkpoint's document: weights, a state dict, and else what JSON can hold; no training state.

    Matrices and kernels become float16. Vectors (norms and biases, 1.5 % of the numbers) stay float32, for running
    variances reach from 0 to beyond what float16 holds; so does a matrix that would lose more than MAX_ERROR, as one
    that overflows or is denormal throughout.

    Raises:
        ValueError: a value is not finite, or is nothing that JSON knows.
    """
    rest = {key: value for key, value in document.items() if key not in ("weights", "training")}
    metadata = {_ENTRY: json.dumps({"sha256": _ZEROS.decode(), **rest}, allow_nan=False)}
    weights = {name: _halved(value).contiguous() for name, value in document["weights"].items()}
    raw = safetensors.torch.save(weights, metadata)
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
        raise CheckpointError(
            f"{path}: holds no checkpoint of onehead; weights of a backbone are given with --backbone-weights"
        )
    checksum = str(document.pop("sha256", "")).encode()
    if hashlib.sha256(raw.replace(checksum, _ZEROS, 1)).hexdigest().encode() != checksum:
        raise DamagedCheckpointError(f"{path}: damaged: its checksum does not fit")
    try:
        weights = safetensors.torch.load(raw)
    except Exception as error:  # the library raises many types for a header that is not of its making
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    full = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    return {**document, "weights": full, "training": {}}


def _halved(value: Tensor) -> Tensor:
    if value.ndim < 2 or not value.is_floating_point():
        return value
    half = value.half()
    error = (half.float() - value).norm() / value.norm().clamp(min=1e-30)
    return half if error <= MAX_ERROR else value
