"""Images with boxes, as trainings and evaluations read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.checks import wrong_image_size
from onehead_cli.data.coco import CocoListing
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split
from onehead_cli.errors import DataError
from onehead_cli.tasks.detection.target import DetectionTarget


class DetectionSplit(Split):
    """listing: with the cleaned annotations."""

    task = "det"

    def __init__(self, listing: CocoListing, *args: Any, **options: Any) -> None:
        """Raises: DataError: an image lies outside its folder."""
        if listing.outside:
            raise DataError(f"{min(listing.outside)}: file_name points outside the image folder")
        super().__init__(listing, *args, **options)
        self.listing = listing

    def images(self, indices: Sequence[int]) -> Tensor:
        images = super().images(indices)
        for index in indices:
            self._check_size(index)
        return images

    def target(self, indices: Sequence[int]) -> DetectionTarget:
        """The true boxes of the images, in pixels of the input."""
        images = []
        for index in indices:
            self._check_size(index)
            found = self.listing.by_image[self.listing.entries[index]["id"]]
            xywh = np.array([a["bbox"] for a in found], dtype=np.float64).reshape(-1, 4)
            corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            labels = np.array([self.listing.labels[a["category_id"]] for a in found], dtype=np.int64)
            crowd = np.array([bool(a["iscrowd"]) for a in found], dtype=np.bool_)
            images.append((self.fit(index).to_input(corners), labels, crowd))
        return DetectionTarget.padded(images)

    def _check_size(self, index: int) -> None:
        fit, entry = self.fit(index), self.listing.entries[index]
        if problem := wrong_image_size((fit.width, fit.height), (entry["width"], entry["height"])):
            raise DataError(f"{self.paths[index]}: {problem}")


def box_sizes(listing: CocoListing, data: DataConfig) -> NDArray[np.float64]:
    """Width and height of all true boxes, crowds left out, in shares of the fitted input; float64 [n, 2]."""
    boxes = [a for a in listing.annotations if not a["iscrowd"]]
    with_boxes = {a["image_id"] for a in boxes}  # another image may be missing, and its size with it
    fits = {
        e["id"]: Fit.of(e["width"], e["height"], data.image_size, data.fit)
        for e in listing.entries
        if e["id"] in with_boxes
    }
    sizes = [(a["bbox"][2] * fits[a["image_id"]].scale_x, a["bbox"][3] * fits[a["image_id"]].scale_y) for a in boxes]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2) / data.image_size


def pooled_ground_truth(splits: Sequence[DetectionSplit]) -> dict[str, Any]:
    """The cleaned annotations of several splits as one, numbered anew: different files may have the same ids for other
    images and other ids for the same classes. A category's id is the class index."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for split in splits:
        number = {entry["id"]: len(images) + place for place, entry in enumerate(split.listing.entries, 1)}
        images += [{**entry, "id": number[entry["id"]]} for entry in split.listing.entries]
        for annotation in split.listing.annotations:
            new = {
                "id": len(annotations) + 1,
                "image_id": number[annotation["image_id"]],
                "category_id": split.listing.labels[annotation["category_id"]],
            }
            annotations.append({**annotation, **new})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label} for label in range(len(splits[0].classes))],
    }
