"""Checkpoint files: tensors and plain values only, written atomically, checked and read without running code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from onehead_cli.checkpoint.half_precision import SUFFIX, read_half_precision, to_half_precision
from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.errors import CheckpointError, ConfigError, DamagedCheckpointError
from onehead_cli.files.atomic import write_atomically
from onehead_cli.files.checksum import add_checksum, has_valid_checksum
from onehead_cli.network.onehead import OneHead, build_model
from onehead_cli.network.runner import Runner, TorchRunner
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.reader import Reader
from onehead_cli.tasks.task import Reading, all_tasks, get_task
from onehead_cli.wording import first_line, how_many, is_one_line

#: Format 3 added what changes the reading of weights: skip, priors, unit of sizes, pooling, how boxes are read; and on
#: what the network was trained. In format 2 all these are what they were in 0.1.0, whatever today's defaults are.
FORMAT = 3
_READABLE = (2, FORMAT)


@dataclass
class Checkpoint:
    """A network with all that is needed to use it, and, in a `_last` file, to go on training it.

    name: "cls", "seg", "det" or "all".
    weights: the averaged (EMA) weights that are evaluated.
    preprocess: mean, std and interpolation of the backbone, image size in pixels, and fit.
    thresholds: how the maps are read, chosen on val, by name. Cells less sure of their class than `cells` do not count
        in classification; a box is shown from a score in `boxes`, one per detection class (evaluation keeps all boxes).
    scores: on val, by metric.
    config: the config it was trained with.
    epoch: epochs done. training: optimizer, raw weights, random states, ... of a `_last` file, else empty.
    data: what it was trained on: {"manifest": sha256 of the manifest, or None where there was none}.
    reading: how its maps are read besides, as plain values by name; empty in format 2, which means as 0.1.0 read.
    origin: what it was trained with: {"precision": "bf16" or "fp32", "processor": ..., "commit": ...}, and whether its
        classification began as the ImageNet classifier, {"imagenet_classes": True or False}; empty where it was not
        written down, in format 2.
    """

    name: str
    architecture: Architecture
    weights: dict[str, Tensor]
    preprocess: dict[str, Any]
    thresholds: dict[str, Any]
    scores: dict[str, float | None]
    config: dict[str, Any]
    epoch: int
    seed: int
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str | bool | None] = field(default_factory=dict)

    @property
    def began_as_imagenet(self) -> bool:
        """Whether classification began as the ImageNet classifier, which knew the classes before any training."""
        written = bool(self.config.get("model", {}).get("imagenet_classes"))
        return bool(self.origin.get("imagenet_classes", written))

    def untrained(self) -> OneHead:
        """A network of the architecture, with any weights.

        Raises:
            CheckpointError: none can be built.
        """
        try:
            return build_model(self.architecture)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise CheckpointError(
                f"'{self.name}': no network can be built for its architecture ({first_line(error)})"
            ) from None

    def model(self) -> OneHead:
        """The network in eval mode.

        Raises:
            CheckpointError: the weights are not those of the architecture, or none can be built.
        """
        model = self.untrained()
        wanted = {name: value.shape for name, value in model.state_dict().items()}
        found = {name: value.shape for name, value in self.weights.items()}
        if others := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
            raise CheckpointError(
                f"{how_many(len(others), 'weight')} of '{self.name}' do not fit its architecture, {others[0]!a} first"
            )
        model.load_state_dict(self.weights)
        return model.eval()

    def runner(self, device: torch.device, precision: torch.dtype) -> Runner:
        """What runs the network there. Raises: CheckpointError: as for `model`."""
        placed: OneHead = self.model().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return TorchRunner(placed, device, precision)

    def reader(self, task: str, config: EvaluationConfig, *, score_threshold: float | None = None) -> Reader:
        """What reads the network's map of a task; see `Task.reader`.

        Raises:
            CheckpointError: what is stored of the reading cannot be used.
        """
        found = get_task(task)
        try:
            values = found.changed_reading(self.reading, config)
            return found.reader(Reading(self.architecture, values, self.thresholds, config, score_threshold))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise CheckpointError(
                f"'{self.name}': its settings for reading {task} cannot be used ({error!a})"
            ) from None


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
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); the previous file is untouched") from None


def _document(checkpoint: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint but its training state, as tensors and plain values."""
    return {**plain_document(checkpoint), "weights": checkpoint.weights}


