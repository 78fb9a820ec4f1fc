"""The bytes of an exported file: the graph, and all else that the checkpoint holds as its metadata."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from onehead_cli import __version__
from onehead_cli.checkpoint.checkpoint import Checkpoint, plain_document
from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.errors import ConfigError, OneheadError
from onehead_cli.events import Reporter
from onehead_cli.export.graph import joined, network_graph, reading_graph
from onehead_cli.export.numbers import to_int8, with_half_weights
from onehead_cli.files.checksum import sha256_of
from onehead_cli.runner import FORMAT, KEY, with_checksum
from onehead_cli.tasks.architecture import STRIDE
from onehead_cli.tasks.exported import MapReading
from onehead_cli.tasks.task import Reading, get_task
from onehead_cli.wording import first_line, readable

Numbers = Literal["float32", "float16", "int8"]
#: Of which the versions stand in the file.
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
_LICENCE = (
    "The code of onehead is under the Apache License 2.0. The weights were learned from images and from the weights of "
    "a backbone, whose owners have terms of their own; data.manifest is the sha256 of the list of those images, which "
    "has the licence of each where it is known."
)


def readings_of(checkpoint: Checkpoint, config: EvaluationConfig, reporter: Reporter) -> dict[str, MapReading]:
    """What reads the maps inside a file, by task; a task without is left out, which is said.

    Raises:
        ConfigError: no task has any.
    """
    readings = {}
    for name in checkpoint.architecture.tasks:
        found = get_task(name).exported(_reading(checkpoint, name, config))
        if found is None:
            reporter.warn(f"{name}: left out, because its package does not support export")
        else:
            readings[name] = found
    if not readings:
        raise ConfigError(f"no task of the network can be exported: {', '.join(checkpoint.architecture.tasks)}")
    return readings


def build_file(
    checkpoint: Checkpoint,
    path: Path,
    readings: Mapping[str, MapReading],
    config: EvaluationConfig,
    *,
    numbers: Numbers,
    calibration: Sequence[NDArray[np.uint8]] = (),
    advance: Callable[[int, str], None] = lambda done, what: None,
) -> bytes:
    """A file with the checkpoint's network and what reads its maps.

    Args:
        path: of the checkpoint, whose sum stands in the file.
        readings: from `readings_of`.
        numbers: in which weights are stored; of int8, also those in which it is computed.
        calibration: images that int8 is calibrated by, uint8 [S, S, 3].
        advance: is told of three steps.

    Raises:
        OneheadError: a layer cannot be exported, or the graph breaks a rule of ONNX.
    """
    try:
        return _built(checkpoint, path, readings, config, numbers, calibration, advance)
    except (OneheadError, OSError, MemoryError):
        raise
    except Exception as error:  # the exporter and the quantiser have many types for what they cannot do
        backbone = checkpoint.architecture.backbone
        raise OneheadError(f"{backbone}: cannot be exported ({type(error).__name__}: {first_line(error)})") from None


def _built(
    checkpoint: Checkpoint,
    path: Path,
    readings: Mapping[str, MapReading],
    config: EvaluationConfig,
    numbers: Numbers,
    calibration: Sequence[NDArray[np.uint8]],
    advance: Callable[[int, str], None],
) -> bytes:
    model, side, fit = checkpoint.model(), checkpoint.preprocess["image_size"], checkpoint.preprocess["fit"]
    network = network_graph(model, list(readings), side, folded=numbers != "float16")
    advance(1, "network")
    maps = {task: torch.zeros(1, model.channels[task], side // STRIDE, side // STRIDE) for task in readings}
    reading = reading_graph(maps, readings, side=side, fit=fit)
    advance(2, "reading")
    if numbers == "int8":
        network = to_int8(network, calibration)
    elif numbers == "float16":
        network = with_half_weights(network)
    whole = joined(network, reading)
    stored = {**_document(checkpoint, readings, config), "checkpoint_sha256": sha256_of(path), "numbers": numbers}
    whole.metadata_props.add(key=KEY, value=json.dumps(stored))
    content = with_checksum(_checked(whole))
    advance(3, "file")
    return content


def _reading(checkpoint: Checkpoint, task: str, config: EvaluationConfig) -> Reading:
    values = get_task(task).changed_reading(checkpoint.reading, config)
    return Reading(checkpoint.architecture, values, checkpoint.thresholds, config)


def _document(checkpoint: Checkpoint, readings: Mapping[str, MapReading], config: EvaluationConfig) -> dict[str, Any]:
    document = plain_document(checkpoint)
    document["architecture"]["tasks"] = list(readings)
    document["reading"] = {
        key: value
        for task in readings
        for key, value in get_task(task).fixed_reading(_reading(checkpoint, task, config)).items()
    }
    names = [name for classes in checkpoint.architecture.classes.values() for name in classes]
    return {
        **document,
        "export_format": FORMAT,
        "onehead": __version__,
        "licence": _LICENCE,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "tasks_of_outputs": {name: task for task, reading in readings.items() for name in reading.outputs},
        "titles": {name: readable(name) for name in names},
    }


def _checked(whole: ModelProto) -> bytes:
    try:
        onnx.checker.check_model(whole, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OneheadError(f"the exported graph is not valid ONNX ({first_line(error)})") from None
    content: bytes = whole.SerializeToString()
    return content
