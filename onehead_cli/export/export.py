"""From a checkpoint to one ONNX file, which is measured before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onehead_cli.checkpoint import exported
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import STUDENT
from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError, LostError, OneheadError
from onehead_cli.evaluation.drop_check import Drop
from onehead_cli.events import Reporter
from onehead_cli.export.build import build_file, readings_of
from onehead_cli.export.data import ExportData
from onehead_cli.export.measure import Agreement, Weights, measure_floats, measure_int8
from onehead_cli.files.atomic import make_writable_folder, write_atomically
from onehead_cli.files.json_files import SCHEMA, write_json

#: What runs the file where there is no torch; a copy stands beside it.
RUNNER_SOURCE = Path(__file__).parents[1] / "runner.py"
RUNNER = "onehead_runner.py"


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
    readings = readings_of(checkpoint, config.evaluation, reporter)
    data = ExportData.open(checkpoint, list(readings), config, reporter, needed=int8)
    calibration = data.calibration(calibration_images) if int8 and data else []
    with reporter.track("export", 4) as advance:
        content = build_file(
            checkpoint,
            checkpoint_path,
            readings,
            config.evaluation,
            numbers="int8" if int8 else weights,
            calibration=calibration,
            advance=advance,
        )
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
        "tasks": list(readings),
        "image_size": checkpoint.preprocess["image_size"],
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
