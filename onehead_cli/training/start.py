"""What a new network's training begins with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.sections import Config
from onehead_cli.data.loader import TrainLoader
from onehead_cli.errors import CheckpointError
from onehead_cli.events import Reporter
from onehead_cli.network.class_evidence import write_evidence
from onehead_cli.network.closed_form import closed_form, write_classes
from onehead_cli.network.merge import start_from_teachers
from onehead_cli.network.norm_statistics import renew_norms
from onehead_cli.network.onehead import OneHead
from onehead_cli.network.start_from import start_from
from onehead_cli.runtime.processes import from_first
from onehead_cli.tasks.architecture import Architecture

#: Clean mini-batches that norms are measured on.
_CLEAN_BATCHES = 16


def give_first_weights(
    model: OneHead,
    architecture: Architecture,
    config: Config,
    *,
    teachers: Mapping[str, OneHead],
    loader: TrainLoader,
    reporter: Reporter,
) -> None:
    """Bring a new network, its backbone loaded where it starts from ImageNet weights, to its first weights.

    Rows of the ImageNet classifier as evidence, or a checkpoint, or the mean of the teachers; then the norms measured
    anew, and at last classification in closed form.

    Args:
        teachers: empty where the network does not start from them.

    Raises:
        OneheadError: a checkpoint, the teachers, the classes or the backbone cannot be used.
    """
    settings = config.model

    def clean() -> Iterator[Tensor]:
        return (loader.clean(position) for position in range(_CLEAN_BATCHES))

    if teachers:
        start_from_teachers(model, teachers)
    elif settings.start_from:
        _start_from(model, architecture, settings.start_from, reporter)
    elif settings.class_evidence:
        write_evidence(model, architecture.classes, settings.backbone_weights)
    classes = closed_form(model, architecture, settings, clean()) if settings.imagenet_classes else None
    if classes:
        write_classes(model, classes)
    if teachers and config.student.renew_norms:
        renew_norms(model, clean())
        if classes:
            write_classes(model, classes)  # what is measured of these channels is right but for the last digits


def _start_from(
    model: OneHead, architecture: Architecture, source: Literal["shipped"] | Path, reporter: Reporter
) -> None:
    path = shipped_student() if source == "shipped" else Path(source)
    checkpoint = from_first(lambda: _checkpoint(path))
    other = checkpoint.model().to(model.mean.device)
    anew = start_from(model, architecture, other, checkpoint.architecture)
    reporter.note(f"starts from {path}" + (f"; starting afresh: {', '.join(anew)}" if anew else ""))


def _checkpoint(path: Path) -> Checkpoint:
    if not path.is_file():
        raise CheckpointError(
            f"model.start_from: {path}: {'a folder, not a checkpoint' if path.is_dir() else 'no such file'}"
        )
    return load_checkpoint(path)
