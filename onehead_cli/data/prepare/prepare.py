"""Writes the three datasets: drawn (`prepare_synthetic`), or picked from official ones, on disk (`prepare_local`) or
fetched (`prepare_official`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.data.layout import ANNOTATION_FOLDER, DATASET_FOLDERS, SPLITS, instances_file, voc_palette
from onehead_cli.data.manifest import Origins
from onehead_cli.data.prepare import scenes
from onehead_cli.data.prepare.addresses import COCO, IMAGENETTE, OFFICIAL_SOURCES, VOC, OfficialSource
from onehead_cli.data.prepare.download import Downloader
from onehead_cli.data.prepare.download_cache import DownloadCache, Planned
from onehead_cli.data.prepare.draw import Draw, OfficialDraw
from onehead_cli.data.prepare.official import (
    Copier,
    coco_pictures,
    copy_coco,
    copy_imagenette,
    copy_voc,
    kept_categories,
)
from onehead_cli.data.prepare.official_files import ArchiveFiles, CocoFiles, FolderFiles, OfficialFiles
from onehead_cli.data.prepare.outlines import CLASSES
from onehead_cli.data.prepare.staging import PrepareResult, write_datasets
from onehead_cli.data.prepare.writing import Progress, counted, make_segmentation_folders
from onehead_cli.errors import DataError
from onehead_cli.events import Reporter
from onehead_cli.files.json_files import write_json
from onehead_cli.types import TASKS, Task

_JPEG_QUALITY = 90

_MIN_IMAGE_SIZE = 64

#: Every so many-th synthetic detection picture has a crowd region.
_CROWD_EVERY = 10


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
    if image_size < _MIN_IMAGE_SIZE:
        raise DataError(f"image size {image_size}: synthetic pictures need at least {_MIN_IMAGE_SIZE} pixels")
    writers = {Task.CLS: _draw_classification, Task.SEG: _draw_segmentation, Task.DET: _draw_detection}

    def write(staging: Path) -> Origins:
        for task, draw in writers.items():
            for position, split in enumerate(SPLITS):
                # The numbers run on from split to split, so that no two pictures of a task share a name.
                first = 1 + sum(sizes[:position])
                pictures = [
                    (first + index, np.random.default_rng([seed, TASKS.index(task), position, index]))
                    for index in range(sizes[position])
                ]
                reported = counted(pictures, f"{DATASET_FOLDERS[task]}/{split}", progress)
                draw(staging / DATASET_FOLDERS[task], split, reported, image_size)
        return {}

    arguments = {"seed": seed, "sizes": list(sizes), "image_size": image_size}
    return write_datasets(
        root, source="synthetic", arguments=arguments, overwrite=overwrite, repeatable=True, write=write
    )


def prepare_local(
    root: Path,
    draw: OfficialDraw,
    *,
    coco: Path,
    voc: Path,
    imagenette: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareResult:
    """Copy a draw of the official datasets on disk.

    Args:
        root: folder for the three dataset folders and the manifest; other files in it stay as they are.
        coco: COCO 2017, holding annotations/instances_{train,val}2017.json, train2017/ and val2017/. Only pictures
            with a box of the categories that is not a crowd are drawn.
        voc: VOC 2012, or a folder that holds VOCdevkit/VOC2012.
        imagenette: folder of train/ and val/, each of class folders, from which equally many pictures are drawn.
        overwrite: replace datasets that stand there already.

    Raises:
        DataError: a folder, file or picture that is missing or cannot be read, too few pictures, an argument out of
            range, datasets that stand there already, or a folder that cannot be written.
        ConfigError: an unknown category.
    """
    _check_arguments(draw.sizes, draw.seed)

    def write(staging: Path) -> Origins:
        nested = voc / VOC.inner
        files: dict[str, OfficialFiles] = {
            COCO.name: FolderFiles(COCO.name, coco),
            VOC.name: FolderFiles(VOC.name, nested if nested.is_dir() else voc),
            IMAGENETTE.name: FolderFiles(IMAGENETTE.name, imagenette),
        }
        return _copy(files.__getitem__, draw, Copier(staging, progress))

    return write_datasets(
        root, source="local", arguments=draw.arguments(), overwrite=overwrite, repeatable=False, write=write
    )


def prepare_official(
    root: Path,
    draw: OfficialDraw,
    *,
    cache_folder: Path,
    base_urls: Mapping[str, str],
    overwrite: bool = False,
    reporter: Reporter,
    progress: Progress | None = None,
) -> PrepareResult:
    """Fetch the official datasets, of COCO only the drawn pictures, and copy the draw that `prepare_local` copies.

    Args:
        root, overwrite: as for `prepare_local`.
        cache_folder: what was fetched stays there; what is there is not fetched.
        base_urls: addresses instead of the official ones, by dataset; see `DownloadCache`.

    Raises:
        DownloadError: a file cannot be had, or the disk has no room.
        DataError, ConfigError: as for `prepare_local`.
    """
    _check_arguments(draw.sizes, draw.seed)
    downloader = Downloader(notify=reporter.note)
    cache = DownloadCache(cache_folder, base_urls=base_urls, downloader=downloader, reporter=reporter)

    def write(staging: Path) -> Origins:
        with cache.filling(cache.plan(sum(draw.sizes))):
            unpacked = staging.with_name("unpacked")

            def fetched(name: str) -> OfficialFiles:
                return _fetched_files(cache, OFFICIAL_SOURCES[name], unpacked)

            return _copy(fetched, draw, Copier(staging, progress))

    return write_datasets(
        root, source="official", arguments=draw.arguments(), overwrite=overwrite, repeatable=True, write=write
    )


def plan_official(
    draw: OfficialDraw, *, cache_folder: Path, base_urls: Mapping[str, str], reporter: Reporter
) -> tuple[list[Planned], bool]:
    """What `prepare_official` would fetch, and whether the COCO pictures are known; writes and fetches nothing.

    They are known where the annotations are in the cache.

    Raises:
        DataError, ConfigError: as for `prepare_local`.
    """
    _check_arguments(draw.sizes, draw.seed)
    cache = DownloadCache(cache_folder, base_urls=base_urls, downloader=Downloader(), reporter=reporter)
    if not cache.has_archive(COCO):
        return cache.plan(sum(draw.sizes)), False
    files = _fetched_files(cache, COCO, cache_folder)
    categories = kept_categories(files, draw.categories)
    pictures = coco_pictures(files, Draw(Task.DET, draw.sizes, draw.seed, set()), categories)
    return cache.plan(pictures), True


def _fetched_files(cache: DownloadCache, source: OfficialSource, unpacked: Path) -> OfficialFiles:
    archive, url = cache.archive(source), source.bases[0] + source.archive
    folder = unpacked / source.name
    if source is COCO:
        return CocoFiles(archive, unpacked=folder, url=url, base=source.bases[0], pictures=cache.pictures)
    return ArchiveFiles(source.name, archive, inner=source.inner, unpacked=folder, url=url)


def _copy(files: Callable[[str], OfficialFiles], draw: OfficialDraw, copier: Copier) -> Origins:
    """Args: files: of a dataset, by its name; asked for only when they are needed."""
    coco = files(COCO.name)
    categories = kept_categories(coco, draw.categories)  # a wrong name is told before anything large is fetched
    seen: set[str] = set()
    draws = {task: Draw(task, draw.sizes, draw.seed, seen) for task in TASKS}
    copy_imagenette(files(IMAGENETTE.name), draws[Task.CLS], copier)
    copy_voc(files(VOC.name), draws[Task.SEG], copier)
    copy_coco(coco, draws[Task.DET], copier, categories)
    return copier.origins


def _draw_classification(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True)
    for number, rng in pictures:
        name = CLASSES[number % len(CLASSES)]
        scene = scenes.draw_classification(rng, name, image_size=image_size)
        _save_jpeg(scene.picture, folder / split / name / f"{name}_{number:06d}.jpg")


def _draw_segmentation(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    picture_folder, mask_folder = make_segmentation_folders(folder, split, scenes.SEGMENTED_CLASSES)
    for number, rng in pictures:
        scene = scenes.draw_segmentation(rng, image_size=image_size)
        _save_jpeg(scene.picture, picture_folder / f"{number:06d}.jpg")
        mask = Image.fromarray(scenes.class_mask(scene))
        mask.putpalette(voc_palette())
        mask.save(mask_folder / f"{number:06d}.png")


def _draw_detection(folder: Path, split: str, pictures: Iterable[tuple[int, Generator]], image_size: int) -> None:
    (folder / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, rng in pictures:
        scene = scenes.draw_detection(rng, image_size=image_size, crowd=number % _CROWD_EVERY == 0)
        file_name = f"{number:012d}.jpg"
        _save_jpeg(scene.picture, folder / split / file_name)
        height, width = scene.picture.shape[:2]
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


def _save_jpeg(picture: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(picture).save(path, quality=_JPEG_QUALITY)


def _check_arguments(sizes: tuple[int, int, int], seed: int) -> None:
    if len(sizes) != len(SPLITS) or min(sizes) < 1:
        raise DataError(f"sizes {sizes}: give a number above 0 for each of {', '.join(SPLITS)}")
    if seed < 0:
        raise DataError(f"seed {seed}: must not be negative")
