"""What a new network's training begins with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.sections import Config, ModelConfig
from onehead_cli.data.loader import TrainLoader
from onehead_cli.errors import CheckpointError
from onehead_cli.events import Reporter
from onehead_cli.network.class_evidence import write_evidence
from onehead_cli.network.closed_form import closed_form, image_task, write_classes
from onehead_cli.network.merge import start_from_teachers
from onehead_cli.network.norm_statistics import renew_norms
from onehead_cli.network.onehead import OneHead
from onehead_cli.network.start_from import start_from
from onehead_cli.runtime.processes import from_first
from onehead_cli.tasks.architecture import Architecture

#: Clean mini-batches that norms are measured on.
_CLEAN_BATCHES = 16
#: Of `model`: what only initialises a network, so that a checkpoint stands in its place.
_INITIAL = ("imagenet_classes", "icnr", "class_evidence")


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
    anew, and at last classification in closed form. `start_from` stands for all of that but the teachers' mean: on a
    backbone that has learned, the classifier no longer fits, and its rows would take the place of learned ones.

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
        if settings.start_from:
            reporter.note("starts from its teachers (student.from_teachers); model.start_from is where they start")
    elif settings.start_from:
        _start_from(model, architecture, settings, reporter)
    elif settings.class_evidence:
        write_evidence(model, architecture.classes, settings.backbone_weights)
    classes = closed_form(model, architecture, settings, clean()) if _in_closed_form(settings) else None
    if classes:
        write_classes(model, classes)
    if teachers and config.student.renew_norms:
        renew_norms(model, clean())
        if classes:
            write_classes(model, classes)  # what is measured of these channels is right but for the last digits


def began_as_imagenet(architecture: Architecture, config: Config, teachers: Collection[Checkpoint]) -> bool:
    """Whether a new network's classification begins as the ImageNet classifier: its own, or that of what it starts from
    if it takes over a class of that.

    Args: teachers: empty where the network does not start from them.

    Raises:
        CheckpointError: what it starts from cannot be read.
    """
    if _in_closed_form(config.model):
        return True
    start = config.model.start_from
    sources = teachers or ([_source(start)] if start else [])
    task = image_task(architecture.classes)
    return task is not None and any(
        source.began_as_imagenet and not set(architecture.classes[task]).isdisjoint(source.architecture.classes[task])
        for source in sources
        if task in source.architecture.classes
    )


def _in_closed_form(settings: ModelConfig) -> bool:
    return settings.imagenet_classes and not settings.start_from


def _start_from(model: OneHead, architecture: Architecture, settings: ModelConfig, reporter: Reporter) -> None:
    assert settings.start_from is not None
    checkpoint = _source(settings.start_from)
    other = checkpoint.model().to(model.mean.device)
    fit = start_from(model, architecture, other, checkpoint.architecture)
    unused = [f"model.{key}" for key in _INITIAL if getattr(settings, key)]
    parts = {"starting afresh": fit.anew, "left out": fit.left_out, "without effect": unused}
    said = [f"; {what}: {', '.join(names)}" for what, names in parts.items() if names]
    reporter.note(f"starts from {_path(settings.start_from)}{''.join(said)}")


def _path(source: Literal["shipped"] | Path) -> Path:
    return shipped_student() if source == "shipped" else Path(source)


def _source(source: Literal["shipped"] | Path) -> Checkpoint:
    return from_first(lambda: _checkpoint(_path(source)))


def _checkpoint(path: Path) -> Checkpoint:
    if not path.is_file():
        raise CheckpointError(
            f"model.start_from: {path}: {'a folder, not a checkpoint' if path.is_dir() else 'no such file'}"
        )
    return load_checkpoint(path)
