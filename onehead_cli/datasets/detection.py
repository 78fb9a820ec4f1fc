"""COCO annotations: one JSON a split beside a folder of pictures."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from onehead_cli.config import DataConfig
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.files import is_one_line
from onehead_cli.datasets.pictures import CacheBudget
from onehead_cli.errors import DataError
from onehead_cli.types import DetectionTarget, Task


class DetectionData(TaskData):
    """ground_truth: the JSON's images, annotations and categories, cleaned.

    category_ids: the category of each label. Boxes without an area and those of unknown categories are dropped, boxes
    that leave the picture are clipped; `warnings` says how many.
    """

    task = Task.DET

    def __init__(
        self, pictures: Path, annotations: Path, data: DataConfig, interpolation: str, budget: CacheBudget
    ) -> None:
        """Raises: DataError: the JSON is missing or malformed, or names a picture outside its folder."""
        raw = read_coco(annotations)
        categories = sorted(raw["categories"], key=lambda c: c["id"])
        self.category_ids = [int(c["id"]) for c in categories]
        cleaned, dropped = _clean(raw, annotations)
        self.ground_truth: dict[str, Any] = {
            "images": raw["images"],
            "annotations": cleaned,
            "categories": categories,
        }
        by_image = defaultdict(list)
        for annotation in cleaned:
            by_image[annotation["image_id"]].append(annotation)
        self._by_image = [by_image[image["id"]] for image in raw["images"]]
        paths = [_inside(pictures, image["file_name"], annotations) for image in raw["images"]]
        super().__init__(paths, [str(c["name"]) for c in categories], data, interpolation, budget)
        self.warnings = [f"{annotations}: {count} boxes {why}" for why, count in sorted(dropped.items())]

    def _targets(self, indices: Sequence[int]) -> DetectionTarget:
        most = max([len(self._by_image[i]) for i in indices] + [1])
        boxes = torch.zeros(len(indices), most, 4)
        labels = torch.full((len(indices), most), -1)
        crowd = torch.zeros(len(indices), most, dtype=torch.bool)
        for row, index in enumerate(indices):
            self._check_size(index)
            found = self._by_image[index]
            if not found:
                continue
            xywh = np.array([a["bbox"] for a in found], dtype=np.float64)
            corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            boxes[row, : len(found)] = torch.from_numpy(self.fit(index).to_input(corners)).float()
            labels[row, : len(found)] = torch.tensor([self.category_ids.index(a["category_id"]) for a in found])
            crowd[row, : len(found)] = torch.tensor([bool(a["iscrowd"]) for a in found])
        return DetectionTarget(boxes, labels, crowd)

    def _check_size(self, index: int) -> None:
        fit, image = self.fit(index), self.ground_truth["images"][index]
        if (fit.width, fit.height) != (image["width"], image["height"]):
            raise DataError(
                f"{self.paths[index]}: {fit.width} x {fit.height} pixels (turned as its EXIF orientation says), "
                f"but its annotations are for {image['width']} x {image['height']}"
            )


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
    needed = {
        "images": {"id": int, "file_name": str, "width": int, "height": int},
        "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
        "categories": {"id": int, "name": str},
    }
    for section, fields in needed.items():
        entries = raw.get(section)
        if not isinstance(entries, list) or (section != "annotations" and not entries):
            raise DataError(f"{path}: '{section}' is missing or empty")
        seen: set[int] = set()
        for index, entry in enumerate(entries):
            for field, kind in fields.items():
                value = entry.get(field) if isinstance(entry, dict) else None
                if not isinstance(value, kind) or (kind is int and not _is_float(value)):
                    raise DataError(f"{path}: {section}[{index}] needs '{field}' ({kind.__name__})")
                if isinstance(value, str) and not is_one_line(value):
                    raise DataError(
                        f"{path}: {section}[{index}].{field} {value!a} holds a control character or half a character"
                    )
            if entry["id"] in seen:
                raise DataError(f"{path}: {section}[{index}] repeats the id {entry['id']}")
            seen.add(entry["id"])
    return raw


def _is_float(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; NaN and infinity are, an integer of 400 digits is not."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _clean(raw: dict[str, Any], path: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    images = {image["id"]: image for image in raw["images"]}
    categories = {category["id"] for category in raw["categories"]}
    dropped: Counter[str] = Counter()
    kept = []
    for index, annotation in enumerate(raw["annotations"]):
        box = annotation["bbox"]
        if len(box) != 4 or not all(_is_float(v) for v in box):
            raise DataError(f"{path}: annotations[{index}].bbox must be four numbers: x, y, width, height")
        if annotation["image_id"] not in images:
            raise DataError(
                f"{path}: annotations[{index}] belongs to image {annotation['image_id']}, which is not listed"
            )
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
            dropped["outside their picture dropped"] += 1
            continue
        crowd = annotation.get("iscrowd") or 0
        if crowd not in (0, 1):
            raise DataError(f"{path}: annotations[{index}].iscrowd must be 0 or 1")
        clean = {**annotation, "iscrowd": int(crowd)}
        # COCO's own boxes reach over the edge by a rounding error: those are neither clipped nor counted.
        if box[0] < -1 or box[1] < -1 or box[0] + box[2] > image["width"] + 1 or box[1] + box[3] > image["height"] + 1:
            clean["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            dropped["clipped to their picture"] += 1
        if not (_is_float(clean.get("area")) and 0 <= clean["area"] < math.inf):
            clean["area"] = clean["bbox"][2] * clean["bbox"][3]
        kept.append(clean)
    return kept, dropped


def _inside(folder: Path, name: str, annotations: Path) -> Path:
    relative = PurePosixPath(name)
    if (
        relative.is_absolute()
        or ".." in relative.parts
        or not (folder / relative).resolve().is_relative_to(folder.resolve())
    ):
        raise DataError(f"{annotations}: file_name '{name}' leaves the folder {folder}")
    return folder / relative


def pooled_ground_truth(splits: Sequence[DetectionData]) -> dict[str, Any]:
    """The cleaned annotations of several splits as one, numbered anew: ids of different files may be the same."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for split in splits:
        number = {image["id"]: len(images) + place for place, image in enumerate(split.ground_truth["images"], 1)}
        images += [{**image, "id": number[image["id"]]} for image in split.ground_truth["images"]]
        for annotation in split.ground_truth["annotations"]:
            new = {"id": len(annotations) + 1, "image_id": number[annotation["image_id"]]}
            annotations.append({**annotation, **new})
    return {"images": images, "annotations": annotations, "categories": splits[0].ground_truth["categories"]}