def plain_document(checkpoint: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint but its weights and its training state, as plain values."""
    architecture = checkpoint.architecture
    return {
        "format": FORMAT,
        "name": checkpoint.name,
        "architecture": {
            "backbone": architecture.backbone,
            "classes": {task: list(names) for task, names in architecture.classes.items()},
            "tasks": list(architecture.tasks),
            "skip": architecture.skip,
            **architecture.of_tasks,
        },
        "preprocess": checkpoint.preprocess,
        "thresholds": checkpoint.thresholds,
        "scores": checkpoint.scores,
        "config": checkpoint.config,
        "epoch": checkpoint.epoch,
        "seed": checkpoint.seed,
        "data": checkpoint.data,
        "reading": checkpoint.reading,
        "origin": checkpoint.origin,
    }


def without_weights(path: Path) -> str:
    """What is said of an exported file where a checkpoint is wanted."""
    return f"{path}: an exported file has no torch weights; name the checkpoint that it was exported from"


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint on the CPU: a .pth file, or one in half precision as .safetensors, its weights in float32.

    Raises:
        CheckpointError: missing, damaged (DamagedCheckpointError), holding anything but tensors and plain values, or
            of another format.
    """
    if path.suffix == ".onnx" and path.is_file():
        raise CheckpointError(without_weights(path))
    try:
        document = read_half_precision(path) if path.suffix == SUFFIX else _read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train one first, or name another") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_document(document, path)


def parse_document(document: object, path: Path) -> Checkpoint:
    """The checkpoint of a document that a file holds.

    Raises:
        CheckpointError: it is none; `path` is named.
    """
    if not isinstance(document, dict) or document.get("format") not in _READABLE:
        readable = " or ".join(map(str, _READABLE))
        raise CheckpointError(f"{path}: not a checkpoint of this version of onehead (format {readable})")
    try:
        return _parse(document)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: not a complete checkpoint ({where!a}: {first['msg']})") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a complete checkpoint ({error!a})") from None


def _read(path: Path) -> object:
    with path.open("rb") as file:
        if not has_valid_checksum(file):
            raise DamagedCheckpointError(
                f"{path}: not a readable checkpoint: its checksum does not match, so the file is damaged or was "
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


def _one_line(text: str) -> str:
    if not is_one_line(text):
        raise ValueError("holds a control character or half a character")
    return text


_Name = Annotated[str, AfterValidator(_one_line)]


class _Part(BaseModel):
    """Of a stored document; a value of another type is refused and not converted."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class _StoredArchitecture(_Part):
    model_config = ConfigDict(extra="allow")

    backbone: _Name
    classes: dict[_Name, list[_Name]]  # a task without any has an empty list
    tasks: Annotated[list[_Name], Field(min_length=1)]
    skip: bool = False


class _StoredPreprocess(_Part):
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=3, max_length=3)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    image_size: Annotated[int, Field(ge=32, le=2048, multiple_of=32)]
    fit: Literal["resize", "letterbox"]


class _Stored(_Part):
    """A document as `_document` writes it."""

    name: _Name
    architecture: _StoredArchitecture
    weights: dict[str, Tensor]
    preprocess: _StoredPreprocess
    thresholds: dict[str, Any]
    scores: dict[str, float | None]
    config: dict[str, Any]
    epoch: Annotated[int, Field(ge=0)]
    seed: int
    training: dict[str, Any]
    data: dict[str, Any] = {}
    reading: dict[str, Any] = {}
    origin: dict[str, str | bool | None] = {}


def _parse(document: Mapping[str, Any]) -> Checkpoint:
    stored, is_old = _Stored.model_validate(document), document["format"] == 2
    if not is_old and not {"reading", "origin"} <= stored.model_fields_set:
        raise ValueError("format 3 without reading and origin")
    fields = {key: getattr(stored, key) for key in _Stored.model_fields if key not in ("architecture", "preprocess")}
    return Checkpoint(
        architecture=_architecture(document["architecture"], is_old=is_old),
        preprocess=stored.preprocess.model_dump(),
        **fields,
    )


def _architecture(stored: Mapping[str, Any], *, is_old: bool) -> Architecture:
    """Raises: ConfigError: a task that is not installed."""
    further = dict(stored)
    known = {key: further.pop(key) for key in ("backbone", "classes", "tasks")}
    skip = False if is_old else bool(further.pop("skip"))
    for task in all_tasks(list(known["classes"])):
        task.check(further)
    for name in known["classes"]:
        get_task(name)
    return Architecture(
        backbone=known["backbone"],
        classes={task: list(names) for task, names in known["classes"].items()},
        tasks=tuple(known["tasks"]),
        skip=skip,
        of_tasks=further,
    )
