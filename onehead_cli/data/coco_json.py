"""A COCO JSON, read with care: what can be used is brought into one form, the rest is dropped and counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from onehead_cli.errors import DataError
from onehead_cli.files.json_files import entries_of, is_float

#: A box within the unit square is no box in pixels.
_UNIT = 1.0


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO JSON with well-formed images, annotations and categories.

    Whole numbers may be written as floats. An annotation needs no id. An image may lack width and height, which are
    then None.

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
    for section in ("images", "annotations", "categories"):
        if not raw.get(section) and section != "annotations":
            raise DataError(f"{path}: '{section}' is missing or empty")
        if isinstance(raw.get(section), list):
            _write_whole_numbers(raw[section])
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
            dropped.append((None, "of an image that is not listed dropped"))
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
        return None, "of a category that is not listed dropped"
    if not all(math.isfinite(v) for v in box):
        return None, "with NaN or infinity dropped"
    if box[2] <= 0 or box[3] <= 0:
        return None, "without an area dropped"
    x1, y1 = max(0.0, float(box[0])), max(0.0, float(box[1]))
    x2, y2 = min(float(image["width"]), box[0] + box[2]), min(float(image["height"]), box[1] + box[3])
    if x2 <= x1 or y2 <= y1:
        return None, "outside the image dropped"
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
    """Where all boxes are in another form than COCO's, what is said of it: (kind, reason)."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in raw["images"]}
    found = [
        (annotation["bbox"], sizes[annotation["image_id"]])
        for annotation in raw["annotations"]
        if annotation["image_id"] in sizes
        and None not in sizes[annotation["image_id"]]
        and all(map(math.isfinite, annotation["bbox"]))
    ]
    if not found:
        return None
    if all(max(box) <= _UNIT and (width > 1 or height > 1) for box, (width, height) in found):
        return "boxes_are_shares", (
            "no box is larger than a pixel, as if they were shares of the image; "
            "COCO's are x, y, width and height in pixels"
        )
    if _all(found, _within_as_corners) and not _all(found, _within_as_sizes):
        return "boxes_are_corners", (
            "boxes reach over the edge and would not as x1, y1, x2, y2; COCO's are x, y, width, height"
        )
    return None


_Sized = tuple[Sequence[float], tuple[int, int]]


def _all(found: Sequence[_Sized], holds: Callable[[Sequence[float], tuple[int, int]], bool]) -> bool:
    return all(holds(box, size) for box, size in found)


def _within_as_corners(box: Sequence[float], size: tuple[int, int]) -> bool:
    return 0 <= box[0] < box[2] <= size[0] + 1 and 0 <= box[1] < box[3] <= size[1] + 1


def _within_as_sizes(box: Sequence[float], size: tuple[int, int]) -> bool:
    return box[0] + box[2] <= size[0] + 1 and box[1] + box[3] <= size[1] + 1
