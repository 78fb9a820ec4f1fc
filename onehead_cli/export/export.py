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
    if file.is_dir():
        raise ConfigError(f"--output {file}: a folder has this name")
    readings = readings_of(checkpoint, config.evaluation, reporter)
    document: dict[str, Any] = {
        "command": "export",
        "file": str(file),
        "written": False,
        "reason": None,
        "tasks": list(readings),
        "image_size": checkpoint.preprocess["image_size"],
        "calibration_images": None,
        "agreement": [],
        "drop": {},
    }
    drops: list[Drop] = []
    try:
        data = ExportData.open(checkpoint, list(readings), config, reporter, needed=int8)
        calibration = data.calibration(calibration_images) if int8 and data else []
        document["calibration_images"] = len(calibration) if int8 else None
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
            written = exported.read_exported(content, file, threads=config.threads)
            document |= {"bytes": len(content), **written.exported}
            if int8 and data:
                agreement = measure_int8(checkpoint, written, readings, config, data.validation())
            else:
                agreement = measure_floats(checkpoint, written, readings, config, weights=weights)
            advance(4, "measured")
        document["agreement"] = [{**asdict(each), "ok": each.ok} for each in agreement]
        if missed := [each for each in agreement if not each.ok]:
            what = ", ".join(f"{each.of} {each.name} is {each.value:.4g}, limit {each.limit:g}" for each in missed)
            raise LostError(f"{file}: not written, because its results would differ from {checkpoint_path}: {what}")
        _write(file, content)
    except OneheadError as error:
        _write_report(file, {**document, "reason": str(error)})
        raise
    document["written"] = True
    _write_report(file, document)
    if runner:
        _write(file.with_name(RUNNER), runner_source().encode())
    if data:
        drops = data.drops(checkpoint, written)
        document["drop"] = {drop.task: asdict(drop) for drop in drops}
        _write_report(file, document)
    return ExportResult(file, agreement, drops, document)


def runner_source() -> str:
    """The script that runs a file where there is no torch: `onehead_cli.runner`, with the one module that it imports of
    onehead in the place of the import."""
    package = Path(__file__).parents[1]
    runner, coco = ((package / name).read_text(encoding="utf-8") for name in ("runner.py", "coco_results.py"))
    head, import_, rest = runner.partition("\nfrom onehead_cli.coco_results import CocoResults\n")
    assert import_
    return f"{head}{rest}".replace("\ndef in_json", "\n" + coco.partition("\n\n\n")[2] + "\n\ndef in_json", 1)


def report_path(file: Path) -> Path:
    return file.with_name(f"{file.stem}.export.json")


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, lambda to: to.write(content))
    except OSError as error:
        raise OneheadError(f"{file}: cannot be written ({error.strerror}); any older file is untouched") from None


def _write_report(file: Path, document: Mapping[str, Any]) -> None:
    path = report_path(file)
    try:
        write_json({"schema": SCHEMA, **document}, path, indent=2)
    except OSError as error:
        raise OneheadError(f"{path}: cannot be written ({error.strerror})") from None
