"""Writes the three datasets: drawn (`prepare_synthetic`), or picked from official ones on disk (`prepare_local`).

Both write into a folder inside the root and move it into place at the end, the manifest last: where there is a
manifest, the datasets are complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.datasets import synthetic
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
    MANIFEST_FILE,
    SPLITS,
    instances_file,
    voc_palette,
)
from onehead_cli.datasets.official import Draw, copy_coco, copy_imagenette, copy_voc
from onehead_cli.errors import DataError
from onehead_cli.types import TASKS, Task

_MANIFEST_SCHEMA = 1
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
                reported = counted(pictures, f"{DATASET_FOLDERS[task]}/{split}", progress)
                write(staging / DATASET_FOLDERS[task], split, reported, image_size)
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
            (Task.CLS, copy_imagenette, imagenette),
            (Task.SEG, copy_voc, voc),
            (Task.DET, copy_coco, coco),
        ):
            copy(source, staging / DATASET_FOLDERS[task], Draw(task, sizes, seed, seen, progress))
        return _publish(staging, root, "local", {"seed": seed, "sizes": list(sizes)})


def verify_manifest(root: Path) -> list[str]:
    """Compare the files with the manifest; one line for each that is missing or changed, in the manifest's order.

    Raises:
        DataError: there is no manifest, or it cannot be read.
    """
    manifest = read_json(root / MANIFEST_FILE)
    problems = []
    for entry in entries_of(manifest, "files", {"path", "sha256"}, root / MANIFEST_FILE):
        path = root / entry["path"]
        if not path.is_file():
            problems.append(f"{entry['path']}: missing")
        elif sha256_of(path) != entry["sha256"]:
            problems.append(f"{entry['path']}: changed")
    return problems


def _draw_classification(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    for name in synthetic.CLASSES:
        (folder / split / name).mkdir(parents=True)
    for number, rng in pictures:
        name = synthetic.CLASSES[number % len(synthetic.CLASSES)]
        scene = synthetic.draw_classification(rng, name, image_size=image_size)
        _save_jpeg(scene.picture, folder / split / name / f"{name}_{number:06d}.jpg")


def _draw_segmentation(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    picture_folder, mask_folder = make_segmentation_folders(folder, split, synthetic.SEGMENTED_CLASSES)
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
    write_json(instances, folder / ANNOTATION_FOLDER / instances_file(split))


def _save_jpeg(picture: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(picture).save(path, quality=_JPEG_QUALITY)


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
            {"path": path.relative_to(staging).as_posix(), "sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in files
            if path.is_file()
        ],
    }
    write_json(manifest, staging / MANIFEST_FILE, indent=1)
    # Without this, a kill between the moves would leave a manifest of the old datasets beside the new ones.
    (root / MANIFEST_FILE).unlink(missing_ok=True)
    for folder in DATASET_FOLDERS.values():
        if (root / folder).exists():
            (root / folder).rename(staging / f"old-{folder}")
        (staging / folder).rename(root / folder)
    (staging / MANIFEST_FILE).rename(root / MANIFEST_FILE)
    return PrepareResult(root, source, arguments["seed"], counts, root / MANIFEST_FILE)
