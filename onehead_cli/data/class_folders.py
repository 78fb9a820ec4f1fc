"""Class folders: {root}/{split}/{class}/image. The classes are the folders' names, sorted.

A name may hold any bytes; those that cannot stand in a line of text are escaped in the class's name.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onehead_cli.config.sections import Config
from onehead_cli.data.folders import PassedOver, class_folders_in, images_in, total
from onehead_cli.data.format import Contents, Format, Listing, missing, of_split
from onehead_cli.data.layout import DATASET_FOLDERS
from onehead_cli.data.passed_over import in_words
from onehead_cli.errors import DataError
from onehead_cli.wording import shown

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts

_TASK = "cls"


@dataclass(frozen=True)
class ClassFoldersListing(Listing):
    """labels: the class of each image."""

    labels: list[int]

    def without(self, skip: Collection[Path]) -> ClassFoldersListing:
        kept = [(path, label) for path, label in zip(self.images, self.labels, strict=True) if path not in skip]
        return replace(self, images=[path for path, _ in kept], labels=[label for _, label in kept])

    def with_classes(self, classes: Sequence[str]) -> ClassFoldersListing:
        numbers = {name: index for index, name in enumerate(classes)}
        labels = [numbers[self.classes[label]] for label in self.labels]
        return replace(self, classes=list(classes), labels=labels)

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
        return [shown(folder.name) for folder in _class_folders(self.folder(config, split))[0]]

    def list(self, config: Config, split: str) -> ClassFoldersListing:
        return list_class_folders(self.folder(config, split))


CLASS_FOLDERS = ClassFolders()


def list_class_folders(folder: Path) -> ClassFoldersListing:
    """A split; a folder without an image is a class without an example.

    Raises:
        DataError: the folder is missing, or there is no class folder or no image in it.
    """
    folders, beside = _class_folders(folder)
    images, labels, passed = [], [], []
    for label, place in enumerate(folders):
        found, rest = images_in(place)
        images += found
        labels += [label] * len(found)
        passed.append(rest)
    passed.append(PassedOver(folder, beside, len(images)))
    if not images:
        counts = in_words(total(passed))
        raise DataError(f"{folder}: no image in its class folders{f', only {counts}' if counts else ''}")
    return ClassFoldersListing([shown(place.name) for place in folders], images, labels, passed_over=passed)


def _class_folders(folder: Path) -> tuple[list[Path], Counter[str]]:
    """In the order of the labels, and what is passed over beside them."""
    if not folder.is_dir():
        raise DataError(missing(folder, "folder of class folders", _TASK))
    found, beside = class_folders_in(folder)
    if not found:
        counts = in_words(beside)
        raise DataError(f"{folder}: no class folders in it{f', only {counts}' if counts else ''}")
    seen: dict[str, Path] = {}
    for place in found:
        first = seen.setdefault(unicodedata.normalize("NFC", shown(place.name)), place)
        if first is not place:
            raise DataError(f"{folder}: {first.name!a} and {place.name!a} are one class by name; rename one")
    return found, beside
