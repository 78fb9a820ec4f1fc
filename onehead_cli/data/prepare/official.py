"""The three datasets as a draw of COCO 2017, VOC 2012 and Imagenette, from wherever their files are."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.images import open_mask
from onehead_cli.data.layout import (
    ANNOTATION_FOLDER,
    DATASET_FOLDERS,
    IMAGE_FOLDER,
    IMAGE_SUFFIXES,
    MASK_FOLDER,
    SPLITS,
    VOC_CLASSES,
    instances_file,
)
from onehead_cli.data.manifest import Origins
from onehead_cli.data.prepare.addresses import COCO, IMAGENETTE, VOC
from onehead_cli.data.prepare.draw import Draw, equal_shares
from onehead_cli.data.prepare.official_files import OfficialFiles
from onehead_cli.data.prepare.settings import OfOfficial
from onehead_cli.data.prepare.writing import Progress, counted, make_segmentation_folders
from onehead_cli.errors import ConfigError, DataError
from onehead_cli.files.json_files import entries_of, parse_json, write_json
from onehead_cli.registry import OWN_TASKS

_DEFAULT_CATEGORIES = 10

#: Entries of COCO's list of categories, in the order of their ids.
Categories = list[dict[str, Any]]

#: What must stand in a COCO JSON.
_CATEGORY = {"id": int, "name": str}
_IMAGE = {"id": int, "file_name": str, "width": int, "height": int}
_ANNOTATION = {"id": int, "image_id": int, "category_id": int, "bbox": list}

#: train is drawn from the official train split, val and test from the official val, whose labels are public.
_FROM_TRAIN, _FROM_VAL = SPLITS[:1], SPLITS[1:]


@dataclass
class Copier:
    """Copies drawn files into `folder`, which is to become the root, and remembers where each came from."""

    folder: Path
    progress: Progress | None = None
    origins: Origins = field(default_factory=dict)

    def copy(self, files: OfficialFiles, name: str, path: Path, target: Path, **more: Any) -> None:
        """Args: name: of the file in its dataset. path: where it lies. more: further fields of the manifest."""
        shutil.copyfile(path, target)
        self.note(files, name, target, **more)

    def note(self, files: OfficialFiles, name: str, target: Path, **more: Any) -> None:
        source = {"dataset": files.dataset, "path": name}
        if (url := files.url(name)) is not None:
            source["url"] = url
        self.origins[target.relative_to(self.folder).as_posix()] = {"source": source, **more}

    def counted(self, taken: Mapping[str, Path], task: str, split: str) -> Iterator[tuple[str, Path]]:
        return counted(list(taken.items()), f"{DATASET_FOLDERS[task]}/{split}", self.progress)


def copy_draw(files: Callable[[str], OfficialFiles], settings: OfOfficial, copier: Copier) -> Origins:
    """Copy a draw of each dataset, no image twice.

    Args:
        files: gives those of a dataset by its name; asked for only when they are needed.

    Returns:
        Where each file came from.
    """
    coco = files(COCO.name)
    categories = kept_categories(coco, settings.categories)  # a wrong name is told before anything large is fetched
    seen: set[str] = set()
    draws = {task: Draw(task, settings.sizes, settings.seed, seen) for task in OWN_TASKS}
    copy_imagenette(files(IMAGENETTE.name), draws["cls"], copier)
    copy_voc(files(VOC.name), draws["seg"], copier)
    copy_coco(coco, draws["det"], copier, categories)
    return copier.origins


def copy_imagenette(files: OfficialFiles, draw: Draw, copier: Copier) -> None:
    """Equally many images of each class folder."""
    folder = copier.folder / DATASET_FOLDERS["cls"]
    classes = {official: _class_folders(files, official) for official in ("train", "val")}
    if not classes["train"] or classes["train"].keys() != classes["val"].keys():
        raise DataError("imagenette: train/ and val/ must hold the same class folders, at least one")
    for official, splits in (("train", _FROM_TRAIN), ("val", _FROM_VAL)):
        shares = {split: equal_shares(draw.sizes[split], classes[official]) for split in splits}
        taken: dict[str, dict[str, Path]] = {split: {} for split in splits}
        for name, images in classes[official].items():
            pool: dict[str, Collection[int]] = dict.fromkeys(images, ())
            sizes = {split: shares[split][name] for split in splits}
            for split, found in draw.take(pool, sizes, f"{official}/{name}", files.get).items():
                taken[split] |= found
                (folder / split / name).mkdir(parents=True)
        for split in splits:
            for image, path in copier.counted(taken[split], "cls", split):
                copier.copy(files, image, path, folder / split / PurePosixPath(image).parent.name / path.name)


def _class_folders(files: OfficialFiles, official: str) -> dict[str, list[str]]:
    """The images of each class folder, by its name, sorted."""
    classes: dict[str, list[str]] = {}
    for name in files.names(official):
        path = PurePosixPath(name)
        if len(path.parts) == 3 and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            classes.setdefault(path.parts[1], []).append(name)
    return dict(sorted(classes.items()))


def copy_voc(files: OfficialFiles, draw: Draw, copier: Copier) -> None:
    """Images with a mask, drawn by the classes in the mask."""
    folder = copier.folder / DATASET_FOLDERS["seg"]
    lists = {official: _voc_list(files, official) for official in ("train", "val")}
    masks = files.get([_mask_of(name) for names in lists.values() for name in names])
    for official, splits in (("train", _FROM_TRAIN), ("val", _FROM_VAL)):
        pool = {f"{IMAGE_FOLDER}/{name}.jpg": _classes_in(masks[_mask_of(name)]) for name in lists[official]}
        taken = draw.take(pool, {split: draw.sizes[split] for split in splits}, f"{official}.txt", files.get)
        for split in splits:
            image_folder, mask_folder = make_segmentation_folders(folder, split, VOC_CLASSES)
            for image, path in copier.counted(taken[split], "seg", split):
                copier.copy(files, image, path, image_folder / path.name)
                mask = _mask_of(path.stem)
                copier.copy(files, mask, masks[mask], mask_folder / masks[mask].name)


def _voc_list(files: OfficialFiles, official: str) -> list[str]:
    return files.read(f"ImageSets/Segmentation/{official}.txt").decode("utf-8", errors="replace").split()


def _mask_of(name: str) -> str:
    return f"{MASK_FOLDER}/{name}.png"


def _classes_in(path: Path) -> set[int]:
    """The classes of a mask, but for the background."""
    found = np.flatnonzero(np.bincount(open_mask(path).ravel(), minlength=256))
    return set(found.tolist()) - {0, IGNORE_INDEX}


def copy_coco(files: OfficialFiles, draw: Draw, copier: Copier, categories: Categories) -> None:
    """Images with a box of the categories that is not a crowd, drawn by the categories of those boxes."""
    folder = copier.folder / DATASET_FOLDERS["det"]
    # The annotations of the official train split take gigabytes once read: one official split at a time.
    for official, splits in (("train2017", _FROM_TRAIN), ("val2017", _FROM_VAL)):
        coco = CocoSplit.read(files, official, categories)
        taken = draw.take(
            coco.pool(),
            {split: draw.sizes[split] for split in splits},
            f"{official} (with a box of the kept categories)",
            partial(files.get, sizes=coco.sizes()),
        )
        for split in splits:
            (folder / split).mkdir(parents=True)
            for image, path in copier.counted(taken[split], "det", split):
                copier.copy(files, image, path, folder / split / path.name, **coco.licence(image))
            target = folder / ANNOTATION_FOLDER / instances_file(split)
            write_json(coco.cut_to(taken[split]), target)
            copier.note(files, coco.name, target)


def coco_images(files: OfficialFiles, draw: Draw, categories: Categories) -> list[str]:
    """The images that a draw begins with, before any is looked at."""
    names: list[str] = []
    for official, splits in (("train2017", _FROM_TRAIN), ("val2017", _FROM_VAL)):
        pool = CocoSplit.read(files, official, categories).pool()
        drawn = draw.pick(pool, {split: draw.sizes[split] for split in splits}, official)
        names += [name for split in drawn.values() for name in split]
    return names


@dataclass(frozen=True)
class CocoSplit:
    """The annotations of an official split, cut to the categories that are kept.

    name: of the JSON in the dataset. images: by the name of the image in the dataset.
    """

    name: str
    content: dict[str, Any]
    images: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, files: OfficialFiles, official: str, categories: Categories) -> CocoSplit:
        """Raises: DataError: the JSON is missing or malformed, or has other categories than these."""
        name = f"{ANNOTATION_FOLDER}/{instances_file(official)}"
        ids = [category["id"] for category in categories]
        # A list, for what stands there may be no number.
        content = parse_json(files.read(name), name, keep=lambda found: found.get("category_id", ids[0]) in ids)
        known = {entry["id"]: entry["name"] for entry in entries_of(content, "categories", _CATEGORY, name)}
        for category in categories:
            if known.get(category["id"]) != category["name"]:
                raise DataError(f"{name}: category {category['id']} is not '{category['name']}' as in the val split")
        content["categories"] = categories
        if isinstance(content.get("annotations"), list):
            content["annotations"] = [found for found in content["annotations"] if found is not None]
        entries_of(content, "annotations", _ANNOTATION, name)
        images = entries_of(content, "images", _IMAGE, name)
        for index, image in enumerate(images):
            if PurePosixPath(image["file_name"]).name != image["file_name"]:
                raise DataError(
                    f"{name}: images[{index}] has the file_name {image['file_name']!r}, which is not a file name"
                )
        return cls(name, content, {f"{official}/{image['file_name']}": image for image in images})

    def pool(self) -> dict[str, set[int]]:
        """The categories of the boxes of each image that has one, crowds not counted."""
        boxed: dict[int, set[int]] = {}
        for annotation in self.content["annotations"]:
            if not annotation.get("iscrowd", 0):
                boxed.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
        return {name: boxed[image["id"]] for name, image in self.images.items() if image["id"] in boxed}

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {name: (image["width"], image["height"]) for name, image in self.images.items()}

    def licence(self, image: str) -> dict[str, Any]:
        """{"license": {"name": ..., "url": ...}} for the manifest, or nothing where the JSON gives none."""
        wanted = self.images[image].get("license")
        given = self.content.get("licenses")
        for entry in given if isinstance(given, list) else ():
            if wanted is not None and isinstance(entry, dict) and entry.get("id") == wanted:
                return {"license": {key: entry[key] for key in ("name", "url") if key in entry}}
        return {}

    def cut_to(self, names: Iterable[str]) -> dict[str, Any]:
        """The JSON about some images, images and annotations in the order of their ids."""
        images = sorted((self.images[name] for name in names), key=_id)
        ids = {image["id"] for image in images}
        annotations = sorted((a for a in self.content["annotations"] if a["image_id"] in ids), key=_id)
        head: dict[str, Any] = {key: self.content[key] for key in ("info", "licenses") if key in self.content}
        return {**head, "images": images, "annotations": annotations, "categories": self.content["categories"]}


def kept_categories(files: OfficialFiles, names: Sequence[str] | None) -> Categories:
    """The COCO categories of these names, or the first ten, by id; from the val split, whose JSON is the smaller.

    Raises:
        DataError: the JSON is missing or malformed.
        ConfigError: there is no category of a name; the nearest ones are given.
    """
    path = f"{ANNOTATION_FOLDER}/{instances_file('val2017')}"
    entries = sorted(entries_of(parse_json(files.read(path), path), "categories", _CATEGORY, path), key=_id)
    if not entries:
        raise DataError(f"{path}: 'categories' is empty")
    if names is None:
        return entries[:_DEFAULT_CATEGORIES]
    known = [entry["name"] for entry in entries]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise ConfigError(f"--categories: no category '{name}' in COCO; the nearest are {', '.join(near)}")
    return [entry for entry in entries if entry["name"] in names]


def _id(entry: dict[str, Any]) -> int:
    return int(entry["id"])
