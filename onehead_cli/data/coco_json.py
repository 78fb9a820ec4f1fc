"""A COCO JSON, read with care: what can be used is brought into one form, the rest is dropped and counted."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from onehead_cli.errors import DataError
from onehead_cli.files.json_files import entries_of, is_float

#: A box within the unit square, but for rounding, is no box in pixels.
_UNIT = 1.01
#: The share of a JSON's boxes that must look like another form, and how many over the edge are no accident.
_NEARLY_ALL, _MANY, _FEW = 0.99, 0.2, 3


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO JSON with well-formed images, annotations and categories.

    Whole numbers may be written as floats, and a category may have a number for a name. An annotation needs no id. An
    image may lack width and height, which are then None; a JSON of a test split may lack annotations.

    Raises:
        DataError: in one line, with the index of the first bad entry.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file (see `onehead prepare-data`)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({type(error).__name__})") from None
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories")
    raw.setdefault("annotations", [])
    for section in ("images", "annotations", "categories"):
        if section != "annotations" and not raw.get(section):
            raise DataError(f"{path}: '{section}' is missing or empty")
        if isinstance(raw[section], list):
            _write_whole_numbers(raw[section])
    for category in raw["categories"] if isinstance(raw["categories"], list) else ():
        if isinstance(category, dict) and type(category.get("name")) is int and is_float(category["name"]):
            category["name"] = str(category["name"])
    entries_of(raw, "images", {"id": int, "file_name": str}, path)
    for index, image in enumerate(raw["images"]):
        for side in ("width", "height"):
            if image.setdefault(side, None) is not None and not _is_side(image[side]):
                raise DataError(f"{path}: images[{index}].{side} must be a whole number of pixels above 0, or missing")
    entries_of(raw, "annotations", {"image_id": int, "category_id": int, "bbox": list}, path)
    entries_of(raw, "categories", {"id": int, "name": str}, path)
    for section, field in (
        ("images", "id"),
        ("images", "file_name"),
        ("annotations", "id"),
        ("categories", "id"),
        ("categories", "name"),
    ):
        _refuse_repeats(raw[section], section, field, path)
    return raw


def _write_whole_numbers(entries: Sequence[Any]) -> None:
    """5.0 becomes 5: programs that keep tables write numbers so."""
    for entry in entries:
        for field in ("id", "image_id", "category_id", "width", "height") if isinstance(entry, dict) else ():
            value = entry.get(field)
            if isinstance(value, float) and value.is_integer():
                entry[field] = int(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and is_float(value) and value > 0


def _refuse_repeats(entries: Sequence[dict[str, Any]], section: str, field: str, path: Path) -> None:
    seen: set[Any] = set()
    for index, entry in enumerate(entries):
        value = entry.get(field)
        if value is None:  # an annotation without an id
            continue
        if isinstance(value, list | dict):
            raise DataError(f"{path}: {section}[{index}].{field} must be a number")
        if field == "file_name":  # a.jpg and ./a.jpg are one file
            value = posixpath.normpath(value)
        if value in seen:
            raise DataError(f"{path}: {section}[{index}] repeats the {field.replace('_', ' ')} {value}")
        seen.add(value)


def used_categories(raw: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The categories, sorted by id, and what was left out: the root that Roboflow puts above all others.

    It is above all the others and has no box of its own.
    """
    categories = sorted(raw["categories"], key=lambda category: category["id"])
    taken = {annotation["category_id"] for annotation in raw["annotations"]}
    for root in categories:
        others = [category for category in categories if category is not root]
        if others and root["id"] not in taken and all(c.get("supercategory") == root["name"] for c in others):
            return others, str(root["name"])
    return categories, None


