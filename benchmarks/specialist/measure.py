"""The scores of a specialist, by the same metrics as for our networks."""

from __future__ import annotations

import numpy as np
import torch

from onehead_cli.config.sections import Config
from onehead_cli.data.batch import images_to_float
from onehead_cli.data.split import Split
from onehead_cli.runtime.compute import autocast
from onehead_cli.tasks.classification.scores import ClassificationResult
from onehead_cli.tasks.classification.split import ClassificationSplit
from onehead_cli.tasks.detection.average_precision import DetectionResult
from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.tasks.detection.split import DetectionSplit, pooled_ground_truth
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.segmentation.reading import read_mask
from onehead_cli.tasks.segmentation.scores import SegmentationResult, confusion_matrix
from onehead_cli.tasks.segmentation.split import SegmentationSplit
from specialist.networks import Specialist, maps_of


@torch.inference_mode()
def measure(
    model: Specialist, task: str, splits: list[Split], config: Config, device: torch.device, precision: torch.dtype
) -> Result:
    """The result over the pooled splits, by the same metrics as for our networks."""
    logits, matrices, detections = [], [], []
    size = config.evaluation.batch_size
    for split in splits:
        for start in range(0, len(split), size):
            indices = range(start, min(start + size, len(split)))
            images = images_to_float(split.batch(indices).images, device)
            with autocast(device, precision):
                features = model.features(images)
            if task == "det":
                for index, found in zip(indices, model.head.with_features(features)(list(images)), strict=True):
                    boxes = split.fit(index).to_image(found["boxes"].cpu().double().numpy())
                    scores, labels = found["scores"].cpu().double().numpy(), found["labels"].cpu().numpy() - 1
                    best = np.argsort(-scores, kind="stable")[: config.evaluation.max_detections]
                    detections.append(Detections(boxes[best], scores[best], labels[best]))
                continue
            maps = maps_of(model, features, task)
            if task == "cls":
                logits.append(maps.cpu())
                continue
            assert isinstance(split, SegmentationSplit)
            for index, image in zip(indices, maps, strict=True):
                matrices.append(
                    confusion_matrix(read_mask(image, split.fit(index)), split.mask(index), len(split.classes))
                )
    first = splits[0]
    if task == "cls":
        labels = np.array(
            [label for split in splits if isinstance(split, ClassificationSplit) for label in split.labels]
        )
        return ClassificationResult(torch.cat(logits).numpy(), labels, first.classes)
    if task == "seg":
        return SegmentationResult(np.stack(matrices), first.classes)
    boxed = [split for split in splits if isinstance(split, DetectionSplit)]
    return DetectionResult(pooled_ground_truth(boxed), detections, range(len(first.classes)), first.classes)
