"""Detection: the pictures and boxes of a COCO JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.checks import wrong_picture_size
from onehead_cli.data.geometry import Fit
from onehead_cli.data.listing import CocoImages
from onehead_cli.data.split import TaskData
from onehead_cli.errors import DataError
from onehead_cli.types import DetectionTarget, Task


class DetectionData(TaskData):
    """ground_truth: the JSON's images, annotations and categories, cleaned.

    category_ids: the category of each label. Boxes without an area and those of unknown categories are dropped, boxes
    that leave the picture are clipped; `warnings` says how many.
    """

    task = Task.DET

    def __init__(
        self,
        found: CocoImages,
        data: DataConfig,
        interpolation: str,
        budget: CacheBudget,
        device: torch.device = CPU,
    ) -> None:
        """Raises: DataError: a picture lies outside its folder."""
        if found.outside:
            raise DataError(f"{min(found.outside)}: file_name leaves the folder of the pictures")
        self.category_ids = [int(c["id"]) for c in found.categories]
        self.ground_truth: dict[str, Any] = {
            "images": found.images,
            "annotations": found.annotations,
            "categories": found.categories,
        }
        by_image = defaultdict(list)
        for annotation in found.annotations:
            by_image[annotation["image_id"]].append(annotation)
        self._by_image = [by_image[image["id"]] for image in found.images]
        super().__init__(found.pictures, found.classes, data, interpolation, budget, device)
        self.warnings = found.warnings

    def boxes(self, indices: Sequence[int]) -> DetectionTarget:
        """The true boxes of the images, in pixels of the input."""
        pictures = []
        for index in indices:
            self._check_size(index)
            found = self._by_image[index]
            xywh = np.array([a["bbox"] for a in found], dtype=np.float64).reshape(-1, 4)
            corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            labels = np.array([self.category_ids.index(a["category_id"]) for a in found], dtype=np.int64)
            crowd = np.array([bool(a["iscrowd"]) for a in found], dtype=np.bool_)
            pictures.append((self.fit(index).to_input(corners), labels, crowd))
        return detection_target(pictures)

    _targets = boxes

    def _check_size(self, index: int) -> None:
        fit, image = self.fit(index), self.ground_truth["images"][index]
        if problem := wrong_picture_size((fit.width, fit.height), (image["width"], image["height"])):
            raise DataError(f"{self.paths[index]}: {problem}")


def box_sizes(found: CocoImages, data: DataConfig) -> NDArray[np.float64]:
    """Width and height of all true boxes, crowds left out, in shares of the fitted input; float64 [n, 2]."""
    fits = {image["id"]: Fit.of(image["width"], image["height"], data.image_size, data.fit) for image in found.images}
    boxes = [a for a in found.annotations if not a["iscrowd"]]
    sizes = [(a["bbox"][2] * fits[a["image_id"]].scale_x, a["bbox"][3] * fits[a["image_id"]].scale_y) for a in boxes]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2) / data.image_size


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


def detection_target(
    pictures: Sequence[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]],
) -> DetectionTarget:
    """Boxes, labels and crowd flags of several pictures, padded to the largest count."""
    most = max([len(labels) for _, labels, _ in pictures] + [1])
    target = DetectionTarget(
        boxes=torch.zeros(len(pictures), most, 4),
        labels=torch.full((len(pictures), most), -1),
        crowd=torch.zeros(len(pictures), most, dtype=torch.bool),
    )
    for row, (boxes, labels, crowd) in enumerate(pictures):
        target.boxes[row, : len(boxes)] = torch.from_numpy(boxes).float()
        target.labels[row, : len(labels)] = torch.from_numpy(labels)
        target.crowd[row, : len(crowd)] = torch.from_numpy(crowd)
    return target
