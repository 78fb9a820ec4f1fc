"""Writes the three datasets: drawn (`prepare_synthetic`), or picked from official ones on disk (`prepare_local`).

Both write into a folder inside the root and move it into place at the end, the manifest last: where there is a
manifest, the datasets are complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.datasets import synthetic
from onehead_cli.datasets.layout import (
    ANNOTATION_FOLDER,
    CLASSES_FILE,
    DATASET_FOLDERS,
    MANIFEST_FILE,
    MASK_FOLDER,
    PICTURE_FOLDER,
    PICTURE_SUFFIXES,
    SPLITS,
    VOC_CLASSES,
    instances_file,
    voc_palette,
)
from onehead_cli.errors import DataError
from onehead_cli.types import TASKS, Task

#: Called with a label, the pictures done and the pictures in all.
Progress = Callable[[str, int, int], None]

T = TypeVar("T")

_MANIFEST_SCHEMA = 1
_COCO_CLASSES = 10
_JPEG_QUALITY = 90
#: Every so many-th synthetic detection picture has a crowd region.
_CROWD_EVERY = 10


@dataclass(frozen=True)
class PrepareResult:
    """What was written. counts: pictures a task and split; manifest: its path."""

    root: Path
    source: str
    seed: int
    counts: dict[Task, dict[str, int]]
    manifest: Path


def prepare_synthetic(
    root: Path,
    *,
    sizes: tuple[int, int, int] = (240, 60, 60),
    image_size: int = 256,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareResult:
    """Draw three disjoint datasets of about `image_size` pixels a side; the same arguments give the same bytes.

    Args:
        root: folder for the three dataset folders and the manifest; other files in it stay as they are.
        sizes: pictures of each task in train, val and test.
        overwrite: replace datasets that stand there already.

    Raises:
        DataError: an argument out of range, datasets that stand there already, or a folder that cannot be written.
    """
    _check_arguments(sizes, seed)
    if image_size < synthetic.MIN_IMAGE_SIZE:
        raise DataError(f"image size {image_size}: synthetic pictures need at least {synthetic.MIN_IMAGE_SIZE} pixels")
    writers = {Task.CLS: _draw_classification, Task.SEG: _draw_segmentation, Task.DET: _draw_detection}
    with _staging(root, overwrite=overwrite) as staging:
        for task, write in writers.items():
            for position, split in enumerate(SPLITS):
                # The numbers run on from split to split, so that no two pictures of a task share a name.
                first = 1 + sum(sizes[:position])
                pictures = [
                    (first + index, np.random.default_rng([seed, TASKS.index(task), position, index]))
                    for index in range(sizes[position])
                ]
                counted = _counted(pictures, f"{DATASET_FOLDERS[task]}/{split}", progress)
                write(staging / DATASET_FOLDERS[task], split, counted, image_size)
        arguments = {"seed": seed, "sizes": list(sizes), "image_size": image_size}
        return _publish(staging, root, "synthetic", arguments)


def prepare_local(
    root: Path,
    *,
    coco: Path,
    voc: Path,
    imagenette: Path,
    sizes: tuple[int, int, int] = (240, 60, 60),
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareResult:
    """Copy a draw of the official datasets: train from the official train, val and test from the official val.

    A picture whose bytes were drawn before, for any split or task, is passed over.

    Args:
        root: folder for the three dataset folders and the manifest; other files in it stay as they are.
        coco: COCO 2017, holding annotations/instances_{train,val}2017.json, train2017/ and val2017/. Only its first
            ten categories are kept, and only pictures with a box of them that is not a crowd.
        voc: VOC 2012, or a folder that holds VOCdevkit/VOC2012.
        imagenette: folder of train/ and val/, each of class folders, from which equally many pictures are drawn.
        sizes: pictures of each task in train, val and test.
        overwrite: replace datasets that stand there already.

    Raises:
        DataError: a folder, file or picture that is missing or cannot be read, too few pictures, an argument out of
            range, datasets that stand there already, or a folder that cannot be written.
    """
    _check_arguments(sizes, seed)
    with _staging(root, overwrite=overwrite) as staging:
        seen: set[str] = set()
        for task, copy, source in (
            (Task.CLS, _copy_imagenette, imagenette),
            (Task.SEG, _copy_voc, voc),
            (Task.DET, _copy_coco, coco),
        ):
            copy(source, staging / DATASET_FOLDERS[task], _Draw(task, sizes, seed, seen, progress))
        return _publish(staging, root, "local", {"seed": seed, "sizes": list(sizes)})


def verify_manifest(root: Path) -> list[str]:
    """Compare the files with the manifest; one line for each that is missing or changed, in the manifest's order.

    Raises:
        DataError: there is no manifest, or it cannot be read.
    """
    manifest = _read_json(root / MANIFEST_FILE)
    problems = []
    for entry in _entries(manifest, "files", {"path", "sha256"}, root / MANIFEST_FILE):
        path = root / entry["path"]
        if not path.is_file():
            problems.append(f"{entry['path']}: missing")
        elif _sha256(path) != entry["sha256"]:
            problems.append(f"{entry['path']}: changed")
    return problems


# --- synthetic ------------------------------------------------------------------------------------------------------


def _draw_classification(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    for name in synthetic.CLASSES:
        (folder / split / name).mkdir(parents=True)
    for number, rng in pictures:
        name = synthetic.CLASSES[number % len(synthetic.CLASSES)]
        scene = synthetic.draw_classification(rng, name, image_size=image_size)
        _save_jpeg(scene.picture, folder / split / name / f"{name}_{number:06d}.jpg")


def _draw_segmentation(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    picture_folder, mask_folder = _make_segmentation_folders(folder, split, synthetic.SEGMENTED_CLASSES)
    for number, rng in pictures:
        scene = synthetic.draw_segmentation(rng, image_size=image_size)
        _save_jpeg(scene.picture, picture_folder / f"{number:06d}.jpg")
        mask = Image.fromarray(synthetic.class_mask(scene))
        mask.putpalette(voc_palette())
        mask.save(mask_folder / f"{number:06d}.png")


def _draw_detection(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    (folder / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, rng in pictures:
        scene = synthetic.draw_detection(rng, image_size=image_size, crowd=number % _CROWD_EVERY == 0)
        file_name = f"{number:012d}.jpg"
        _save_jpeg(scene.picture, folder / split / file_name)
        height, width = scene.picture.shape[:2]
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        annotations += [
            {
                "id": len(annotations) + position,
                "image_id": number,
                "category_id": 1 + synthetic.CLASSES.index(thing.label),
                "bbox": list(thing.box),
                "area": thing.area,
                "iscrowd": int(thing.crowd),
            }
            for position, thing in enumerate(scene.objects, start=1)
        ]
    instances = {
        "info": {"description": f"synthetic objects, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "object"}
            for number, name in enumerate(synthetic.CLASSES, start=1)
        ],
    }
    _write_json(instances, folder / ANNOTATION_FOLDER / instances_file(split))


def _save_jpeg(picture: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(picture).save(path, quality=_JPEG_QUALITY)


# --- official datasets ----------------------------------------------------------------------------------------------


class _Draw:
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
            digest = _sha256(picture)
            if digest not in self._seen:
                self._seen.add(digest)
                taken.append(picture)
        return sorted(taken)

    def counted(self, pictures: Sequence[T], split: str) -> Iterator[T]:
        return _counted(pictures, f"{self._folder}/{split}", self._progress)


def _copy_imagenette(source: Path, folder: Path, draw: _Draw) -> None:
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


def _copy_voc(source: Path, folder: Path, draw: _Draw) -> None:
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
        picture_folder, mask_folder = _make_segmentation_folders(folder, split, VOC_CLASSES)
        for picture in draw.counted(draw.take(size, pools[official], split, f"{official}.txt"), split):
            mask = source / MASK_FOLDER / f"{picture.stem}.png"
            _require(mask, f"it is the mask of {picture.name}")
            shutil.copyfile(picture, picture_folder / picture.name)
            shutil.copyfile(mask, mask_folder / mask.name)


def _copy_coco(source: Path, folder: Path, draw: _Draw) -> None:
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
            _write_json(kept, folder / ANNOTATION_FOLDER / instances_file(split))


def _read_instances(path: Path) -> dict[str, Any]:
    """A COCO JSON cut to its first ten categories by id."""
    _require(path, "COCO 2017 has its boxes there")
    instances = _read_json(path)
    categories = sorted(_entries(instances, "categories", {"id", "name"}, path), key=_id)
    instances["categories"] = categories[:_COCO_CLASSES]
    ids = {category["id"] for category in instances["categories"]}
    annotations = _entries(instances, "annotations", {"id", "image_id", "category_id", "bbox"}, path)
    instances["annotations"] = [a for a in annotations if a["category_id"] in ids]
    instances["images"] = _entries(instances, "images", {"id", "file_name"}, path)
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


# --- both -----------------------------------------------------------------------------------------------------------


def _check_arguments(sizes: tuple[int, int, int], seed: int) -> None:
    if len(sizes) != len(SPLITS) or min(sizes) < 1:
        raise DataError(f"sizes {sizes}: give a number above 0 for each of {', '.join(SPLITS)}")
    if seed < 0:
        raise DataError(f"seed {seed}: must not be negative")


@contextmanager
def _staging(root: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder inside the root, gone at the end; what it holds counts for nothing until `_publish`."""
    standing = [name for name in (*DATASET_FOLDERS.values(), MANIFEST_FILE) if (root / name).exists()]
    if standing and not overwrite:
        raise DataError(f"{root}: already holds {', '.join(standing)}; choose another folder or overwrite")
    new_root = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as staging:
            yield Path(staging)
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}") from None
    finally:
        if new_root and root.exists() and not any(root.iterdir()):
            root.rmdir()


