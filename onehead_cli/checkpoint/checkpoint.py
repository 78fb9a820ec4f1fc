"""Checkpoint files: tensors and plain values only, written atomically, checked and read without running code."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from onehead_cli.checkpoint.half_precision import SUFFIX, read_half_precision, to_half_precision
from onehead_cli.errors import CheckpointError, DamagedCheckpointError
from onehead_cli.files.atomic import write_atomically
from onehead_cli.files.checksum import add_checksum, has_valid_checksum
from onehead_cli.network.onehead import OneHead, build_model
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.reading import Reading
from onehead_cli.types import SizeUnit, Task

#: Format 3 added what changes the reading of weights: skip, priors, unit of sizes, pooling, how boxes are read; and on
#: what the network was trained. In format 2 all these are what they were in 0.1.0, whatever today's defaults are.
FORMAT = 3

_READABLE = (2, FORMAT)


@dataclass
class Thresholds:
    """How the maps are read; chosen on val.

    cells: cells less sure of their class than this do not count in classification.
    boxes: score of a class from which a box is drawn, one a detection class (evaluation keeps all boxes).
    """

    cells: float
    boxes: list[float]


@dataclass
class Checkpoint:
    """A network with all that is needed to use it, and, in a `_last` file, to go on training it.

    name: "cls", "seg", "det" or "all".
    weights: the averaged (EMA) weights that are evaluated.
    preprocess: mean, std and interpolation of the backbone, image size in pixels, and fit.
    scores: on val, by metric.
    config: the config it was trained with.
    epoch: epochs done. training: optimizer, raw weights, random states, ... of a `_last` file, else empty.
    data: what it was trained on: {"manifest": sha256 of the manifest, or None where there was none}.
    reading: how its maps are read.
    origin: what it was trained with: {"precision": "bf16" or "fp32", "processor": ..., "commit": ...}; empty where it
        was not written down, in format 2.
    """

    name: str
    architecture: Architecture
    weights: dict[str, Tensor]
    preprocess: dict[str, Any]
    thresholds: Thresholds
    scores: dict[str, float | None]
    config: dict[str, Any]
    epoch: int
    seed: int
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    origin: dict[str, str | None] = field(default_factory=dict)

    def model(self) -> OneHead:
        """The network in eval mode.

        Raises:
            CheckpointError: the weights are not those of the architecture.
        """
        model = build_model(self.architecture)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(f"weights of '{self.name}' do not fit its architecture: {error}") from None
        return model.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, keep: Path | None = None) -> None:
    """Write a checkpoint with its checksum; the old file stays whole until the new one is.

    Args:
        keep: where the old file goes; without it the old file is replaced.

    Raises:
        CheckpointError: the file cannot be written.
    """
    # Into memory first: torch turns whatever goes wrong while it writes to a file, a full disk or a signal, into an
    # error that no longer says what it was.
    archive = io.BytesIO()
    torch.save({**_document(checkpoint), "training": checkpoint.training}, archive)
    add_checksum(archive)
    _write(path, archive.getbuffer(), keep=keep)


def save_half_precision(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint for use alone, in half precision, as a .safetensors file that `load_checkpoint` reads.

    Raises:
        CheckpointError: the file cannot be written.
    """
    _write(path, to_half_precision(_document(checkpoint)))


def _write(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    try:
        write_atomically(path, lambda file: file.write(content), keep=keep)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); the file before it is untouched"
        ) from None


def _document(checkpoint: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint but its training state, as tensors and plain values."""
    architecture = checkpoint.architecture
    return {
        "format": FORMAT,
        "name": checkpoint.name,
        "architecture": {
            "backbone": architecture.backbone,
            "classes": {task.value: list(names) for task, names in architecture.classes.items()},
            "boxes_per_cell": architecture.boxes_per_cell,
            "tasks": [task.value for task in architecture.tasks],
            "skip": architecture.skip,
            "priors": [list(prior) for prior in architecture.priors],
            "size_unit": architecture.size_unit,
        },
        "weights": checkpoint.weights,
        "preprocess": checkpoint.preprocess,
        "thresholds": {"cells": checkpoint.thresholds.cells, "boxes": checkpoint.thresholds.boxes},
        "scores": checkpoint.scores,
        "config": checkpoint.config,
        "epoch": checkpoint.epoch,
        "seed": checkpoint.seed,
        "data": checkpoint.data,
        "reading": dataclasses.asdict(checkpoint.reading),
        "origin": checkpoint.origin,
    }


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint on the CPU: a .pth file, or one in half precision as .safetensors, its weights in float32.

    Raises:
        CheckpointError: missing, damaged (DamagedCheckpointError), holding anything but tensors and plain values, or
            of another format.
    """
    try:
        document = read_half_precision(path) if path.suffix == SUFFIX else _read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train one first, or name one with --checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(document, dict) or document.get("format") not in _READABLE:
        readable = " or ".join(map(str, _READABLE))
        raise CheckpointError(f"{path}: not a checkpoint of this version of onehead (format {readable})")
    try:
        return _parse(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: incomplete checkpoint ({error})") from None


def _read(path: Path) -> object:
    with path.open("rb") as file:
        if not has_valid_checksum(file):
            raise DamagedCheckpointError(
                f"{path}: not a readable checkpoint: its checksum does not fit, so the file is damaged or was "
                "not written by this version of onehead"
            )
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises many types for what it does not load
            raise CheckpointError(
                f"{path}: not a readable checkpoint: it holds more than tensors and plain values "
                f"({type(error).__name__})"
            ) from None


def _parse(document: Mapping[str, Any]) -> Checkpoint:
    stored, is_old = document["architecture"], document["format"] == 2
    since_3 = {} if is_old else _since_format_3(stored)
    architecture = Architecture(
        backbone=stored["backbone"],
        classes={Task(task): list(names) for task, names in stored["classes"].items()},
        boxes_per_cell=int(stored["boxes_per_cell"]),
        tasks=tuple(Task(task) for task in stored["tasks"]),
        **since_3,
    )
    thresholds = Thresholds(float(document["thresholds"]["cells"]), list(document["thresholds"]["boxes"]))
    fields = ("name", "weights", "preprocess", "scores", "config", "epoch", "seed", "training")
    stored_fields = {key: document[key] for key in fields}
    data = document.get("data", {})
    reading = Reading() if is_old else Reading(**document["reading"])
    origin = {} if is_old else dict(document["origin"])
    return Checkpoint(
        architecture=architecture, thresholds=thresholds, data=data, reading=reading, origin=origin, **stored_fields
    )


def _since_format_3(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an architecture that format 2 has not; their defaults are what it means."""
    if stored["size_unit"] not in get_args(SizeUnit):
        raise ValueError(f"size_unit {stored['size_unit']!r}")
    priors = tuple((float(width), float(height)) for width, height in stored["priors"])
    return {"skip": bool(stored["skip"]), "priors": priors, "size_unit": stored["size_unit"]}
