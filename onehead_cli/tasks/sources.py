"""The data that a config names, ready for training and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.listing import ClassFolders, MaskFolders, describe_difference, list_split, read_classes
from onehead_cli.data.split import TaskData
from onehead_cli.errors import DataError
from onehead_cli.tasks.classification import ClassificationData
from onehead_cli.tasks.detection.data import DetectionData
from onehead_cli.tasks.segmentation.data import SegmentationData
from onehead_cli.types import Task


def load_split(
    task: Task,
    split: str,
    data: DataConfig,
    *,
    interpolation: str,
    budget: CacheBudget,
    skip: Collection[Path] = (),
    device: torch.device = CPU,
) -> TaskData:
    """One split of one task's dataset.

    Args:
        skip: pictures that are left out, with their labels.
        device: where pictures and masks are kept.

    Raises:
        DataError: it is not there or cannot be read.
    """
    found = list_split(task, split, data, skip=skip)
    if isinstance(found, ClassFolders):
        return ClassificationData(found, data, interpolation, budget, device)
    if isinstance(found, MaskFolders):
        return SegmentationData(found, data, interpolation, budget, device)
    return DetectionData(found, data, interpolation, budget, device)


def class_names(data: DataConfig, split: str) -> dict[Task, list[str]]:
    """The class names of all `data.tasks`, in the order of the labels; the head's width follows from their counts.

    Raises:
        DataError: a dataset is not there.
    """
    return {task: read_classes(task, split, data) for task in data.tasks}


def check_classes(found: TaskData, wanted: Mapping[Task, Sequence[str]], what: str) -> None:
    """Raises: DataError: the split's class names are not those of the network, so labels would change meaning."""
    if found.classes != list(wanted[found.task]):
        raise DataError(describe_difference(found.task, what, found.classes, wanted[found.task]))
