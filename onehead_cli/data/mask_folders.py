"""Images with masks of class indices: x.jpg in one folder, x.png in another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from onehead_cli.config.sections import IGNORE_INDEX, Config, DataConfig
from onehead_cli.data.checks import unknown_label, wrong_mask, wrong_mask_size
from onehead_cli.data.class_names import read_class_names
from onehead_cli.data.folders import entries, images_in, unused_masks
from onehead_cli.data.format import Contents, Fault, Format, Listing, filled_in, missing, of_split
from onehead_cli.data.images import open_mask
from onehead_cli.data.layout import CLASSES_FILE, DATASET_FOLDERS, IMAGE_FOLDER, MASK_FOLDER, VOC_CLASSES
from onehead_cli.data.passed_over import in_words
from onehead_cli.errors import DataError

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts

_TASK = "seg"

#: The share of void from which on it may be a class that was written so. VOC's outlines have a twentieth.
_COMMON = 0.1
#: Of files that may be meant for the mask of an image of the same stem.
_MASK_SUFFIXES = (".png", ".bmp")


@dataclass(frozen=True)
class MaskFoldersListing(Listing):
    """masks: one per image, whether it is there or not.

    ignore_index: what the masks have for void.
    twins: a file that takes the place of an image or its mask as well as it does, by image.
    """

    masks: list[Path]
    ignore_index: int = IGNORE_INDEX
    twins: Mapping[Path, Path] = field(default_factory=dict)

    unit: ClassVar[str] = "pixels"

    def without(self, skip: Collection[Path]) -> MaskFoldersListing:
        kept = [pair for pair in zip(self.images, self.masks, strict=True) if pair[0] not in skip]
        return replace(self, images=[image for image, _ in kept], masks=[mask for _, mask in kept])

    def label_file(self, index: int) -> Path:
        return self.masks[index]

    def faults(self, index: int, size: tuple[int, int] | None, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        image, mask = self.images[index], self.masks[index]
        if twin := self.twins.get(image):
            if twin.parent == image.parent:
                yield Fault("two_images_of_a_mask", f"{twin.name} has the same mask, {mask.name}; rename one", image)
            else:
                yield Fault("two_masks_of_an_image", f"{twin.name} is a mask of {image.name} too; remove one", mask)
        found = self._fault(facts(mask), size)
        if found is not None:
            yield Fault(*found, mask)

    def _fault(self, facts: Facts, size: tuple[int, int] | None) -> tuple[str, str] | None:
        """(kind, reason)"""
        if facts.kind is not None:
            return f"mask_{facts.kind}", f"mask: {facts.reason}"
        if reason := wrong_mask(facts.format, facts.mode):
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

    def doubts(self, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        known = [labels for mask in self.masks if (labels := facts(mask).labels) is not None]
        pixels = Counter[int]()
        for labels in known:
            pixels.update(labels)
        whole = len(known) == len(self.masks)
        if found := doubtful_labels(pixels, self.classes, self.ignore_index, whole=whole):
            kind, reason = found
            yield Fault(kind, reason if whole else f"in {len(known)} sampled masks: {reason}", self.masks[0].parent)

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
        root = of_split(_root(data), split)
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
        found, beside = images_in(images)
        if not found:
            counts = in_words(beside.counts)
            raise DataError(f"{images}: no image in it{f', only {counts}' if counts else ''}")
        labels = [masks / f"{path.stem}.png" for path in found]
        there = entries(masks)
        twins = dict([*_second_masks(found, labels, there), *_images_of_one_mask(found, labels)])
        passed = (beside, unused_masks(masks, there, labels))
        return MaskFoldersListing(classes, found, labels, config.data.ignore_index, twins, passed_over=passed)


MASK_FOLDERS = MaskFolders()


def read_mask_classes(data: DataConfig) -> list[str]:
    """The names in `data.seg_classes`, else in classes.yaml of `data.seg_root` (of the training split, where each has a
    root of its own), else the 21 VOC names; see `read_class_names`.

    Raises:
        DataError: the file was named but is missing, or holds something else.
    """
    path = data.seg_classes or filled_in(_root(data), data.train_split) / CLASSES_FILE
    if not path.is_file():
        if data.seg_classes is not None:
            raise DataError(f"{path}: no such file of class names (data.seg_classes)")
        return list(VOC_CLASSES)
    return read_class_names(path)


def _second_masks(images: Sequence[Path], masks: Sequence[Path], there: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(image, its second mask)"""
    found = defaultdict[str, list[Path]](list)
    for path in there:
        if path.suffix.lower() in _MASK_SUFFIXES:
            found[path.stem].append(path)
    for image, mask in zip(images, masks, strict=True):
        if mask in found[image.stem] and len(found[image.stem]) > 1:
            yield image, next(path for path in found[image.stem] if path != mask)


def _images_of_one_mask(images: Sequence[Path], masks: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(image, another of the same mask); where the file system takes a.png and A.png for one file, of both."""
    groups = defaultdict[str, list[tuple[Path, Path]]](list)
    for image, mask in zip(images, masks, strict=True):
        groups[mask.name.casefold()].append((image, mask))
    for group in groups.values():
        for image, mask in group if len(group) > 1 else ():
            others = (other for other, its in group if other != image and (its == mask or _is_one_file(its, mask)))
            if (twin := next(others, None)) is not None:
                yield image, twin


def _is_one_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def doubtful_labels(
    pixels: Mapping[int, int], classes: Sequence[str], ignore_index: int, *, whole: bool
) -> tuple[str, str] | None:
    """Where the masks of a whole split hardly mean what they say: (kind, reason).

    Args:
        pixels: with each value.
        ignore_index: of pixels that belong to no class.
        whole: the pixels are those of all masks; else of a sample, which may lack a class that is rare.
    """
    void, every = pixels.get(ignore_index, 0), sum(pixels.values())
    found = {label: count for label, count in pixels.items() if label != ignore_index and count}
    absent = [i for i in range(len(classes)) if i not in found and i != ignore_index]
    meant = ""
    if void and absent:
        meant = (
            f"; {void / every:.1%} of the pixels are {ignore_index}, which data.ignore_index leaves out: if that "
            f"stands for {classes[absent[0]]}, write {absent[0]} instead, or set data.ignore_index"
        )
    if every and not found:
        return "no_labels", f"no pixel has a class{meant}"
    if len(found) == 1:
        [only] = found
        return "one_label", f"every pixel with a class is {classes[only]}, so there is nothing to learn{meant}"
    if whole and meant and void > _COMMON * every:
        return "absent_label", f"no pixel is {classes[absent[0]]}{meant}"
    return None


def _root(data: DataConfig) -> Path:
    return data.seg_root or data.root / DATASET_FOLDERS[_TASK]
