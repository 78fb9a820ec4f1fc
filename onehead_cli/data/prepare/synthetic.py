"""prepare-data --source synthetic: three datasets drawn from a random generator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.data.layout import ANNOTATION_FOLDER, DATASET_FOLDERS, SPLITS, instances_file, voc_palette
from onehead_cli.data.manifest import Origins
from onehead_cli.data.prepare import scenes
from onehead_cli.data.prepare.outlines import CLASSES
from onehead_cli.data.prepare.settings import Synthetic
from onehead_cli.data.prepare.staging import PrepareResult, write_datasets
from onehead_cli.data.prepare.writing import Progress, counted, make_segmentation_folders
from onehead_cli.files.json_files import write_json
from onehead_cli.registry import OWN_TASKS

_JPEG_QUALITY = 90

#: Every so many-th detection image has a crowd region.
_CROWD_EVERY = 10


def prepare_synthetic(settings: Synthetic, *, progress: Progress | None = None) -> PrepareResult:
    """Draw three disjoint datasets; the same settings give the same bytes.

    Raises:
        DataError: datasets that stand there already, or a folder that cannot be written.
    """
    sizes = settings.sizes
    writers = {"cls": _write_classification, "seg": _write_segmentation, "det": _write_detection}

    def write(staging: Path) -> Origins:
        for task, write_split in writers.items():
            for position, split in enumerate(SPLITS):
                # The numbers run on from split to split, so that no two images of a task share a name.
                first = 1 + sum(sizes[:position])
                images = [
                    (first + index, np.random.default_rng([settings.seed, OWN_TASKS.index(task), position, index]))
                    for index in range(sizes[position])
                ]
                reported = counted(images, f"{DATASET_FOLDERS[task]}/{split}", progress)
                write_split(staging / DATASET_FOLDERS[task], split, reported, settings.image_size)
        return {}

    return write_datasets(settings, source="synthetic", repeatable=True, write=write)


def _write_classification(folder: Path, split: str, images: Iterable[tuple[int, Generator]], image_size: int) -> None:
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True)
    for number, rng in images:
        name = CLASSES[number % len(CLASSES)]
        scene = scenes.draw_classification(rng, name, image_size=image_size)
        _save_jpeg(scene.image, folder / split / name / f"{name}_{number:06d}.jpg")


def _write_segmentation(folder: Path, split: str, images: Iterable[tuple[int, Generator]], image_size: int) -> None:
    image_folder, mask_folder = make_segmentation_folders(folder, split, scenes.SEGMENTED_CLASSES)
    for number, rng in images:
        scene = scenes.draw_segmentation(rng, image_size=image_size)
        _save_jpeg(scene.image, image_folder / f"{number:06d}.jpg")
        mask = Image.fromarray(scenes.class_mask(scene))
        mask.putpalette(voc_palette())
        mask.save(mask_folder / f"{number:06d}.png")


def _write_detection(folder: Path, split: str, numbers: Iterable[tuple[int, Generator]], image_size: int) -> None:
    (folder / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, rng in numbers:
        scene = scenes.draw_detection(rng, image_size=image_size, crowd=number % _CROWD_EVERY == 0)
        file_name = f"{number:012d}.jpg"
        _save_jpeg(scene.image, folder / split / file_name)
        height, width = scene.image.shape[:2]
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        annotations += [
            {
                "id": len(annotations) + position,
                "image_id": number,
                "category_id": 1 + CLASSES.index(thing.label),
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
            {"id": number, "name": name, "supercategory": "object"} for number, name in enumerate(CLASSES, start=1)
        ],
    }
    write_json(instances, folder / ANNOTATION_FOLDER / instances_file(split))


def _save_jpeg(image: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(image).save(path, quality=_JPEG_QUALITY)
