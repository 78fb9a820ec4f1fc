"""COCO: images with the boxes of a JSON, which is read with care; boxes are cleaned, and file names stay inside."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from onehead_cli.config.sections import Config
from onehead_cli.data.checks import wrong_image_size
from onehead_cli.data.format import Contents, Fault, Format, Listing, filled_in, missing, of_split
from onehead_cli.data.layout import ANNOTATION_FOLDER, DATASET_FOLDERS, instances_file
from onehead_cli.errors import DataError
from onehead_cli.files.json_files import entries_of, is_float
from onehead_cli.wording import how_many

if TYPE_CHECKING:
    from onehead_cli.data.scan.probe import Facts

_TASK = "det"

#: COCO's limits between small, medium and large boxes, in square pixels.
_SMALL, _LARGE = 32**2, 96**2


@dataclass(frozen=True)
class CocoListing(Listing):
    """A split of a COCO JSON.

    json: its path. entries: of the images. annotations: cleaned. categories: sorted by id.
    dropped: (image id, what was done) of each box that was dropped or clipped.
    """

    json: Path
    entries: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    dropped: list[tuple[int, str]] = field(default_factory=list)
    leaving: frozenset[Path] = frozenset()

    unit: ClassVar[str] = "boxes"

    @property
    def outside(self) -> frozenset[Path]:
        return self.leaving

    @property
    def warnings(self) -> list[str]:
        counts = Counter(why for _, why in self.dropped)
        return [f"{self.json}: {how_many(count, 'box', 'boxes')} {why}" for why, count in sorted(counts.items())]

    @cached_property
    def by_image(self) -> dict[int, list[dict[str, Any]]]:
        """The annotations of each image, by its id."""
        found = defaultdict[int, list[dict[str, Any]]](list)
        for annotation in self.annotations:
            found[annotation["image_id"]].append(annotation)
        return found

    def without(self, skip: Collection[Path]) -> CocoListing:
        kept = [pair for pair in zip(self.images, self.entries, strict=True) if pair[0] not in skip]
        ids = {entry["id"] for _, entry in kept}
        return replace(
            self,
            images=[image for image, _ in kept],
            entries=[entry for _, entry in kept],
            annotations=[a for a in self.annotations if a["image_id"] in ids],
            dropped=[(image, why) for image, why in self.dropped if image in ids],
            leaving=self.leaving - frozenset(skip),
        )

    def faults(self, index: int, size: tuple[int, int] | None, facts: Callable[[Path], Facts]) -> Iterator[Fault]:
        entry = self.entries[index]
        if size and (reason := wrong_image_size(size, (entry["width"], entry["height"]))):
            yield Fault("wrong_size", reason, self.images[index])

    def present(self, facts: Callable[[Path], Facts]) -> set[int]:
        ids = {annotation["category_id"] for annotation in self.annotations if not annotation["iscrowd"]}
        return {index for index, category in enumerate(self.categories) if category["id"] in ids}

    def contents(self, index: int, size: tuple[int, int]) -> Contents:
        names = {category["id"]: name for category, name in zip(self.categories, self.classes, strict=True)}
        annotations = self.by_image[self.entries[index]["id"]]
        sizes = [_size_class(a["area"]) for a in annotations if not a["iscrowd"]]
        amounts = [None if a["iscrowd"] else names[a["category_id"]] for a in annotations]
        return Contents(Counter(amounts), Counter(sizes))


class CocoBoxes(Format):
    """A folder of images and a JSON per split."""

    locations = ("data.det_images", "data.det_annotations")

    def folders(self, config: Config, split: str) -> tuple[Path, Path]:
        """The folder of a split's images, which all splits may share, and its JSON."""
        data = config.data
        root = data.root / DATASET_FOLDERS[_TASK]
        images = of_split(data.det_images or root, split)
        if data.det_images and not images.is_dir():
            images = filled_in(data.det_images, split)
        annotations = filled_in(data.det_annotations or root / ANNOTATION_FOLDER, split)
        return images, annotations if annotations.suffix == ".json" else annotations / instances_file(split)

    def places(self, config: Config, split: str) -> tuple[Path, Path]:
        return self.folders(config, split)

    def is_there(self, config: Config, split: str) -> bool:
        return self.folders(config, split)[1].is_file()

    def classes(self, config: Config, split: str) -> list[str]:
        return [str(c["name"]) for c in _sorted_categories(read_coco(self.folders(config, split)[1]))]

    def list(self, config: Config, split: str) -> CocoListing:
        return list_coco_images(*self.folders(config, split))


COCO_BOXES = CocoBoxes()


