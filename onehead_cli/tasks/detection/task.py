"""Detection: boxes with their classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from onehead_cli.config.sections import Config, EvaluationConfig, ScheduleConfig, SizeUnit
from onehead_cli.data.batch import Target
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.coco import CocoListing
from onehead_cli.data.format import Listing
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split
from onehead_cli.tasks.architecture import STRIDE, Architecture
from onehead_cli.tasks.boxes_from_masks import check_shared, lend_boxes, lender
from onehead_cli.tasks.canvas import Boxes, Canvas
from onehead_cli.tasks.detection.average_precision import DetectionResult, best_f1_thresholds
from onehead_cli.tasks.detection.decode import BOX_CHANNELS, BoxMap, Detections, decode_boxes, read_boxes
from onehead_cli.tasks.detection.loss import Teaching, detection_loss, distil_boxes
from onehead_cli.tasks.detection.priors import SPREAD, kmeans_priors, spread_priors
from onehead_cli.tasks.detection.ranking import BoxRanking, rank_boxes, summarise
from onehead_cli.tasks.detection.split import DetectionSplit, box_sizes, pooled_ground_truth
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.detection.yolov1 import yolov1_loss
from onehead_cli.tasks.labels import Histogram, Label, LabelCounts
from onehead_cli.tasks.task import Choice, Metric, Reader, Setting, Task

if TYPE_CHECKING:
    from PIL import Image

#: A fresh detector believes that 1 % of its boxes hold something, so that empty cells do not drown the first steps.
_PRIOR_CONFIDENCE = 0.01


@dataclass(frozen=True)
class BoxLayout:
    """What the detection map's channels behind the classes are; part of the architecture.

    priors: width and height, in `size_unit`, that each of a cell's boxes starts with; empty for squares spread evenly
        between .12 and .6 of the input, as in 0.1.0.
    size_unit: sizes of boxes are shares of the input, or counted in cells.
    """

    boxes_per_cell: int
    priors: tuple[tuple[float, float], ...] = ()
    size_unit: SizeUnit = "input"

    @classmethod
    def of(cls, of_tasks: Mapping[str, Any]) -> BoxLayout:
        """Raises: KeyError, ValueError or TypeError: it is none."""
        unit = of_tasks.get("size_unit", "input")
        if unit not in get_args(SizeUnit):
            raise ValueError(f"size_unit {unit!r}")
        priors = tuple((float(width), float(height)) for width, height in of_tasks.get("priors", ()))
        return cls(int(of_tasks["boxes_per_cell"]), priors, unit)


@dataclass(frozen=True)
class BoxReading:
    """How boxes are read; see `read_boxes`. The defaults are how 0.1.0 read.

    predict_nms_iou: the NMS where boxes are drawn, and where the scores are chosen from which one is.
    """

    best_class: bool = False
    nms_iou: float = 0.6
    predict_nms_iou: float = 0.4
    vote_iou: float = 1.0

    def changed_by(self, config: EvaluationConfig) -> BoxReading:
        """The same but for the fields that the config sets."""
        given = {entry.name: getattr(config, entry.name) for entry in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Observation:
    """found: the boxes of an image, for each NMS. ranking: of all images of its batch, with the first of them."""

    found: tuple[Detections, ...]
    ranking: BoxRanking | None = None


@dataclass
class DetectionReader(Reader):
    """thresholds: score of a class from which a box is shown; float [C]. score_min: below it no box is read."""

    classes: Sequence[str]
    layout: BoxLayout
    reading: BoxReading
    config: EvaluationConfig
    thresholds: np.ndarray[Any, np.dtype[np.float64]]
    score_min: float

    def observe(
        self, maps: Tensor, split: Split, indices: Sequence[int], *, choosing: bool = False
    ) -> list[Observation]:
        assert isinstance(split, DetectionSplit)
        fits = [split.fit(index) for index in indices]
        decoded = decode_boxes(maps, len(split.classes), self.layout.size_unit)
        ranking = rank_boxes(decoded, split.target(indices), split.image_size) if choosing else None
        nms_ious = self._nms_ious() if choosing else [self.reading.nms_iou]
        read = [self._boxes(decoded, fits, nms_iou, self.config.score_min) for nms_iou in nms_ious]
        observed = [Observation(found) for found in zip(*read, strict=True)]
        observed[0] = replace(observed[0], ranking=ranking)
        return observed

    def result(self, observations: Sequence[Observation], splits: Sequence[Split]) -> DetectionResult:
        return self._results(observations, splits)[0]

    def choose(self, observations: Sequence[Observation], split: Split) -> Choice:
        results = self._results(observations, [split])
        # A box is drawn from the score that is best for boxes read as they are drawn.
        thresholds = best_f1_thresholds(results[-1], shared_below=self.config.shared_below)
        rankings = [observed.ranking for observed in observations if observed.ranking is not None]
        return Choice(results[0], {"boxes": thresholds}, summarise(rankings))

    def predict(self, maps: Tensor, fits: Sequence[Fit]) -> Iterator[FoundBoxes]:
        decoded = decode_boxes(maps, len(self.classes), self.layout.size_unit)
        for found in self._boxes(decoded, fits, self.reading.predict_nms_iou, self.score_min):
            keep = found.scores >= self.thresholds[found.labels]
            yield FoundBoxes(self.classes, Detections(found.boxes[keep], found.scores[keep], found.labels[keep]))

    def _nms_ious(self) -> list[float]:
        return list(dict.fromkeys([self.reading.nms_iou, self.reading.predict_nms_iou]))

    def _results(self, observations: Sequence[Observation], splits: Sequence[Split]) -> list[DetectionResult]:
        """A result for each NMS."""
        sources = [split for split in splits if isinstance(split, DetectionSplit)]
        truth, first = pooled_ground_truth(sources), sources[0]
        count = len(observations[0].found)
        return [
            DetectionResult(truth, [one.found[which] for one in observations], first.category_ids, first.classes)
            for which in range(count)
        ]

    def _boxes(self, decoded: BoxMap, fits: Sequence[Fit], nms_iou: float, score_min: float) -> list[Detections]:
        return read_boxes(
            decoded,
            fits,
            nms_iou=nms_iou,
            score_min=score_min,
            max_detections=self.config.max_detections,
            best_class=self.reading.best_class,
            vote_iou=self.reading.vote_iou,
        )


@dataclass(frozen=True)
class FoundBoxes:
    """boxes: those above the thresholds, best first."""

    classes: Sequence[str]
    boxes: Detections

    def record(self, save: Callable[[str, Image.Image], str | None]) -> dict[str, Any]:
        rows = zip(self.boxes.labels.tolist(), self.boxes.scores.tolist(), self.boxes.boxes.tolist(), strict=True)
        return {
            "boxes": [
                {"label": self.classes[label], "score": round(score, 6), "box": [round(side, 3) for side in box]}
                for label, score, box in rows
            ]
        }

    def paint(self, canvas: Canvas) -> None:
        names = [self.classes[label] for label in self.boxes.labels]
        texts = [f"{name} {score:.2f}" for name, score in zip(names, self.boxes.scores, strict=True)]
        canvas.boxes = Boxes(self.boxes.boxes, names, texts)


class Detection(Task):
    """COCO's average precision of boxes."""

    name = "det"
    title = "Detection"
    metrics = (Metric("map", "mAP"), Metric("map50", "AP50"))
    class_scores: ClassVar[Mapping[str, str]] = {"ap": "AP", "ap50": "AP50"}
    counted = "Boxes"
    section = "detection"
    names_things = True

    def of_config(self, config: Config, listing: Callable[[], Listing] | None) -> dict[str, Any]:
        priors = _priors(config, listing) if listing is not None else ()
        return {
            "boxes_per_cell": config.model.boxes_per_cell,
            "priors": [list(prior) for prior in priors],
            "size_unit": config.detection.size_unit,
        }

    def check(self, of_tasks: Mapping[str, Any]) -> None:
        BoxLayout.of(of_tasks)

    def channels(self, architecture: Architecture) -> int:
        return super().channels(architecture) + BoxLayout.of(architecture.of_tasks).boxes_per_cell * BOX_CHANNELS

    def set_first_bias(self, bias: Tensor, architecture: Architecture) -> None:
        layout = BoxLayout.of(architecture.of_tasks)
        boxes = bias[len(architecture.classes[self.name]) :].view(layout.boxes_per_cell, BOX_CHANNELS)
        boxes.zero_()
        if layout.priors:
            boxes[:, 2:4] = torch.tensor(layout.priors).log()
        else:
            small, large = map(math.log, SPREAD)
            boxes[:, 2:4] = torch.linspace(small, large, layout.boxes_per_cell)[:, None]
        boxes[:, 4] = -math.log(1 / _PRIOR_CONFIDENCE - 1)

    def difference(self, mine: Architecture, other: Architecture) -> str | None:
        here, there = BoxLayout.of(mine.of_tasks), BoxLayout.of(other.of_tasks)
        if here.boxes_per_cell != there.boxes_per_cell:
            return "the boxes, of another number per cell or unit"
        if here.size_unit != there.size_unit:
            return "the boxes, of another number per cell or unit"
        return None

    def load(
        self,
        listing: Listing,
        data: Config,
        *,
        interpolation: str,
        budget: CacheBudget,
        device: torch.device = CPU,
        training: bool = False,
    ) -> DetectionSplit:
        assert isinstance(listing, CocoListing)
        return DetectionSplit(listing, data.data, interpolation, budget, device)

    def borrows(self, schedule: ScheduleConfig) -> tuple[str, ...]:
        return lender() if schedule.boxes_from_masks else ()

    def check_borrowing(self, setting: Setting) -> None:
        check_shared(setting.architecture.classes, setting.config)

    def borrow(self, split: Split, setting: Setting) -> None:
        weight = setting.config.detection.mask_box_weight
        split.further[self.name] = lend_boxes(split, setting.architecture.classes, weight=weight)

    def loss(self, task_map: Tensor, target: Target, image_size: int, setting: Setting) -> Tensor:
        assert isinstance(target, DetectionTarget)
        classes, taught = len(setting.architecture.classes[self.name]), setting.config.detection
        if setting.config.model.detection_loss == "yolov1":
            return yolov1_loss(task_map, target, num_classes=classes, image_size=image_size, size_unit=taught.size_unit)
        return detection_loss(
            task_map,
            target,
            num_classes=classes,
            image_size=image_size,
            teaching=Teaching(
                confidence=taught.confidence,
                confidence_cost=taught.confidence_cost,
                ignore_iou=taught.ignore_iou,
                every_box=taught.every_box,
                smallest=taught.smallest,
                size_unit=taught.size_unit,
            ),
        )

    def distil(self, student_map: Tensor, teacher_map: Tensor, setting: Setting) -> Tensor:
        return distil_boxes(
            student_map,
            teacher_map,
            num_classes=len(setting.architecture.classes[self.name]),
            temperature=setting.config.distill.temperature,
            size_unit=setting.config.detection.size_unit,
            sure=setting.config.distill.box_confidence,
        )

    def teacher_reads(self, config: Config) -> tuple[str, ...]:
        # It learns from the images of segmentation too.
        borrowed = ("segmentation.repeat_factor", "segmentation.copy_paste")
        return borrowed if config.teacher.boxes_from_masks else ()

    def first_reading(self, config: Config) -> dict[str, Any]:
        return vars(BoxReading().changed_by(config.evaluation))

    def changed_reading(self, stored: Mapping[str, Any], config: EvaluationConfig) -> dict[str, Any]:
        known = {entry.name: stored[entry.name] for entry in fields(BoxReading) if entry.name in stored}
        return vars(BoxReading(**known).changed_by(config))

    def first_thresholds(self, config: Config) -> dict[str, Any]:
        return {"boxes": []}

    def reader(
        self,
        architecture: Architecture,
        reading: Mapping[str, Any],
        thresholds: Mapping[str, Any],
        config: EvaluationConfig,
        *,
        score_threshold: float | None = None,
    ) -> DetectionReader:
        classes, floor = architecture.classes[self.name], config.score_min
        own = thresholds["boxes"] or [floor] * len(classes)
        return DetectionReader(
            classes,
            BoxLayout.of(architecture.of_tasks),
            BoxReading(**{entry.name: reading[entry.name] for entry in fields(BoxReading)}),
            config,
            np.array(own if score_threshold is None else [score_threshold] * len(classes)),
            floor if score_threshold is None else min(floor, score_threshold),
        )

    @property
    def histogram(self) -> Histogram:
        return Histogram(("boxes", "pictures that show it"), nothing="crowd regions")

    def counts_document(self, counts: LabelCounts) -> dict[str, Any]:
        return {
            "crowd": {"pictures": counts.images(None), "regions": counts.amounts[None]},
            "box_sizes": {size: counts.further[size] for size in ("small", "medium", "large")},
            "pictures_without_boxes": sum(not labels - {None} for labels in counts.shown),
        }

    counts_title = "boxes, pictures that show the class"

    def counts_cell(self, found: Mapping[str, int], split: Mapping[str, Any]) -> str:
        return f"{found['boxes']} in {found['pictures']}"

    def counts_rows(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        return {
            "(crowd regions)": lambda split: f"{split['crowd']['regions']} in {split['crowd']['pictures']}",
            "(small, medium, large)": lambda split: " ".join(map(str, split["box_sizes"].values())),
            "(pictures without boxes)": lambda split: str(split["pictures_without_boxes"]),
        }

    def show_label(self, split: Split, index: int) -> Label:
        assert isinstance(split, DetectionSplit)
        names = dict(zip(split.category_ids, split.classes, strict=True))
        boxes = []
        for annotation in split.listing.by_image[split.listing.entries[index]["id"]]:
            x, y, width, height = annotation["bbox"]
            name = names[annotation["category_id"]]
            boxes.append(((x, y, x + width, y + height), name, bool(annotation["iscrowd"])))
        return Label(boxes=boxes)

    def colour_names(self, classes: Sequence[str]) -> Sequence[str]:
        return classes


DETECTION = Detection()


def _priors(config: Config, listing: Callable[[], Listing]) -> tuple[tuple[float, float], ...]:
    """The sizes that boxes start with, in `detection.size_unit`, the same for teachers and student."""
    taught, count = config.detection, config.model.boxes_per_cell
    if (taught.priors, taught.size_unit) == ("spread", "input"):
        return ()
    if taught.priors == "kmeans":
        found = listing()
        assert isinstance(found, CocoListing)
        priors = kmeans_priors(box_sizes(found, config.data), count)
    else:
        priors = spread_priors(count)
    cells = config.data.image_size / STRIDE if taught.size_unit == "cells" else 1.0
    return tuple((width * cells, height * cells) for width, height in priors)
