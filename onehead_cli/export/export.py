"""From a checkpoint to one ONNX file, which is measured before it gets its name."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto

from onehead_cli import __version__
from onehead_cli.checkpoint import exported
from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint, plain_document
from onehead_cli.checkpoint.networks import STUDENT
from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError, LostError, OneheadError
from onehead_cli.evaluation.drop_check import Drop
from onehead_cli.events import Reporter
from onehead_cli.export.data import ExportData
from onehead_cli.export.graph import joined, network_graph, reading_graph
from onehead_cli.export.measure import Agreement, Weights, measure_floats, measure_int8
from onehead_cli.export.numbers import to_int8, with_half_weights
from onehead_cli.files.atomic import make_writable_folder, write_atomically
from onehead_cli.files.checksum import sha256_of
from onehead_cli.files.json_files import SCHEMA, write_json
from onehead_cli.network.onehead import OneHead
from onehead_cli.runner import KEY, with_checksum
from onehead_cli.tasks.architecture import STRIDE
from onehead_cli.tasks.exported import MapReading
from onehead_cli.tasks.task import Reading, get_task
from onehead_cli.wording import readable

#: What runs the file where there is no torch; a copy stands beside it.
RUNNER_SOURCE = Path(__file__).parents[1] / "runner.py"
RUNNER = "onehead_runner.py"
#: Of which the versions stand in the file.
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportResult:
    """file: the exported file. agreement: with the checkpoint. drops: from the checkpoint to the file on val, empty
    where there are no data. document: what {name}.export.json holds."""

    file: Path
    agreement: list[Agreement]
    drops: list[Drop]
    document: dict[str, Any]


def export_network(
    config: Config,
    *,
    checkpoint_path: Path,
    file: Path | None,
    weights: Weights,
    int8: bool,
    calibration_images: int,
    runner: bool,
    reporter: Reporter,
) -> ExportResult:
    """See `engine.export`.

    Raises:
        LostError: the file would not say what the checkpoint says; it is not written.
        OneheadError: the checkpoint or the data cannot be used, or the file cannot be written.
    """
    if file is not None and file.suffix != exported.SUFFIX:
        raise ConfigError(f"--output {file}: the name of an exported file ends in {exported.SUFFIX}")
    checkpoint = load_checkpoint(checkpoint_path)
    if file is None:
        name = "student" if checkpoint.name == STUDENT else checkpoint.name
        file = config.output / f"{name}{exported.SUFFIX}"
    make_writable_folder(file.parent)
    readings, values = _readings(checkpoint, config, reporter)
    tasks, side = list(readings), int(checkpoint.preprocess["image_size"])
    data = ExportData.open(checkpoint, tasks, config, reporter, needed=int8)
    calibration = data.calibration(calibration_images) if int8 and data else []
    numbers = "int8" if int8 else weights

    with reporter.track("export", 4) as advance:
        model = checkpoint.model()
        network = network_graph(model, tasks, side, folded=numbers != "float16")
        advance(1, "network")
        maps = {task: _empty_map(model, task, side) for task in tasks}
        reading = reading_graph(maps, readings, side=side, fit=checkpoint.preprocess["fit"])
        advance(2, "reading")
        if int8:
            network = to_int8(network, calibration)
        elif weights == "float16":
            network = with_half_weights(network)
        whole = joined(network, reading)
        stored = _stored_document(checkpoint, checkpoint_path, readings, values, numbers)
        whole.metadata_props.add(key=KEY, value=json.dumps(stored))
        content = with_checksum(_checked(whole))
        advance(3, "file")
        written = exported.read_exported(content, file)
        if int8 and data:
            agreement = measure_int8(checkpoint, written, readings, config, data.validation())
        else:
            agreement = measure_floats(checkpoint, written, readings, config, weights=weights)
        advance(4, "measured")

    missed = [each for each in agreement if not each.ok]
    document: dict[str, Any] = {
        "command": "export",
        "file": str(file),
        "written": not missed,
        "bytes": len(content),
        "tasks": tasks,
        "image_size": side,
        **written.exported,
        "calibration_images": len(calibration) if int8 else None,
        "agreement": [{**asdict(each), "ok": each.ok} for each in agreement],
        "drop": {},
    }
    drops: list[Drop] = []
    if not missed:
        _write(file, content)
        if runner:
            _write(file.with_name(RUNNER), RUNNER_SOURCE.read_bytes())
        drops = data.drops(checkpoint, written) if data else []
        document["drop"] = {drop.task: asdict(drop) for drop in drops}
    _write_report(file, document)
    if missed:
        what = ", ".join(f"{each.of} {each.name} is {each.value:.4g}, limit {each.limit:g}" for each in missed)
        raise LostError(f"{file}: not written, for it would not say what {checkpoint_path} says: {what}")
    return ExportResult(file, agreement, drops, document)


def report_path(file: Path) -> Path:
    return file.with_name(f"{file.stem}.export.json")


def _readings(
    checkpoint: Checkpoint, config: Config, reporter: Reporter
) -> tuple[dict[str, MapReading], dict[str, Any]]:
    """What reads the maps, by task, and how it does for good."""
    readings: dict[str, MapReading] = {}
    values: dict[str, Any] = {}
    for task in map(get_task, checkpoint.architecture.tasks):
        stored = task.changed_reading(checkpoint.reading, config.evaluation)
        reading = Reading(checkpoint.architecture, stored, checkpoint.thresholds, config.evaluation)
        found = task.exported(reading)
        if found is None:
            reporter.warn(f"{task.name}: left out, for its package has no part for an exported file")
            continue
        readings[task.name] = found
        values |= task.fixed_reading(reading)
    if not readings:
        raise ConfigError(f"no task of the network can be exported: {', '.join(checkpoint.architecture.tasks)}")
    return readings, values


def _empty_map(model: OneHead, task: str, side: int) -> torch.Tensor:
    return torch.zeros(1, model.channels[task], side // STRIDE, side // STRIDE)


def _stored_document(
    checkpoint: Checkpoint, path: Path, readings: Mapping[str, MapReading], values: Mapping[str, Any], numbers: str
) -> dict[str, Any]:
    """What stands in the file's metadata."""
    document = plain_document(checkpoint)
    document["architecture"]["tasks"] = list(readings)
    return {
        **document,
        "reading": dict(values),
        "export_format": exported.FORMAT,
        "onehead": __version__,
        "numbers": numbers,
        "tasks_of_outputs": {name: task for task, reading in readings.items() for name in reading.outputs},
        "titles": {name: readable(name) for names in checkpoint.architecture.classes.values() for name in names},
        "checkpoint_sha256": sha256_of(path),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _checked(whole: ModelProto) -> bytes:
    """The graph's bytes. Raises: OneheadError: it breaks a rule of ONNX."""
    try:
        onnx.checker.check_model(whole, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OneheadError(f"the exported graph is none of ONNX ({str(error).splitlines()[0]})") from None
    content: bytes = whole.SerializeToString()
    return content


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, lambda to: to.write(content))
    except OSError as error:
        raise OneheadError(f"{file}: cannot be written ({error.strerror}); an older file is untouched") from None


def _write_report(file: Path, document: Mapping[str, Any]) -> None:
    path = report_path(file)
    try:
        write_json({"schema": SCHEMA, **document}, path, indent=2)
    except OSError as error:
        raise OneheadError(f"{path}: cannot be written ({error.strerror})") from None
