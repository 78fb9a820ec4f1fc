"""What was found as a COCO dataset. Also a part of the runner, so it needs numpy alone; see `runner_source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CocoResults:
    """A COCO dataset of what was found: images, categories, and boxes with their scores as annotations; masks as RLE,
    one per class of an image.

    `pycocotools.coco.COCO` reads the file and labelling tools import it. Ids count from 1, images in the order they
    were given.

    With the ids of a COCO file of labels it is a list of results, as `COCO.loadRes` of that file takes it: of the
    images and categories that the file has.
    """

    def __init__(self, names: Sequence[str], labels: Any = None) -> None:
        """Args:
            names: of classes; one that occurs twice is one category.
            labels: the JSON of a COCO file, whose ids are taken.

        Raises:
            ValueError: labels are no such JSON, or have none of the names.
        """
        self._ids = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._image_ids: dict[str, Any] | None = None
        self._image: Any = None
        self._taken: dict[str, str] = {}
        if labels is not None:
            known = _ids(labels, "categories", "name")
            self._image_ids = _ids(labels, "images", "file_name")
            self._ids = {name: known[name] for name in self._ids if name in known}
            if not self._ids:
                raise ValueError(f"none of its categories is a class of the network: {', '.join(names)}")

    def add_image(self, file: str, width: int, height: int) -> str | None:
        """The image that what follows is in. Why, where it is left out: the labels have none whose file_name the path
        ends in, or another image was taken for that."""
        if self._image_ids is None:
            self._image = len(self._images) + 1
            self._images.append({"id": self._image, "file_name": file, "width": width, "height": height})
            return None
        parts = Path(file).parts
        endings = (Path(*parts[start:]).as_posix() for start in range(len(parts)))
        found = next((ending for ending in endings if ending in self._image_ids), None)
        self._image = None if found is None or found in self._taken else self._image_ids[found]
        if found is None:
            return "not among the images of"
        if found in self._taken:
            return f"{self._taken[found]} was taken for {found} of"
        self._taken[found] = file
        return None

    def add_record(self, record: Mapping[str, Any]) -> str | None:
        """The image of a record, and its boxes. Returns: see `add_image`."""
        left_out = self.add_image(record["file"], record["width"], record["height"])
        for box in record.get("boxes", ()):
            self.add_box(box["label"], box["score"], box["box"])
        return left_out

    def add_box(self, name: str, score: float, box: Sequence[float]) -> None:
        """Args: box: x1 y1 x2 y2 in pixels."""
        x1, y1, x2, y2 = box
        sides = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
        self._add(name, bbox=sides, area=round(sides[2] * sides[3], 3), iscrowd=0, score=score)

    def add_mask(self, mask: NDArray[np.uint8], names: Sequence[str]) -> None:
        """A mask [height, width] of class indices; the background, index 0, is left out."""
        for label in np.unique(mask):
            if label:
                region = mask == label
                rows, columns = region.any(1).nonzero()[0], region.any(0).nonzero()[0]
                x, y = int(columns[0]), int(rows[0])
                self._add(
                    names[label],
                    bbox=[x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                    area=int(region.sum()),
                    iscrowd=1,  # a region of any number of things
                    segmentation={"size": list(mask.shape), "counts": run_lengths(region)},
                )

    def _add(self, name: str, **values: Any) -> None:
        if self._image is None or name not in self._ids:
            return
        number = len(self._annotations) + 1
        found = {"id": number, "image_id": self._image, "category_id": self._ids[name]}
        # COCOeval wants a score of every result; the network gives a region none.
        score = {"score": 1.0} if self._image_ids is not None else {}
        self._annotations.append({**found, **score, **values})

    def document(self) -> dict[str, Any] | list[dict[str, Any]]:
        """What is to be written as JSON."""
        if self._image_ids is not None:
            return self._annotations
        categories = [{"id": number, "name": name, "supercategory": "none"} for name, number in self._ids.items()]
        return {"images": self._images, "categories": categories, "annotations": self._annotations}


def _ids(labels: Any, part: str, name: str) -> dict[str, int]:
    """The ids of the images or categories of a COCO file by name. Raises: ValueError."""
    try:
        entries = [(each[name], each["id"]) for each in labels[part]]
        is_one = all(isinstance(key, str) and isinstance(value, int) for key, value in entries)
    except (KeyError, TypeError):
        is_one = False
    if not is_one:
        raise ValueError("not a COCO file: it needs images with file_name and id, and named categories")
    found = dict(entries)
    if len(found) < len(entries):
        twice = next(key for key in found if sum(key == other for other, _ in entries) > 1)
        raise ValueError(f"two {part} have the {name} {twice}")
    return found


def run_lengths(region: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed RLE of a region [height, width]: pixels outside, inside, outside, ... down the columns."""
    pixels = region.ravel(order="F")
    borders = np.flatnonzero(np.diff(pixels, prepend=False, append=pixels[-1:] if pixels.size else False))
    return [int(length) for length in np.diff([0, *borders.tolist(), pixels.size])]
