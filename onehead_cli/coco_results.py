"""What was found as a COCO dataset. Also a part of the runner, so it needs numpy alone; see `runner_source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CocoResults:
    """A COCO dataset of what was found: images, categories, and boxes with their scores as annotations; masks as RLE,
    one per class of an image.

    `pycocotools.coco.COCO` reads the file and labelling tools import it. Ids count from 1, images in the order they
    were given: for `COCO.loadRes` give the annotations the ids that the truth has for their images and categories.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Args: names: of classes; one that occurs twice is one category."""
        self._ids = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add_image(self, file: str, width: int, height: int) -> None:
        """The image that what follows is in."""
        self._images.append({"id": len(self._images) + 1, "file_name": file, "width": width, "height": height})

    def add_record(self, record: Mapping[str, Any]) -> None:
        """The image of a record, and its boxes."""
        self.add_image(record["file"], record["width"], record["height"])
        for box in record.get("boxes", ()):
            self.add_box(box["label"], box["score"], box["box"])

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
        number = len(self._annotations) + 1
        found = {"id": number, "image_id": len(self._images), "category_id": self._ids[name]}
        self._annotations.append({**found, **values})

    def document(self) -> dict[str, Any]:
        categories = [{"id": number, "name": name, "supercategory": "none"} for name, number in self._ids.items()]
        return {"images": self._images, "categories": categories, "annotations": self._annotations}


def run_lengths(region: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed RLE of a region [height, width]: pixels outside, inside, outside, ... down the columns."""
    pixels = region.ravel(order="F")
    borders = np.flatnonzero(np.diff(pixels, prepend=False, append=pixels[-1:] if pixels.size else False))
    return [int(length) for length in np.diff([0, *borders.tolist(), pixels.size])]
