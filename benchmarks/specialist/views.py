"""How a specialist sees its training images: as its paper does, by torchvision's transforms.

Each view is cut from the image at its own size, or at twice the input's, and then becomes S x S, so that zooming in
stays sharp. SSDLite: zoom-out, IoU crop, mirror, colour (SSD, arXiv 1512.02325; torchvision's preset "ssd"). LR-ASPP:
scale jitter of .5 to 2 and a crop (MobileNetV3, arXiv 1905.02244), of images that are stretched to squares as val and
test are. The classifier: random resized crop and mirror.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from report.measure import true_boxes
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.data.batch import Batch, Target, TaskBatch, images_to_float
from onehead_cli.data.images import open_image
from onehead_cli.data.loader import TrainLoader
from onehead_cli.data.split import Split
from onehead_cli.tasks.classification.split import ClassificationSplit, ClassLabels
from onehead_cli.tasks.detection.split import DetectionSplit
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.segmentation.split import Masks, SegmentationSplit

#: What `specialists.py` writes down of the views.
VIEWS = {
    "cls": "random resized crop, mirror",
    "seg": "scale jitter .5 to 2, crop, mirror",
    "det": "zoom-out, IoU crop, mirror, photometric distortion",
}


def transform_of(task: str, size: int, fill: list[float]) -> v2.Transform:
    """What makes an S x S view of a sample (image, target).

    Args: size: S in pixels. fill: colour outside the image, red, green and blue in 0..255.
    """
    if task == "cls":
        return v2.Compose([v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    if task == "seg":
        outside: Any = {tv_tensors.Image: fill, tv_tensors.Mask: IGNORE_INDEX}
        jitter = v2.ScaleJitter((size, size), scale_range=(0.5, 2.0), antialias=True)
        crop = v2.RandomCrop(size, pad_if_needed=True, fill=outside)
        twice = v2.Resize((2 * size, 2 * size), antialias=True)
        return v2.Compose([twice, jitter, crop, v2.RandomHorizontalFlip()])
    square = v2.Resize((size, size), antialias=True)
    steps = [v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), square]
    # Colour last: at the input's size it costs a quarter.
    return v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=1), v2.RandomPhotometricDistort()])


class ViewLoader(TrainLoader):
    """Mini-batches of one task in its paper's views; what comes when depends on the seed and the position alone."""

    def __init__(self, split: Split, **settings: Any) -> None:
        """Args: settings: those of `TrainLoader`."""
        super().__init__({split.task: split}, **settings)
        self.split = split
        self._truth = true_boxes(split) if isinstance(split, DetectionSplit) else []
        self._transform = transform_of(split.task, split.image_size, (self.fill.flatten() * 255).tolist())
        self._kept: dict[int, tuple[Tensor, Any]] = {}

    def minibatch(self, position: int) -> Batch:
        task = self.split.task
        indices = self._indices(task, len(self.split), position)
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms draw from torch's own generator
            torch.manual_seed(self._generator(task, "view", position).initial_seed())
            views = [self._transform(*self._sample(index)) for index in indices]
        images = images_to_float(torch.stack([image.as_subclass(Tensor) for image, _ in views]), self.device)
        names = [self.split.paths[index].name for index in indices]
        return {task: TaskBatch(images, self._targets([target for _, target in views]), names)}

    def _sample(self, index: int) -> tuple[Any, Any]:
        """An image at its own size, uint8 [3, height, width], and its target as torchvision takes it."""
        if index not in self._kept:
            pixels = np.array(open_image(self.split.paths[index]))
            sample = torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), self._target(index, pixels.shape[:2])
            if not self.split.budget.take(sample[0].nbytes):
                return tv_tensors.Image(sample[0]), sample[1]
            self._kept[index] = sample
        image, target = self._kept[index]
        return tv_tensors.Image(image), target

    def _target(self, index: int, canvas: tuple[int, ...]) -> Any:
        if isinstance(self.split, ClassificationSplit):
            return self.split.labels[index]
        if isinstance(self.split, SegmentationSplit):
            return tv_tensors.Mask(torch.tensor(self.split.mask(index)))
        # torchvision knows no regions to ignore: they are left out, and what is found there counts as wrong.
        truth = self._truth[index]
        boxes, labels = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
        boxed: Any = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=canvas)  # type: ignore[call-overload]
        return {"boxes": boxed, "labels": torch.from_numpy(labels)}

    def _targets(self, targets: list[Any]) -> Target:
        if self.split.task == "cls":
            return ClassLabels(torch.tensor(targets, device=self.device))
        if self.split.task == "seg":
            return Masks(torch.stack([mask.as_subclass(Tensor) for mask in targets]).long().to(self.device))
        rows = [(found["boxes"].numpy(), found["labels"].numpy()) for found in targets]
        padded = [(boxes, labels, np.zeros(len(labels), dtype=np.bool_)) for boxes, labels in rows]
        return DetectionTarget.padded(padded).to(self.device)
