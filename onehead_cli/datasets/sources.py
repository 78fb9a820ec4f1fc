"""Which folders and files a config names for a task and a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onehead_cli.config import DataConfig
from onehead_cli.datasets import classification, segmentation
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.classification import ClassificationData
from onehead_cli.datasets.detection import DetectionData, read_coco
from onehead_cli.datasets.layout import ANNOTATION_FOLDER, DATASET_FOLDERS, instances_file
from onehead_cli.datasets.pictures import CacheBudget
from onehead_cli.datasets.segmentation import SegmentationData
from onehead_cli.errors import DataError
from onehead_cli.types import Task


def load_split(task: Task, split: str, data: DataConfig, *, interpolation: str, budget: CacheBudget) -> TaskData:
    """One split of one task's dataset.

    Raises:
        DataError: it is not there or cannot be read.
    """
    if task is Task.CLS:
        return ClassificationData(_cls_root(data) / split, data, interpolation, budget)
    if task is Task.SEG:
        return SegmentationData(_seg_root(data), split, data, interpolation, budget)
    return DetectionData(_det_images(data, split), _det_annotations(data, split), data, interpolation, budget)


def split_source(task: Task, split: str, data: DataConfig) -> Path:
    """The folder or, for detection, the annotation file that a split is read from, whether it is there or not."""
    if task is Task.CLS:
        return _cls_root(data) / split
    return _seg_root(data) / split if task is Task.SEG else _det_annotations(data, split)


def class_names(data: DataConfig, split: str) -> dict[Task, list[str]]:
    """The class names of all three tasks, in the order of the labels; the head's width follows from their counts.

    Raises:
        DataError: a dataset is not there.
    """
    annotations = _det_annotations(data, split)
    categories = sorted(read_coco(annotations)["categories"], key=lambda c: c["id"])
    return {
        Task.CLS: classification.read_classes(_cls_root(data) / split),
        Task.SEG: segmentation.read_classes(_seg_root(data)),
        Task.DET: [str(c["name"]) for c in categories],
    }


def check_classes(found: TaskData, wanted: Mapping[Task, Sequence[str]], what: str) -> None:
    """Raises: DataError: the split's class names are not those of the network, so labels would change meaning."""
    if found.classes != list(wanted[found.task]):
        raise DataError(
            f"{found.task} classes of the {what} differ: it has {', '.join(found.classes)}; "
            f"expected {', '.join(wanted[found.task])}"
        )


def _cls_root(data: DataConfig) -> Path:
    return data.cls_root or data.root / DATASET_FOLDERS[Task.CLS]


def _seg_root(data: DataConfig) -> Path:
    return data.seg_root or data.root / DATASET_FOLDERS[Task.SEG]


def _det_images(data: DataConfig, split: str) -> Path:
    path = _for_split(data.det_images or data.root / DATASET_FOLDERS[Task.DET], split)
    return path / split if (path / split).is_dir() else path


def _det_annotations(data: DataConfig, split: str) -> Path:
    path = _for_split(data.det_annotations or data.root / DATASET_FOLDERS[Task.DET] / ANNOTATION_FOLDER, split)
    return path if path.suffix == ".json" else path / instances_file(split)


def _for_split(path: Path, split: str) -> Path:
    return Path(str(path).replace("{split}", split))