def list_coco_images(folder: Path, annotations: Path) -> CocoListing:
    """Raises: DataError: the JSON is missing or malformed, or the folder of images is missing."""
    if not annotations.is_file():
        raise DataError(missing(annotations, "annotation file", _TASK))
    if not folder.is_dir():
        raise DataError(missing(folder, "folder of images", _TASK))
    raw = read_coco(annotations)
    categories = _sorted_categories(raw)
    images = [folder / entry["file_name"] for entry in raw["images"]]
    home = folder.resolve()
    cleaned, dropped = clean_annotations(raw, annotations)
    return CocoListing(
        classes=[str(c["name"]) for c in categories],
        images=images,
        json=annotations,
        entries=raw["images"],
        annotations=cleaned,
        categories=categories,
        dropped=dropped,
        leaving=frozenset(
            path for path, entry in zip(images, raw["images"], strict=True) if leaves_folder(home, entry["file_name"])
        ),
    )


def clean_annotations(raw: dict[str, Any], path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The annotations that can be used, clipped to their images, and what was dropped or clipped: (image id, how).

    Args:
        raw: what `read_coco` gives.
        path: of the JSON, for messages.

    Raises:
        DataError: a box that is not four numbers, or an annotation of an image that is not listed.
    """
    images = {image["id"]: image for image in raw["images"]}
    categories = {category["id"] for category in raw["categories"]}
    dropped: list[tuple[int, str]] = []
    kept = []
    for index, annotation in enumerate(raw["annotations"]):
        box = annotation["bbox"]
        if len(box) != 4 or not all(is_float(v) for v in box):
            raise DataError(f"{path}: annotations[{index}].bbox must be four numbers: x, y, width, height")
        image = images.get(annotation["image_id"])
        if image is None:
            raise DataError(
                f"{path}: annotations[{index}] belongs to image {annotation['image_id']}, which is not listed"
            )
        clean, what = _cleaned(annotation, image, categories, f"{path}: annotations[{index}]")
        if what:
            dropped.append((image["id"], what))
        if clean is not None:
            kept.append(clean)
    return kept, dropped


def _cleaned(
    annotation: dict[str, Any], image: dict[str, Any], categories: Collection[int], where: str
) -> tuple[dict[str, Any] | None, str]:
    """The annotation or None where it is dropped, and what was done to it in words."""
    box = annotation["bbox"]
    if annotation["category_id"] not in categories:
        return None, "of a category that is not listed dropped"
    if not all(math.isfinite(v) for v in box):
        return None, "with NaN or infinity dropped"
    if box[2] <= 0 or box[3] <= 0:
        return None, "without an area dropped"
    x1, y1 = max(0.0, float(box[0])), max(0.0, float(box[1]))
    x2, y2 = min(float(image["width"]), box[0] + box[2]), min(float(image["height"]), box[1] + box[3])
    if x2 <= x1 or y2 <= y1:
        return None, "outside the image dropped"
    crowd = annotation.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise DataError(f"{where}.iscrowd must be 0 or 1")
    clean, what = {**annotation, "iscrowd": int(crowd)}, ""
    # COCO's own boxes reach over the edge by a rounding error: those are neither clipped nor counted.
    if box[0] < -1 or box[1] < -1 or box[0] + box[2] > image["width"] + 1 or box[1] + box[3] > image["height"] + 1:
        clean["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        what = "clipped to the image"
    if not (is_float(clean.get("area")) and 0 <= clean["area"] < math.inf):
        clean["area"] = clean["bbox"][2] * clean["bbox"][3]
    return clean, what


def _size_class(area: float) -> str:
    return "small" if area < _SMALL else "medium" if area < _LARGE else "large"


def _sorted_categories(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(raw["categories"], key=lambda c: c["id"])


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO JSON with well-formed images, annotations and categories.

    Raises:
        DataError: in one line, with the index of the first bad entry.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file (see `onehead prepare-data`)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({type(error).__name__})") from None
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories")
    needed: dict[str, dict[str, type]] = {
        "images": {"id": int, "file_name": str, "width": int, "height": int},
        "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
        "categories": {"id": int, "name": str},
    }
    for section, fields in needed.items():
        if not raw.get(section) and section != "annotations":
            raise DataError(f"{path}: '{section}' is missing or empty")
        seen: set[int] = set()
        for index, entry in enumerate(entries_of(raw, section, fields, path)):
            if entry["id"] in seen:
                raise DataError(f"{path}: {section}[{index}] repeats the id {entry['id']}")
            seen.add(entry["id"])
    return raw


def leaves_folder(folder: Path, name: str) -> bool:
    """Whether a file_name of a JSON, absolute, with `..` or through a symbolic link, leads out of its folder.

    Args: folder: resolved.
    """
    relative = PurePosixPath(name)
    if "\0" in name or relative.is_absolute() or ".." in relative.parts:
        return True
    # Not Path.resolve, which raises RuntimeError for a link that leads to itself.
    return not Path(os.path.realpath(folder / relative)).is_relative_to(folder)
