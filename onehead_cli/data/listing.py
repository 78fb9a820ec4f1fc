"""What a config names for a task and a split: class names, pictures and labels. No picture is opened, and no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onehead_cli.config.sections import DataConfig
from onehead_cli.config.yaml_text import parse_yaml
from onehead_cli.data.coco import clean_annotations, leaves_folder, read_coco
from onehead_cli.data.images import pictures_in
from onehead_cli.data.layout import (
    ANNOTATION_FOLDER,
    CLASSES_FILE,
    DATASET_FOLDERS,
    MASK_FOLDER,
    PICTURE_FOLDER,
    VOC_CLASSES,
    instances_file,
)
from onehead_cli.errors import DataError
from onehead_cli.files.json_files import is_one_line
from onehead_cli.types import IGNORE_INDEX, Task
from onehead_cli.wording import how_many


@dataclass(frozen=True)
class ClassFolders:
    """A split of class folders. classes: their names, sorted. labels: one a picture."""

    classes: list[str]
    pictures: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class MaskFolders:
    """A split of pictures and masks. masks: one a picture, whether it is there or not."""

    classes: list[str]
    pictures: list[Path]
    masks: list[Path]


@dataclass(frozen=True)
class CocoImages:
    """A split of a COCO JSON.

    images: the JSON's entries, one a picture. annotations: cleaned. categories: sorted by id.
    outside: pictures whose file_name leads out of their folder; they must not be opened.
    warnings: how many boxes were dropped or clipped.
    """

    classes: list[str]
    pictures: list[Path]
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    outside: set[Path] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)


Listing = ClassFolders | MaskFolders | CocoImages


def list_split(task: Task, split: str, data: DataConfig, *, skip: Collection[Path] = ()) -> Listing:
    """One split of one task, without the pictures in `skip` and their labels.

    Raises:
        DataError: a folder or JSON is missing or cannot be used.
    """
    if task is Task.CLS:
        return list_class_folders(cls_folder(data, split), skip=skip)
    if task is Task.SEG:
        pictures, masks = seg_folders(data, split)
        return list_mask_folders(pictures, masks, read_mask_classes(data), skip=skip)
    pictures, annotations = det_places(data, split)
    return list_coco_images(pictures, annotations, skip=skip)


def read_classes(task: Task, split: str, data: DataConfig) -> list[str]:
    """The class names of a split, in the order of the labels.

    Raises:
        DataError: a folder or file is missing or cannot be used.
    """
    if task is Task.CLS:
        return _class_folder_names(cls_folder(data, split))
    if task is Task.SEG:
        return read_mask_classes(data)
    return [str(c["name"]) for c in _sorted_categories(read_coco(det_places(data, split)[1]))]


def is_there(task: Task, split: str, data: DataConfig) -> bool:
    """Whether anything of a split is there, usable or not."""
    if task is Task.CLS:
        return cls_folder(data, split).is_dir()
    if task is Task.SEG:
        return any(folder.is_dir() for folder in seg_folders(data, split))
    return det_places(data, split)[1].is_file()


def reads_root(task: Task, data: DataConfig) -> bool:
    """Whether pictures or labels of a task are read from its folder in `data.root`, which the manifest tells of."""
    split = data.train_split
    places = {
        Task.CLS: [cls_folder(data, split)],
        Task.SEG: seg_folders(data, split),
        Task.DET: det_places(data, split),
    }
    prepared = (data.root / DATASET_FOLDERS[task]).absolute()
    return any(place.absolute().is_relative_to(prepared) for place in places[task])


def describe_difference(task: Task, what: str, found: Sequence[str], wanted: Sequence[str]) -> str:
    """Both lists of class names in one line."""
    return f"{task} classes of the {what} differ: it has {', '.join(found)}; expected {', '.join(wanted)}"


def list_class_folders(folder: Path, *, skip: Collection[Path] = ()) -> ClassFolders:
    """Raises: DataError: the folder is missing or holds no class folder, or class folders are empty."""
    classes = _class_folder_names(folder)
    found = [pictures_in(folder / name) for name in classes]
    if empty := [str(folder / name) for name, pictures in zip(classes, found, strict=True) if not pictures]:
        raise DataError(f"{', '.join(empty)}: class folder without a picture")
    kept = [(path, label) for label, pictures in enumerate(found) for path in pictures if path not in skip]
    return ClassFolders(classes, [path for path, _ in kept], [label for _, label in kept])


def list_mask_folders(pictures: Path, masks: Path, classes: list[str], *, skip: Collection[Path] = ()) -> MaskFolders:
    """Raises: DataError: a folder is missing, there is no picture, or both folders are the same."""
    for folder in (pictures, masks):
        if not folder.is_dir():
            raise DataError(_missing(folder, "folder", Task.SEG))
    if pictures.resolve() == masks.resolve():
        raise DataError(f"{pictures}: pictures and masks need two folders")
    found = pictures_in(pictures)
    if not found:
        raise DataError(f"{pictures}: no picture in it")
    kept = [path for path in found if path not in skip]
    return MaskFolders(classes, kept, [masks / f"{path.stem}.png" for path in kept])


def list_coco_images(pictures: Path, annotations: Path, *, skip: Collection[Path] = ()) -> CocoImages:
    """Raises: DataError: the JSON is missing or malformed, or the folder of pictures is missing."""
    if not annotations.is_file():
        raise DataError(_missing(annotations, "annotation file", Task.DET))
    if not pictures.is_dir():
        raise DataError(_missing(pictures, "folder of pictures", Task.DET))
    raw = read_coco(annotations)
    categories = _sorted_categories(raw)
    paths = {image["id"]: pictures / image["file_name"] for image in raw["images"]}
    images = [image for image in raw["images"] if paths[image["id"]] not in skip]
    left_out = paths.keys() - {image["id"] for image in images}
    home = pictures.resolve()
    cleaned, dropped = clean_annotations(raw, annotations, left_out=left_out)
    return CocoImages(
        classes=[str(c["name"]) for c in categories],
        pictures=[paths[image["id"]] for image in images],
        images=images,
        annotations=cleaned,
        categories=categories,
        outside={paths[image["id"]] for image in images if leaves_folder(home, image["file_name"])},
        warnings=[f"{annotations}: {how_many(count, 'box', 'boxes')} {why}" for why, count in sorted(dropped.items())],
    )


def read_mask_classes(data: DataConfig) -> list[str]:
    """The names in `data.seg_classes` (a list, or a mapping from index to name), else the 21 VOC names.

    Raises:
        DataError: the file was named but is missing, or is not such a list or mapping.
    """
    path = data.seg_classes or _seg_root(data) / CLASSES_FILE
    if not path.is_file():
        if data.seg_classes is not None:
            raise DataError(f"{path}: no such file of class names (data.seg_classes)")
        return list(VOC_CLASSES)
    try:
        names = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # not UTF-8 is one too
        raise DataError(f"{path}: not valid YAML") from None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and is_one_line(n) for n in names):
        raise DataError(f"{path}: expected a list of class names, background first")
    if len(names) > IGNORE_INDEX or len(set(names)) != len(names):
        raise DataError(f"{path}: expected at most {IGNORE_INDEX} different names")
    return names


def cls_folder(data: DataConfig, split: str) -> Path:
    """Of the class folders of a split."""
    return _of_split(data.cls_root or data.root / DATASET_FOLDERS[Task.CLS], split)


def seg_folders(data: DataConfig, split: str) -> tuple[Path, Path]:
    """Of a split's pictures and of its masks."""
    root = _seg_root(data) / split
    return (
        _of_split(data.seg_images, split) if data.seg_images else root / PICTURE_FOLDER,
        _of_split(data.seg_masks, split) if data.seg_masks else root / MASK_FOLDER,
    )


