"""Images with masks of class indices: x.jpg in one folder, x.png in another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from onehead_cli.config.sections import IGNORE_INDEX, Config, DataConfig
from onehead_cli.config.yaml_text import parse_yaml
from onehead_cli.data.checks import unknown_label, wrong_mask_size, wrong_mode
from onehead_cli.data.format import Contents, Fault, Format, Listing, missing, of_split
from onehead_cli.data.images import images_in, open_mask
from onehead_cli.data.layout import CLASSES_FILE, DATASET_FOLDERS, IMAGE_FOLDER, MASK_FOLDER, VOC_CLASSES
from onehead_cli.errors import DataError
from onehead_cli.files.json_files import is_one_line

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts

_TASK = "seg"


@dataclass(frozen=True)
class MaskFoldersListing(Listing):
    """masks: one per image, whether it is there or not. ignore_index: what the masks have for void."""

    masks: list[Path]
    ignore_index: int = IGNORE_INDEX

    unit: ClassVar[str] = "pixels"

    def without(self, skip: Collection[Path]) -> MaskFoldersListing:
        kept = [pair for pair in zip(self.images, self.masks, strict=True) if pair[0] not in skip]
        return MaskFoldersListing(
            self.classes, [image for image, _ in kept], [mask for _, mask in kept], self.ignore_index
        )

    def label_file(self, index: int) -> Path:
        return self.masks[index]

    def faults(self, index: int, size: tuple[int, int] | None, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        mask = self.masks[index]
        found = self._fault(facts(mask), size)
        if found is not None:
            yield Fault(*found, mask)

    def _fault(self, facts: Facts, size: tuple[int, int] | None) -> tuple[str, str] | None:
        """(kind, reason)"""
        if facts.kind is not None:
            return f"mask_{facts.kind}", f"mask: {facts.reason}"
        if reason := wrong_mode(facts.mode):
            return "mask_wrong_mode", reason
        if size and (reason := wrong_mask_size((facts.width, facts.height), size)):
            return "mask_wrong_size", reason
        if facts.labels is not None and (reason := unknown_label(facts.labels, len(self.classes), self.ignore_index)):
            return "mask_unknown_label", reason
        return None

    def present(self, facts: Callable[[Path], Facts]) -> set[int] | None:
        labels = [facts(mask).labels for mask in self.masks]
        if None in labels:
            return None
        return {label for found in labels for label in found or () if label != self.ignore_index}

    def contents(self, index: int, size: tuple[int, int]) -> Contents:
        pixels = np.bincount(self.mask(index, size).ravel())
        return Contents(
            Counter(
                {
                    None if label == IGNORE_INDEX else self.classes[label]: int(pixels[label])
                    for label in np.flatnonzero(pixels)
                }
            )
        )

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A mask at its original size, uint8 [height, width], with IGNORE_INDEX for void.

        Args: size: width and height of its image.

        Raises:
            DataError: unreadable, of another size than the image, or with a label that is no class.
        """
        path = self.masks[index]
        mask = open_mask(path)
        if problem := wrong_mask_size(mask.shape[::-1], size):
            raise DataError(f"{path}: {problem}")
        if problem := unknown_label(np.unique(mask).tolist(), len(self.classes), self.ignore_index):
            raise DataError(f"{path}: {problem}")
        if self.ignore_index == IGNORE_INDEX:
            return mask
        return np.where(mask == self.ignore_index, np.uint8(IGNORE_INDEX), mask)


class MaskFolders(Format):
    """Images in one folder, masks of the same names in another."""

    locations = ("data.seg_root", "data.seg_images", "data.seg_masks", "data.seg_classes")

    def folders(self, config: Config, split: str) -> tuple[Path, Path]:
        """Of a split's images and of its masks."""
        data = config.data
        root = _root(data) / split
        return (
            of_split(data.seg_images, split) if data.seg_images else root / IMAGE_FOLDER,
            of_split(data.seg_masks, split) if data.seg_masks else root / MASK_FOLDER,
        )

    def places(self, config: Config, split: str) -> tuple[Path, Path]:
        return self.folders(config, split)

    def is_there(self, config: Config, split: str) -> bool:
        return any(folder.is_dir() for folder in self.folders(config, split))

    def classes(self, config: Config, split: str) -> list[str]:
        return read_mask_classes(config.data)

    def list(self, config: Config, split: str) -> MaskFoldersListing:
        images, masks = self.folders(config, split)
        classes = read_mask_classes(config.data)
        for folder in (images, masks):
            if not folder.is_dir():
                raise DataError(missing(folder, "folder", _TASK))
        if images.resolve() == masks.resolve():
            raise DataError(f"{images}: images and masks need two folders")
        found = images_in(images)
        if not found:
            raise DataError(f"{images}: no image in it")
        labels = [masks / f"{path.stem}.png" for path in found]
        return MaskFoldersListing(classes, found, labels, config.data.ignore_index)


MASK_FOLDERS = MaskFolders()


def read_mask_classes(data: DataConfig) -> list[str]:
    """The names in `data.seg_classes` (a list, or a mapping from index to name), else the 21 VOC names.

    Raises:
        DataError: the file was named but is missing, or is not such a list or mapping.
    """
    path = data.seg_classes or _root(data) / CLASSES_FILE
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


def _root(data: DataConfig) -> Path:
    return data.seg_root or data.root / DATASET_FOLDERS[_TASK]
