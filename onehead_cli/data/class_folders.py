"""Class folders: {root}/{split}/{class}/image. The classes are the folders' names, sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onehead_cli.config.sections import Config
from onehead_cli.data.format import Contents, Format, Listing, missing, of_split
from onehead_cli.data.images import images_in
from onehead_cli.data.layout import DATASET_FOLDERS
from onehead_cli.errors import DataError

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts

_TASK = "cls"


@dataclass(frozen=True)
class ClassFoldersListing(Listing):
    """labels: the class of each image."""

    labels: list[int]

    def without(self, skip: Collection[Path]) -> ClassFoldersListing:
        kept = [(path, label) for path, label in zip(self.images, self.labels, strict=True) if path not in skip]
        return ClassFoldersListing(self.classes, [path for path, _ in kept], [label for _, label in kept])

    def present(self, facts: Callable[[Path], Facts]) -> set[int]:
        return set(self.labels)

    def contents(self, index: int, size: tuple[int, int]) -> Contents:
        return Contents(Counter({self.classes[self.labels[index]]: 1}))


class ClassFolders(Format):
    """Images in one folder per class."""

    locations = ("data.cls_root",)

    def folder(self, config: Config, split: str) -> Path:
        """Of the class folders of a split."""
        return of_split(config.data.cls_root or config.data.root / DATASET_FOLDERS[_TASK], split)

    def places(self, config: Config, split: str) -> list[Path]:
        return [self.folder(config, split)]

    def is_there(self, config: Config, split: str) -> bool:
        return self.folder(config, split).is_dir()

    def classes(self, config: Config, split: str) -> list[str]:
        return _names(self.folder(config, split))

    def list(self, config: Config, split: str) -> ClassFoldersListing:
        return list_class_folders(self.folder(config, split))


CLASS_FOLDERS = ClassFolders()


def list_class_folders(folder: Path) -> ClassFoldersListing:
    """Raises: DataError: the folder is missing or holds no class folder, or class folders are empty."""
    classes = _names(folder)
    found = [images_in(folder / name) for name in classes]
    if empty := [str(folder / name) for name, images in zip(classes, found, strict=True) if not images]:
        raise DataError(f"{', '.join(empty)}: class folder without an image")
    kept = [(path, label) for label, images in enumerate(found) for path in images]
    return ClassFoldersListing(classes, [path for path, _ in kept], [label for _, label in kept])


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(missing(folder, "folder of class folders", _TASK))
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: no class folders in it")
    return classes
