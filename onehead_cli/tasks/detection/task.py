"""Detection: boxes with their classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from onehead_cli.config.sections import Config, EvaluationConfig
from onehead_cli.config.training import ScheduleConfig
from onehead_cli.data.batch import Target
from onehead_cli.data.coco import CocoListing
from onehead_cli.data.format import Listing
from onehead_cli.data.split import Loading, Split
from onehead_cli.tasks.architecture import STRIDE, Architecture
from onehead_cli.tasks.boxes_from_masks import check_shared, lend_boxes, lender
from onehead_cli.tasks.detection.average_precision import DetectionResult
from onehead_cli.tasks.detection.decode import BOX_CHANNELS
from onehead_cli.tasks.detection.errors import KINDS
from onehead_cli.tasks.detection.exported import BoxesReading, ExportedBoxes, check_fixed
from onehead_cli.tasks.detection.loss import Teaching, detection_loss, distil_boxes
from onehead_cli.tasks.detection.priors import SPREAD, kmeans_priors, spread_priors
from onehead_cli.tasks.detection.reader import FIRST_READING, BoxLayout, BoxReading, DetectionReader
from onehead_cli.tasks.detection.split import DetectionSplit, box_sizes
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.detection.yolov1 import yolov1_loss
from onehead_cli.tasks.figures import CALIBRATION_ERROR, Bars, Figure, Lines, reliability
from onehead_cli.tasks.labels import Histogram, Label, LabelCounts
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.task import Metric, Reading, Setting, Task
from onehead_cli.wording import readable

#: A fresh detector believes that 1 % of its boxes hold something, so that empty cells do not drown the first steps.
_PRIOR_CONFIDENCE = 0.01


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
            return f"{there.boxes_per_cell} boxes per cell, not {here.boxes_per_cell} (model.boxes_per_cell)"
        if here.size_unit != there.size_unit:
            return f"sizes of boxes in units of {there.size_unit}, not of {here.size_unit} (detection.size_unit)"
        return None

    def load(self, listing: Listing, config: Config, loading: Loading) -> DetectionSplit:
        assert isinstance(listing, CocoListing)
        return DetectionSplit(listing, config.data, loading)

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
        return vars(FIRST_READING.changed_by(config.evaluation))

    def changed_reading(self, stored: Mapping[str, Any], config: EvaluationConfig) -> dict[str, Any]:
        known = {entry.name: stored[entry.name] for entry in fields(BoxReading) if entry.name in stored}
        return vars(BoxReading(**known).changed_by(config))

    def first_thresholds(self, config: Config) -> dict[str, Any]:
        return {"boxes": []}

    def reader(self, reading: Reading) -> DetectionReader:
        classes, floor = reading.architecture.classes[self.name], reading.config.score_min
        asked, own = reading.score_threshold, reading.thresholds["boxes"] or [floor] * len(classes)
        return DetectionReader(
            classes,
            BoxLayout.of(reading.architecture.of_tasks),
            BoxReading(**reading.values),
            reading.config,
            np.array(own if asked is None else [asked] * len(classes)),
            floor if asked is None else min(floor, asked),
        )

    def exported(self, reading: Reading) -> BoxesReading:
        classes, layout = reading.architecture.classes[self.name], BoxLayout.of(reading.architecture.of_tasks)
        return BoxesReading(len(classes), layout.size_unit, BoxReading(**reading.values), reading.config)

    def fixed_reading(self, reading: Reading) -> dict[str, Any]:
        limits = {"score_min": reading.config.score_min, "max_detections": reading.config.max_detections}
        return {**reading.values, **limits}

    def exported_reader(self, reading: Reading, fixed: Mapping[str, Any]) -> ExportedBoxes:
        reader = self.reader(reading)
        check_fixed(reader, fixed, reading.score_threshold)
        return ExportedBoxes(**vars(reader))

    @property
    def histogram(self) -> Histogram:
        return Histogram(("boxes", "images that show it"), nothing="crowd regions")

    def counts_document(self, counts: LabelCounts) -> dict[str, Any]:
        return {
            "crowd": {"pictures": counts.images(None), "regions": counts.amounts[None]},
            "box_sizes": {size: counts.further[size] for size in ("small", "medium", "large")},
            "pictures_without_boxes": sum(not labels - {None} for labels in counts.shown),
        }

    def figures(self, result: Result, thresholds: Mapping[str, Any]) -> list[Figure]:
        assert isinstance(result, DetectionResult)
        precision = result.precision[0, ::10, ~np.isnan(result.precision[0, 0])]  # [classes with a true box, 11]
        curve = precision.mean(axis=0).tolist() if precision.size else []
        points, error = reliability(*result.by_score())
        found: list[Figure] = [
            Lines(
                "Precision and recall",
                "At IoU .50, the mean over the classes with a true box; a CSV beside this report has each class.",
                "recall",
                "precision",
                {"boxes": list(zip(result.recall_steps[::10].tolist(), curve, strict=False))},
            ),
            Lines(
                "Reliability",
                "How often a box is right (class, and IoU of .50 or more), by its score. The lowest score that is "
                "drawn was chosen on val, and is stored in the checkpoint.",
                "score",
                "right",
                {"boxes": points},
                diagonal=True,
                summary={CALIBRATION_ERROR: error, **_stored(thresholds["boxes"], result.class_names)},
            ),
        ]
        errors = result.errors
        if errors is None:  # of an exported file, which reads boxes as evaluation does
            return found
        kinds = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
        by_size: dict[str, float | None] = {"precision": errors.precision, "recall": errors.recall}
        by_size |= {f"recall, {size}": share for size, share in errors.recall_by_size().items()}
        return [
            *found,
            Bars(
                "Errors of the drawn boxes",
                f"As in TIDE (arXiv 2008.08115), at IoU .50. {kinds}.",
                "boxes",
                {kind: float(errors.kinds[kind]) for kind in KINDS},
            ),
            Bars(
                "How many drawn boxes are right, and how many true ones are found",
                "At IoU .50; sizes are areas in pixels of the image.",
                "share",
                by_size,
            ),
        ]

    record_column = "Boxes"

    def record_cell(self, record: Mapping[str, Any]) -> str:
        """How many boxes of each class."""
        boxes = Counter(box["label"] for box in record.get("boxes", ()))
        return ", ".join(f"{count} {label}" for label, count in boxes.most_common())

    counts_title = "boxes, images that show the class"

    def counts_cell(self, found: Mapping[str, int], split: Mapping[str, Any]) -> str:
        return f"{found['boxes']} in {found['pictures']}"

    def counts_rows(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        return {
            "(crowd regions)": lambda split: f"{split['crowd']['regions']} in {split['crowd']['pictures']}",
            "(small, medium, large)": lambda split: " ".join(map(str, split["box_sizes"].values())),
            "(images without boxes)": lambda split: str(split["pictures_without_boxes"]),
        }

    def show_label(self, split: Split, index: int) -> Label:
        assert isinstance(split, DetectionSplit)
        boxes = []
        for annotation in split.listing.by_image[split.listing.entries[index]["id"]]:
            x, y, width, height = annotation["bbox"]
            name = split.classes[split.listing.labels[annotation["category_id"]]]
            boxes.append(((x, y, x + width, y + height), name, bool(annotation["iscrowd"])))
        return Label(boxes=boxes)

    def colour_names(self, classes: Sequence[str]) -> Sequence[str]:
        return classes


def _stored(thresholds: Sequence[float], classes: Sequence[str]) -> dict[str, float | None]:
    """The score that a box is drawn from by class; where all are the same, once."""
    if len(set(thresholds)) == 1:
        return {"drawn from a score of": float(thresholds[0])}
    return {f"{readable(name)} drawn from": float(one) for name, one in zip(classes, thresholds, strict=False)}


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