def det_places(data: DataConfig, split: str) -> tuple[Path, Path]:
    """The folder of a split's pictures, which all splits may share, and its JSON."""
    root = data.root / DATASET_FOLDERS[Task.DET]
    pictures = _of_split(data.det_images or root, split)
    if data.det_images and not pictures.is_dir():
        pictures = _filled_in(data.det_images, split)
    annotations = _filled_in(data.det_annotations or root / ANNOTATION_FOLDER, split)
    return pictures, annotations if annotations.suffix == ".json" else annotations / instances_file(split)


def _of_split(path: Path, split: str) -> Path:
    """The path with {split} filled in, or, where it has none, the split's folder inside."""
    return _filled_in(path, split) if "{split}" in str(path) else path / split


def _filled_in(path: Path, split: str) -> Path:
    return Path(str(path).replace("{split}", split))


def _seg_root(data: DataConfig) -> Path:
    return data.seg_root or data.root / DATASET_FOLDERS[Task.SEG]


def _class_folder_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(_missing(folder, "folder of class folders", Task.CLS))
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: no class folders in it")
    return classes


def _sorted_categories(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(raw["categories"], key=lambda c: c["id"])


def _missing(path: Path, what: str, task: Task) -> str:
    return f"{path}: no such {what}; make it with `onehead prepare-data`, or leave {task} out of data.tasks"