def clean_annotations(
    raw: dict[str, Any], categories: Sequence[dict[str, Any]], path: Path
) -> tuple[list[dict[str, Any]], list[tuple[int | None, str]]]:
    """The annotations that can be used, clipped to their images, and what was dropped or clipped: (image id, how); the
    id is None where the image is not listed. Those of an image without width and height are left out.

    Args:
        raw: what `read_coco` gives.
        path: of the JSON, for messages.

    Raises:
        DataError: a box that is not four numbers.
    """
    images = {image["id"]: image for image in raw["images"]}
    known = {category["id"] for category in categories}
    dropped: list[tuple[int | None, str]] = []
    kept = []
    for index, annotation in enumerate(raw["annotations"]):
        box = annotation["bbox"]
        if len(box) != 4 or not all(is_float(v) for v in box):
            raise DataError(f"{path}: annotations[{index}].bbox must be four numbers: x, y, width, height")
        image = images.get(annotation["image_id"])
        if image is None:
            dropped.append((None, "dropped: image not listed"))
            continue
        if None in (image["width"], image["height"]):
            continue
        clean, what = _cleaned(annotation, image, known, f"{path}: annotations[{index}]")
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
        return None, "dropped: category not listed"
    if not all(math.isfinite(v) for v in box):
        return None, "dropped: NaN or infinite"
    if box[2] <= 0 or box[3] <= 0:
        return None, "dropped: no area"
    x1, y1 = max(0.0, float(box[0])), max(0.0, float(box[1]))
    x2, y2 = min(float(image["width"]), box[0] + box[2]), min(float(image["height"]), box[1] + box[3])
    if x2 <= x1 or y2 <= y1:
        return None, "dropped: outside the image"
    crowd = 0
    for key in ("iscrowd", "ignore"):  # both are regions to ignore
        value = annotation.get(key) or 0
        if value not in (0, 1):
            raise DataError(f"{where}.{key} must be 0 or 1")
        crowd = max(crowd, int(value))
    clean, what = {**annotation, "iscrowd": crowd}, ""
    # COCO's own boxes reach over the edge by a rounding error: those are neither clipped nor counted.
    if box[0] < -1 or box[1] < -1 or box[0] + box[2] > image["width"] + 1 or box[1] + box[3] > image["height"] + 1:
        clean["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        what = "clipped to the image"
    if not (is_float(clean.get("area")) and 0 <= clean["area"] < math.inf):
        clean["area"] = clean["bbox"][2] * clean["bbox"][3]
    return clean, what


def doubtful_boxes(raw: dict[str, Any]) -> tuple[str, str] | None:
    """Where nearly all boxes are in another form than COCO's, what is said of it: (kind, reason).

    Boxes without an area say nothing of it.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in raw["images"]}
    found = [
        (annotation["bbox"], sizes[annotation["image_id"]])
        for annotation in raw["annotations"]
        if annotation["image_id"] in sizes
        and None not in sizes[annotation["image_id"]]
        and all(map(math.isfinite, annotation["bbox"]))
        and min(annotation["bbox"][2:]) > 0
    ]
    nearly_all = max(1.0, _NEARLY_ALL * len(found))
    if sum(max(box) <= _UNIT and max(size) > 1 for box, size in found) >= nearly_all:
        return "boxes_are_shares", (
            "no box is larger than a pixel, so they look like fractions of the image; "
            "COCO boxes are x, y, width and height in pixels"
        )
    over = sum(not _within_as_sizes(box, size) for box, size in found)
    # A few boxes over the edge are drawn so; of boxes with x2 and y2 every one in the lower right half is over it.
    if over >= max(_FEW, _MANY * len(found)) and sum(_within_as_corners(*each) for each in found) >= nearly_all:
        return "boxes_are_corners", (
            "boxes read as x, y, width and height, as in COCO, reach over the edge; as x1, y1, x2 and y2 they would fit"
        )
    return None


def _within_as_corners(box: Sequence[float], size: tuple[int, int]) -> bool:
    return -1 <= box[0] < box[2] <= size[0] + 1 and -1 <= box[1] < box[3] <= size[1] + 1


def _within_as_sizes(box: Sequence[float], size: tuple[int, int]) -> bool:
    return box[0] + box[2] <= size[0] + 1 and box[1] + box[3] <= size[1] + 1
