"""COCO: images with the boxes of a JSON; file names stay inside their folder."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from onehead_cli.config.sections import Config
from onehead_cli.data.checks import wrong_image_size
from onehead_cli.data.coco_json import clean_annotations, doubtful_boxes, read_coco, used_categories
from onehead_cli.data.folders import unlisted
from onehead_cli.data.format import Contents, Fault, Format, Listing, filled_in, missing, of_split
from onehead_cli.data.images import image_size
from onehead_cli.data.layout import ANNOTATION_FOLDER, DATASET_FOLDERS, instances_file
from onehead_cli.errors import DataError
from onehead_cli.wording import how_many

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts

_TASK = "det"

#: COCO's limits between small, medium and large boxes, in square pixels.
_SMALL, _LARGE = 32**2, 96**2


@dataclass(frozen=True)
class CocoListing(Listing):
    """A split of a COCO JSON.

    json: its path. folder: of the images. entries: of the images. annotations: cleaned.
    categories: sorted by id; another split may number the same ones differently.
    dropped: (image id, what was done) of each box that was dropped or clipped; None for an image that is not listed.
    root: the name of a category above all others, which is no class.
    doubt: (kind, reason), where no box is in COCO's form.
    """

    json: Path
    folder: Path
    entries: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    dropped: list[tuple[int | None, str]] = field(default_factory=list)
    leaving: frozenset[Path] = frozenset()
    root: str | None = None
    doubt: tuple[str, str] | None = None

    unit: ClassVar[str] = "boxes"

    @property
    def outside(self) -> frozenset[Path]:
        return self.leaving

    @property
    def warnings(self) -> list[str]:
        counts = Counter(why for _, why in self.dropped)
        said = super().warnings
        said += [f"{self.json}: {how_many(count, 'box', 'boxes')} {why}" for why, count in sorted(counts.items())]
        if self.root is not None:
            said.append(
                f"{self.json}: the category {self.root} is the parent of all others and has no box: it is not a class"
            )
        return said

    @cached_property
    def by_image(self) -> dict[int, list[dict[str, Any]]]:
        """The annotations of each image, by its id."""
        found = defaultdict[int, list[dict[str, Any]]](list)
        for annotation in self.annotations:
            found[annotation["image_id"]].append(annotation)
        return found

    @cached_property
    def labels(self) -> dict[int, int]:
        """The class index of each category id."""
        return {category["id"]: self.classes.index(category["name"]) for category in self.categories}

    def home(self, index: int) -> Path:
        return self.folder

    def with_classes(self, classes: Sequence[str]) -> CocoListing:
        return replace(self, classes=list(classes))

    def without(self, skip: Collection[Path]) -> CocoListing:
        kept = [pair for pair in zip(self.images, self.entries, strict=True) if pair[0] not in skip]
        ids = {entry["id"] for _, entry in kept}
        return replace(
            self,
            images=[image for image, _ in kept],
            entries=[entry for _, entry in kept],
            annotations=[a for a in self.annotations if a["image_id"] in ids],
            dropped=[(image, why) for image, why in self.dropped if image is None or image in ids],
            leaving=self.leaving - frozenset(skip),
        )

    def faults(self, index: int, size: tuple[int, int] | None, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        entry = self.entries[index]
        if (
            size
            and entry["width"] is not None
            and (reason := wrong_image_size(size, (entry["width"], entry["height"])))
        ):
            yield Fault("wrong_size", reason, self.images[index])

    def present(self, facts: Callable[[Path], Facts]) -> set[int]:
        return {self.labels[each["category_id"]] for each in self.annotations if not each["iscrowd"]}

    def doubts(self, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        if self.doubt is not None:
            yield Fault(*self.doubt, self.json)
        elif not any(not annotation["iscrowd"] for annotation in self.annotations):
            yield Fault("no_labels", "has no box for any of its images", self.json)

    def contents(self, index: int, size: tuple[int, int]) -> Contents:
        annotations = self.by_image[self.entries[index]["id"]]
        sizes = [_size_class(a["area"]) for a in annotations if not a["iscrowd"]]
        amounts = [None if a["iscrowd"] else self.classes[self.labels[a["category_id"]]] for a in annotations]
        return Contents(Counter(amounts), Counter(sizes))


class CocoBoxes(Format):
    """A folder of images and a JSON per split."""

    locations = ("data.det_images", "data.det_annotations")

    def folders(self, config: Config, split: str) -> tuple[Path, Path]:
        """The folder of a split's images, which all splits may share, and its JSON."""
        data = config.data
        root = data.root / DATASET_FOLDERS[_TASK]
        images = self._own_images(config, split)
        if data.det_images and not images.is_dir():
            images = filled_in(data.det_images, split)
        annotations = filled_in(data.det_annotations or root / ANNOTATION_FOLDER, split)
        return images, annotations if annotations.suffix == ".json" else annotations / instances_file(split)

    def places(self, config: Config, split: str) -> tuple[Path, Path]:
        return self.folders(config, split)

    def is_there(self, config: Config, split: str) -> bool:
        return self.folders(config, split)[1].is_file()

    def classes(self, config: Config, split: str) -> list[str]:
        return [str(c["name"]) for c in used_categories(read_coco(self.folders(config, split)[1]))[0]]

    def list(self, config: Config, split: str) -> CocoListing:
        images, annotations = self.folders(config, split)
        is_shared = images != self._own_images(config, split)
        return list_coco_images(images, annotations, config.data.root, is_shared=is_shared)

    def _own_images(self, config: Config, split: str) -> Path:
        """The folder of a split's images where no other split has it too."""
        return of_split(config.data.det_images or config.data.root / DATASET_FOLDERS[_TASK], split)


