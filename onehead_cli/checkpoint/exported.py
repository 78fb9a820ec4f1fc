"""Exported files: a network with all that reads its maps, as ONNX, which onnxruntime runs without torch.

Whatever a checkpoint holds but its weights stands as JSON in the file's metadata. The last bytes of the file are one
more entry of the metadata, the SHA-256 of all bytes before it: a reader of Protocol Buffers takes the parts of a
message in any order, and who checks the sum has to know nothing else of the file.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint, parse_document, without_weights
from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.geometry import Fit
from onehead_cli.errors import CheckpointError, ConfigError, DamagedCheckpointError
from onehead_cli.network.onehead import OneHead
from onehead_cli.network.runner import Runner
from onehead_cli.runner import FORMAT, KEY, valid_sha256
from onehead_cli.tasks.exported import IMAGE, MASK_SIZE, SIZE, FileOutputs
from onehead_cli.tasks.reader import NO_INPUTS, Reader
from onehead_cli.tasks.task import Reading, get_task
from onehead_cli.wording import first_line

SUFFIX = ".onnx"
#: Height and width.
Size = tuple[int, int]


@dataclass
class ExportedNetwork(Checkpoint):
    """A checkpoint without weights, and the file that does what they did.

    path: of the file. session: onnxruntime's. exported: the rest of its document.
    """

    path: Path = Path()
    session: Any = None
    exported: dict[str, Any] = field(default_factory=dict)

    def model(self) -> OneHead:
        raise CheckpointError(without_weights(self.path))

    def runner(self, device: torch.device, precision: torch.dtype) -> FileRunner:
        return FileRunner(self.path, self.session, self.architecture.tasks)

    def reader(self, task: str, config: EvaluationConfig, *, score_threshold: float | None = None) -> Reader:
        found = get_task(task)
        values = found.changed_reading(self.reading, config)
        reading = Reading(self.architecture, values, self.thresholds, config, score_threshold)
        try:
            return found.exported_reader(reading, self.reading)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None


class FileRunner(Runner):
    """Runs an exported file, one image at a time."""

    def __init__(self, path: Path, session: Any, tasks: Sequence[str]) -> None:
        self._path, self._session, self._tasks = path, session, tasks
        self._outputs = [output.name for output in session.get_outputs()]

    def run(
        self, images: Tensor, fits: Sequence[Fit], *, inputs: Mapping[str, float] = NO_INPUTS, pixels: bool = True
    ) -> Mapping[str, Sequence[FileOutputs]]:
        """Each task's entry is the same list: its reader takes its outputs by their names."""
        found = []
        for image, fit in zip(images.permute(0, 2, 3, 1).cpu().numpy(), fits, strict=True):
            size = (fit.height, fit.width)
            found.append(self.run_one(image, size, size if pixels else (1, 1), inputs))
        return dict.fromkeys(self._tasks, found)

    def run_one(
        self, image: NDArray[np.uint8], size: Size, mask_size: Size, inputs: Mapping[str, float]
    ) -> FileOutputs:
        """The outputs by name. Args: image: uint8 [S, S, 3]."""
        feed: dict[str, Any] = {IMAGE: np.ascontiguousarray(image)}
        feed |= {SIZE: np.array(size, dtype=np.int64), MASK_SIZE: np.array(mask_size, dtype=np.int64)}
        feed |= {name: np.array(value, dtype=np.float32) for name, value in inputs.items()}
        try:
            found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        except Exception as error:  # it has a type for each status, and none that they share
            raise CheckpointError(f"{self._path}: onnxruntime cannot run it ({first_line(error)})") from None
        if not all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f"):
            raise CheckpointError(f"{self._path}: its outputs are not finite; export the network again")
        return found


def import_onnxruntime(path: Path) -> ModuleType:
    """Raises: ConfigError: it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path}: to read an exported file, pip install 'onehead[export]'") from None
    return onnxruntime  # type: ignore[no-any-return]


def import_exporter() -> None:
    """Raises: ConfigError: a library is missing that only an export needs."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise ConfigError(f"to export a network, pip install 'onehead[export]' ({name} is missing)") from None


def load_network(path: Path, *, threads: int | None = None) -> Checkpoint:
    """A checkpoint to be used, not trained on: as `load_checkpoint` reads it, or an exported file.

    Args: threads: of onnxruntime; None leaves its choice.

    Raises:
        CheckpointError: see `load_checkpoint`.
        ConfigError: onnxruntime is not installed.
    """
    return load_exported(path, threads=threads) if path.suffix == SUFFIX else load_checkpoint(path)


def load_exported(path: Path, *, threads: int | None = None) -> ExportedNetwork:
    """Raises: CheckpointError or ConfigError: as `load_network`."""
    import_onnxruntime(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; `onehead export` writes one") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return read_exported(content, path, threads=threads)


def read_exported(content: bytes, path: Path, *, threads: int | None = None) -> ExportedNetwork:
    """The same of a file's content; `path` is named."""
    onnxruntime = import_onnxruntime(path)
    if valid_sha256(content) is None:
        raise DamagedCheckpointError(
            f"{path}: not a readable exported file: its checksum does not match, so it is damaged or was not "
            "written by `onehead export`"
        )
    session = open_session(content, path, onnxruntime, threads=threads)
    try:
        document = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    except (KeyError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not written by `onehead export`")
    if document.get("export_format") != FORMAT:
        raise CheckpointError(f"{path}: exported by another version of onehead ({document.get('onehead')})")
    checkpoint = parse_document({**document, "weights": {}, "training": {}}, path)
    stored = {entry.name: getattr(checkpoint, entry.name) for entry in fields(Checkpoint)}
    further = {key: document.get(key) for key in ("onehead", "numbers", "checkpoint_sha256", "versions")}
    return ExportedNetwork(**stored, path=path, session=session, exported=further)


def open_session(content: bytes, path: Path, onnxruntime: ModuleType, *, threads: int | None = None) -> Any:
    """onnxruntime's session of a file. Raises: CheckpointError: it cannot load it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a type for each status, and none that they share
        raise CheckpointError(f"{path}: onnxruntime cannot load it ({first_line(error)})") from None