def _publish(staging: Path, root: Path, source: str, arguments: dict[str, Any]) -> PrepareResult:
    """Write the manifest of what is staged and move all of it into the root."""
    counts = {task: dict(zip(SPLITS, arguments["sizes"], strict=True)) for task in TASKS}
    files = sorted(path for folder in DATASET_FOLDERS.values() for path in (staging / folder).rglob("*"))
    manifest = {
        "schema": _MANIFEST_SCHEMA,
        "source": source,
        "arguments": arguments,
        "counts": counts,
        "files": [
            {"path": path.relative_to(staging).as_posix(), "sha256": _sha256(path), "bytes": path.stat().st_size}
            for path in files
            if path.is_file()
        ],
    }
    _write_json(manifest, staging / MANIFEST_FILE, indent=1)
    # Without this, a kill between the moves would leave a manifest of the old datasets beside the new ones.
    (root / MANIFEST_FILE).unlink(missing_ok=True)
    for folder in DATASET_FOLDERS.values():
        if (root / folder).exists():
            (root / folder).rename(staging / f"old-{folder}")
        (staging / folder).rename(root / folder)
    (staging / MANIFEST_FILE).rename(root / MANIFEST_FILE)
    return PrepareResult(root, source, arguments["seed"], counts, root / MANIFEST_FILE)


def _make_segmentation_folders(folder: Path, split: str, classes: Sequence[str]) -> tuple[Path, Path]:
    """The folders of a split's pictures and masks, and the names of the classes beside the splits."""
    picture_folder, mask_folder = folder / split / PICTURE_FOLDER, folder / split / MASK_FOLDER
    picture_folder.mkdir(parents=True)
    mask_folder.mkdir()
    (folder / CLASSES_FILE).write_text("".join(f"- {name}\n" for name in classes), encoding="utf-8")
    return picture_folder, mask_folder


def _counted(items: Sequence[T], label: str, progress: Progress | None) -> Iterator[T]:
    """Hand out the items and report each once its user comes back for the next."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress:
            progress(label, done, len(items))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise DataError(f"{path}: not valid JSON") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object")
    return content


def _entries(content: dict[str, Any], key: str, fields: set[str], path: Path) -> list[dict[str, Any]]:
    """A list of a JSON file, each entry an object with at least these fields."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: has no list '{key}'")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not fields <= entry.keys():
            raise DataError(f"{path}: {key}[{index}] must have {', '.join(sorted(fields))}")
    return entries


def _write_json(content: Mapping[str, Any], path: Path, *, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
