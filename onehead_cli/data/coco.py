"""COCO annotations, without torch: a JSON read with care, boxes cleaned, file names held inside their folder."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from onehead_cli.errors import DataError
from onehead_cli.files.json_files import entries_of, is_float


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


def clean_annotations(
    raw: dict[str, Any], path: Path, *, left_out: Collection[int] = ()
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The annotations that can be used, clipped to their pictures, and how many were dropped or clipped, by reason.

    Args:
        raw: what `read_coco` gives.
        path: of the JSON, for messages.
        left_out: ids of images whose annotations are passed over.

    Raises:
        DataError: a box that is not four numbers, or an annotation of an image that is not listed.
    """
    images = {image["id"]: image for image in raw["images"]}
    categories = {category["id"] for category in raw["categories"]}
    dropped: Counter[str] = Counter()
    kept = []
    for index, annotation in enumerate(raw["annotations"]):
        box = annotation["bbox"]
        if len(box) != 4 or not all(is_float(v) for v in box):
            raise DataError(f"{path}: annotations[{index}].bbox must be four numbers: x, y, width, height")
        if annotation["image_id"] not in images:
            raise DataError(
                f"{path}: annotations[{index}] belongs to image {annotation['image_id']}, which is not listed"
            )
        if annotation["image_id"] in left_out:
            continue
        if annotation["category_id"] not in categories:
            dropped["of a category that is not listed dropped"] += 1
            continue
        if not all(math.isfinite(v) for v in box):
            dropped["with NaN or infinity dropped"] += 1
            continue
        if box[2] <= 0 or box[3] <= 0:
            dropped["without an area dropped"] += 1
            continue
        image = images[annotation["image_id"]]
        x1, y1 = max(0.0, float(box[0])), max(0.0, float(box[1]))
        x2, y2 = min(float(image["width"]), box[0] + box[2]), min(float(image["height"]), box[1] + box[3])
        if x2 <= x1 or y2 <= y1:
            dropped["outside the picture dropped"] += 1
            continue
        crowd = annotation.get("iscrowd") or 0
        if crowd not in (0, 1):
            raise DataError(f"{path}: annotations[{index}].iscrowd must be 0 or 1")
        clean = {**annotation, "iscrowd": int(crowd)}
        # COCO's own boxes reach over the edge by a rounding error: those are neither clipped nor counted.
        if box[0] < -1 or box[1] < -1 or box[0] + box[2] > image["width"] + 1 or box[1] + box[3] > image["height"] + 1:
            clean["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            dropped["clipped to the picture"] += 1
        if not (is_float(clean.get("area")) and 0 <= clean["area"] < math.inf):
            clean["area"] = clean["bbox"][2] * clean["bbox"][3]
        kept.append(clean)
    return kept, dropped


def leaves_folder(folder: Path, name: str) -> bool:
    """Whether a file_name of a JSON, absolute, with `..` or through a symbolic link, leads out of its folder.

    Args: folder: resolved.
    """
    relative = PurePosixPath(name)
    if "\0" in name or relative.is_absolute() or ".." in relative.parts:
        return True
    # Not Path.resolve, which raises RuntimeError for a link that leads to itself.
    return not Path(os.path.realpath(folder / relative)).is_relative_to(folder)
