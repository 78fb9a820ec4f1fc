"""A draw of pictures from the official datasets on disk: COCO 2017, VOC 2012, Imagenette."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onehead_cli.datasets.files import (
    Progress,
    counted,
    entries_of,
    make_segmentation_folders,
    read_json,
    sha256_of,
    write_json,
)
from onehead_cli.datasets.layout import (
    ANNOTATION_FOLDER,
    DATASET_FOLDERS,
    MASK_FOLDER,
    PICTURE_FOLDER,
    PICTURE_SUFFIXES,
    SPLITS,
    VOC_CLASSES,
    instances_file,
)
from onehead_cli.errors import DataError
from onehead_cli.types import TASKS, Task

T = TypeVar("T")

_COCO_CLASSES = 10


class Draw:
    """The random draw of one task: an official split's pictures in shuffled order, each handed out once."""

    def __init__(
        self, task: Task, sizes: tuple[int, int, int], seed: int, seen: set[str], progress: Progress | None
    ) -> None:
        self.sizes = dict(zip(SPLITS, sizes, strict=True))
        self._folder = DATASET_FOLDERS[task]
        self._rng = np.random.default_rng([seed, TASKS.index(task)])
        self._seen = seen
        self._progress = progress

    def shuffle(self, pictures: Iterable[Path]) -> Iterator[Path]:
        """The pictures in an order that depends on their names and the seed, not on the order given."""
        ordered = sorted(pictures)
        return iter([ordered[index] for index in self._rng.permutation(len(ordered))])

    def take(self, count: int, pictures: Iterator[Path], split: str, source: str) -> list[Path]:
        """The next `count` pictures that were not seen before, sorted; `split` and `source` are for the message."""
        taken: list[Path] = []
        while len(taken) < count:
            picture = next(pictures, None)
            if picture is None:
                raise DataError(
                    f"{self._folder} {split}: found {len(taken)} unused pictures in {source}, asked for {count}; "
                    "ask for fewer, or complete the dataset"
                )
            digest = sha256_of(picture)
            if digest not in self._seen:
                self._seen.add(digest)
                taken.append(picture)
        return sorted(taken)

    def counted(self, pictures: Sequence[T], split: str) -> Iterator[T]:
        return counted(pictures, f"{self._folder}/{split}", self._progress)


def copy_imagenette(source: Path, folder: Path, draw: Draw) -> None:
    pools: dict[str, dict[str, Iterator[Path]]] = {}
    for official in ("train", "val"):
        _require(source / official, "Imagenette has train/ and val/, each with a folder a class")
        classes = sorted(path for path in (source / official).iterdir() if path.is_dir())
        pools[official] = {path.name: draw.shuffle(_pictures_in(path)) for path in classes}
    if not pools["train"] or pools["train"].keys() != pools["val"].keys():
        raise DataError(f"{source}: train/ and val/ must hold the same class folders, at least one")
    for split, size in draw.sizes.items():
        official = "train" if split == "train" else "val"
        taken: list[Path] = []
        for position, (name, pool) in enumerate(pools[official].items()):
            (folder / split / name).mkdir(parents=True)
            share = size // len(pools[official]) + (position < size % len(pools[official]))
            taken += draw.take(share, pool, split, f"{official}/{name}")
        for picture in draw.counted(taken, split):
            shutil.copyfile(picture, folder / split / picture.parent.name / picture.name)


def copy_voc(source: Path, folder: Path, draw: Draw) -> None:
    nested = source / "VOCdevkit" / "VOC2012"
    source = nested if nested.is_dir() else source
    lists = source / "ImageSets" / "Segmentation"
    pools = {}
    for official in ("train", "val"):
        path = lists / f"{official}.txt"
        _require(path, "VOC 2012 lists its segmented pictures there")
        names = path.read_text(encoding="utf-8").split()
        pools[official] = draw.shuffle(source / PICTURE_FOLDER / f"{name}.jpg" for name in names)
    for split, size in draw.sizes.items():
        official = "train" if split == "train" else "val"
        picture_folder, mask_folder = make_segmentation_folders(folder, split, VOC_CLASSES)
        for picture in draw.counted(draw.take(size, pools[official], split, f"{official}.txt"), split):
            mask = source / MASK_FOLDER / f"{picture.stem}.png"
            _require(mask, f"it is the mask of {picture.name}")
            shutil.copyfile(picture, picture_folder / picture.name)
            shutil.copyfile(mask, mask_folder / mask.name)


def copy_coco(source: Path, folder: Path, draw: Draw) -> None:
    # The annotations of the official train split take gigabytes once read: one official split at a time.
    for official, splits in (("train2017", SPLITS[:1]), ("val2017", SPLITS[1:])):
        instances = _read_instances(source / ANNOTATION_FOLDER / instances_file(official))
        _require(source / official, f"COCO has the pictures of {instances_file(official)} there")
        boxed = {a["image_id"] for a in instances["annotations"] if not a.get("iscrowd", 0)}
        names = [image["file_name"] for image in instances["images"] if image["id"] in boxed]
        pool = draw.shuffle(source / official / name for name in names)
        for split in splits:
            taken = draw.take(draw.sizes[split], pool, split, f"{official} (with a box of the kept categories)")
            (folder / split).mkdir(parents=True)
            for picture in draw.counted(taken, split):
                shutil.copyfile(picture, folder / split / picture.name)
            kept = _instances_of(instances, {picture.name for picture in taken})
            write_json(kept, folder / ANNOTATION_FOLDER / instances_file(split))


def _read_instances(path: Path) -> dict[str, Any]:
    """A COCO JSON cut to its first ten categories by id."""
    _require(path, "COCO 2017 has its boxes there")
    instances = read_json(path)
    categories = sorted(entries_of(instances, "categories", {"id", "name"}, path), key=_id)
    instances["categories"] = categories[:_COCO_CLASSES]
    ids = {category["id"] for category in instances["categories"]}
    annotations = entries_of(instances, "annotations", {"id", "image_id", "category_id", "bbox"}, path)
    instances["annotations"] = [a for a in annotations if a["category_id"] in ids]
    instances["images"] = entries_of(instances, "images", {"id", "file_name"}, path)
    return instances


def _instances_of(instances: Mapping[str, Any], file_names: set[str]) -> dict[str, Any]:
    """The part of a COCO JSON about some pictures, in the order of their ids."""
    images = sorted((i for i in instances["images"] if i["file_name"] in file_names), key=_id)
    ids = {image["id"] for image in images}
    annotations = sorted((a for a in instances["annotations"] if a["image_id"] in ids), key=_id)
    head = {key: instances[key] for key in ("info", "licenses") if key in instances}
    return {**head, "images": images, "annotations": annotations, "categories": instances["categories"]}


def _id(entry: dict[str, Any]) -> int:
    return int(entry["id"])


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]


def _require(path: Path, why: str) -> None:
    if not path.exists():
        raise DataError(f"{path}: not found; {why}")