COCO_BOXES = CocoBoxes()


def list_coco_images(
    folder: Path, annotations: Path, root: Path | None = None, *, is_shared: bool = False
) -> CocoListing:
    """A split.

    Args:
        folder: of the images.
        annotations: the JSON.
        root: a symbolic link among the images may lead anywhere in it.
        is_shared: the folder has images of other splits too.

    Raises:
        DataError: the JSON is missing or malformed, or the folder of images is missing.
    """
    if not annotations.is_file():
        raise DataError(missing(annotations, "annotation file", _TASK))
    if not folder.is_dir():
        raise DataError(missing(folder, "folder of images", _TASK))
    raw = read_coco(annotations)
    categories, above = used_categories(raw)
    images = [folder / entry["file_name"] for entry in raw["images"]]
    homes = [place.resolve() for place in (folder, root) if place is not None]
    leaving = frozenset(
        path for path, entry in zip(images, raw["images"], strict=True) if leaves_folder(homes, entry["file_name"])
    )
    for path, entry in zip(images, raw["images"], strict=True):
        if None in (entry["width"], entry["height"]) and path not in leaving:
            with contextlib.suppress(DataError):  # the scan will say what is wrong with it
                entry["width"], entry["height"] = image_size(path)
    cleaned, dropped = clean_annotations(raw, categories, annotations)
    return CocoListing(
        classes=[str(c["name"]) for c in categories],
        images=images,
        json=annotations,
        folder=folder,
        entries=raw["images"],
        annotations=cleaned,
        categories=categories,
        dropped=dropped,
        leaving=leaving,
        root=above,
        doubt=doubtful_boxes(raw),
        passed_over=[unlisted(folder, images, annotations, is_shared=is_shared)],
    )


def _size_class(area: float) -> str:
    return "small" if area < _SMALL else "medium" if area < _LARGE else "large"


def leaves_folder(homes: Sequence[Path], name: str) -> bool:
    """Whether a file_name of a JSON, absolute, with `..` or through a symbolic link, leads out of where it may be.

    Args: homes: resolved; first the folder that it is relative to.
    """
    relative = PurePosixPath(name)
    if "\0" in name or relative.is_absolute() or ".." in relative.parts:
        return True
    # Not Path.resolve, which raises RuntimeError for a link that leads to itself.
    real = Path(os.path.realpath(homes[0] / relative))
    return not any(real.is_relative_to(home) for home in homes)
