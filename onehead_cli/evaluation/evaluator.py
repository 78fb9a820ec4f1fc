"""Run a network over the pictures of a task and measure what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.augment import to_float
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import TaskData
from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.compute import autocast
from onehead_cli.runtime.launch import rank, world_size
from onehead_cli.runtime.processes import merge
from onehead_cli.tasks.classification import ClassificationData, ClassificationResult, pool_classes
from onehead_cli.tasks.detection.average_precision import DetectionResult
from onehead_cli.tasks.detection.data import DetectionData, pooled_ground_truth
from onehead_cli.tasks.detection.decode import BoxMap, Detections, decode_boxes, read_boxes
from onehead_cli.tasks.detection.ranking import BoxRanking, rank_boxes
from onehead_cli.tasks.reading import Reading
from onehead_cli.tasks.segmentation.data import SegmentationData
from onehead_cli.tasks.segmentation.reading import read_mask
from onehead_cli.tasks.segmentation.scores import SegmentationResult, confusion_matrix
from onehead_cli.types import Task

TaskResult = ClassificationResult | SegmentationResult | DetectionResult

#: The thresholds that are tried on val for leaving out unsure cells.
_CELL_THRESHOLDS = [i / 20 for i in range(20)]

#: Soft pooling has none above: bf16 would move the answer more than it does without a threshold.
_HIGHEST_SOFT = 0.3


@dataclass(frozen=True)
class Evaluator:
    """Measures networks on the pooled splits of a task.

    config: how many images are read at once, and how many boxes are kept.
    reading: how the maps are read.
    precision: of the forward pass.
    advance: called with the number of pictures of each finished batch, also of those that other processes do.

    Of several processes, each does every n-th batch, and all get the results of all: a batch is the same as in one
    process, and so is every bit of its result.
    """

    config: EvaluationConfig
    reading: Reading
    device: torch.device
    precision: torch.dtype
    advance: Callable[[int], None] = lambda count: None

    def measure(self, model: OneHead, task: Task, splits: Sequence[TaskData], *, cell_threshold: float) -> TaskResult:
        """The result of a task over all pictures of the splits.

        Args:
            model: in eval mode, on `device`.
            splits: datasets of this task, pooled.
            cell_threshold: for classification; see `decode.pool_classes`.

        Raises:
            DataError: a picture or label cannot be read.
        """
        if task is Task.CLS:
            maps, labels = self.class_maps(model, splits)
            return self.classified(maps, labels, cell_threshold, splits[0].classes)
        if task is Task.SEG:
            return self._segmented(model, splits)
        [result] = self.detected(model, splits, [self.reading.nms_iou])
        return result

    def classified(
        self, maps: Tensor, labels: list[int], threshold: float, classes: Sequence[str]
    ) -> ClassificationResult:
        """What the class maps, float [n, C, h, w], say when they are pooled with `threshold`."""
        logits = pool_classes(maps, threshold, pooling=self.reading.pooling)
        return ClassificationResult(logits.numpy(), np.array(labels), classes)

    def best_cell_threshold(self, maps: Tensor, labels: list[int]) -> float:
        """The threshold whose pooling gives the best top-1, and among equals the lowest cross-entropy, then the lowest.

        Args: maps: class maps of val, float [n, C, h, w].
        """
        truth = torch.tensor(labels)

        def merit(threshold: float) -> tuple[float, float, float]:
            logits = pool_classes(maps, threshold, pooling=self.reading.pooling)
            top1 = float((logits.argmax(1) == truth).float().mean())
            return top1, -float(nn.functional.cross_entropy(logits, truth)), -threshold

        highest = _HIGHEST_SOFT if self.reading.pooling == "soft" else 1.0
        return max((threshold for threshold in _CELL_THRESHOLDS if threshold <= highest), key=merit)

    def class_maps(self, model: OneHead, splits: Sequence[TaskData]) -> tuple[Tensor, list[int]]:
        """The class maps of all pictures, float [n, C, h, w], and their labels."""
        maps, labels = [], []
        for split in splits:
            assert isinstance(split, ClassificationData)
            maps += merge((start, part.cpu()) for start, part in self._maps(model, split))
            labels += split.labels
        return torch.cat(maps), labels

    def _segmented(self, model: OneHead, splits: Sequence[TaskData]) -> SegmentationResult:
        matrices = []
        for split in splits:
            assert isinstance(split, SegmentationData)
            mine: list[tuple[int, NDArray[np.int64]]] = []
            for start, maps in self._maps(model, split):
                for index, picture in enumerate(maps, start):
                    predicted = read_mask(picture, split.fit(index))
                    mine.append((index, confusion_matrix(predicted, split.mask(index), len(split.classes))))
            matrices += merge(mine)
        return SegmentationResult(np.stack(matrices), splits[0].classes)

    def detected(
        self,
        model: OneHead,
        splits: Sequence[TaskData],
        nms_ious: Sequence[float],
        *,
        rankings: list[BoxRanking] | None = None,
    ) -> list[DetectionResult]:
        """The result of detection over all images of the splits for each of several NMS, from one pass.

        Args: rankings: where how each batch's boxes are ranked is added.
        """
        found: list[tuple[Detections, ...]] = []  # per image, one for each NMS
        sources = []
        for split in splits:
            assert isinstance(split, DetectionData)
            sources.append(split)
            mine: list[tuple[int, tuple[Detections, ...]]] = []
            ranked: list[tuple[int, BoxRanking]] = []
            for start, maps in self._maps(model, split):
                indices = range(start, start + len(maps))
                fits = [split.fit(index) for index in indices]
                decoded = decode_boxes(maps, len(split.classes), model.size_unit)
                if rankings is not None:
                    ranked.append((start, rank_boxes(decoded, split.boxes(indices), split.image_size)))
                read = [self._boxes(decoded, fits, nms_iou) for nms_iou in nms_ious]
                mine += zip(indices, zip(*read, strict=True), strict=True)
            found += merge(mine)
            if rankings is not None:
                rankings += merge(ranked)
        truth, first = pooled_ground_truth(sources), sources[0]
        return [
            DetectionResult(truth, [image[which] for image in found], first.category_ids, first.classes)
            for which in range(len(nms_ious))
        ]

    def _boxes(self, decoded: BoxMap, fits: Sequence[Fit], nms_iou: float) -> list[Detections]:
        return read_boxes(
            decoded,
            fits,
            nms_iou=nms_iou,
            score_min=self.config.score_min,
            max_detections=self.config.max_detections,
            best_class=self.reading.best_class,
            vote_iou=self.reading.vote_iou,
        )

    def _maps(self, model: OneHead, split: TaskData) -> Iterator[tuple[int, Tensor]]:
        """(index of the first picture, maps of the split's task, float [B, C, h, w]) a batch of this process."""
        for number, start in enumerate(range(0, len(split), self.config.batch_size)):
            indices = range(start, min(start + self.config.batch_size, len(split)))
            if number % world_size() == rank():
                images = to_float(split.batch(indices), self.device).images
                with torch.inference_mode(), autocast(self.device, self.precision):
                    maps = model(images)[split.task]
                yield start, maps.float()
            self.advance(len(indices))
