"""Classification: the class of a whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from onehead_cli.config.sections import Config, EvaluationConfig
from onehead_cli.data.batch import Target
from onehead_cli.data.class_folders import ClassFoldersListing
from onehead_cli.data.format import Listing
from onehead_cli.data.split import Loading, Split
from onehead_cli.tasks.classification.exported import ClassReading, ProbabilityReader
from onehead_cli.tasks.classification.loss import classification_loss, distil_classes
from onehead_cli.tasks.classification.reader import ClassificationReader
from onehead_cli.tasks.classification.scores import NAME, ClassificationResult
from onehead_cli.tasks.classification.split import ClassificationSplit, ClassLabels
from onehead_cli.tasks.figures import CALIBRATION_ERROR, Figure, Lines, reliability, shares_of_rows
from onehead_cli.tasks.labels import Label
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.task import Metric, Reading, Setting, Task


class Classification(Task):
    """Top-1 of the class folders."""

    name = NAME
    title = "Classification"
    metrics = (Metric("top1", "Top-1"), Metric("top5", "Top-5"))
    class_scores: ClassVar[Mapping[str, str]] = {"top1": "Top-1", "precision": "Precision"}
    counted = "Images"
    names_images = True

    def load(self, listing: Listing, config: Config, loading: Loading) -> ClassificationSplit:
        assert isinstance(listing, ClassFoldersListing)
        return ClassificationSplit(listing, config.data, loading)

    def loss(self, task_map: Tensor, target: Target, image_size: int, setting: Setting) -> Tensor:
        assert isinstance(target, ClassLabels)
        return classification_loss(
            task_map,
            target.labels,
            cell_threshold=setting.config.model.cell_threshold,
            pooling=setting.config.model.pooling,
            label_smoothing=setting.schedule.label_smoothing,
        )

    def distil(self, student_map: Tensor, teacher_map: Tensor, setting: Setting) -> Tensor:
        return distil_classes(
            student_map,
            teacher_map,
            cell_threshold=setting.config.model.cell_threshold,
            temperature=setting.config.distill.temperature,
            pooling=setting.config.model.pooling,
        )

    def teacher_reads(self, config: Config) -> tuple[str, ...]:
        # The backbone's ImageNet classifier is one more teacher.
        return ("distill.lambda", "distill.temperature") if config.teacher.imagenet_teacher else ()

    def first_reading(self, config: Config) -> dict[str, Any]:
        return {"pooling": config.model.pooling}

    def changed_reading(self, stored: Mapping[str, Any], config: EvaluationConfig) -> dict[str, Any]:
        return {"pooling": stored.get("pooling", "gate")}

    def first_thresholds(self, config: Config) -> dict[str, Any]:
        return {"cells": config.model.cell_threshold}

    def reader(self, reading: Reading) -> ClassificationReader:
        classes = reading.architecture.classes[self.name]
        return ClassificationReader(classes, reading.thresholds["cells"], reading.values["pooling"])

    def exported(self, reading: Reading) -> ClassReading:
        classes = reading.architecture.classes[self.name]
        return ClassReading(len(classes), reading.thresholds["cells"], reading.values["pooling"])

    def exported_reader(self, reading: Reading, fixed: Mapping[str, Any]) -> ProbabilityReader:
        return ProbabilityReader(reading.architecture.classes[self.name])

    def figures(self, result: Result, thresholds: Mapping[str, Any]) -> list[Figure]:
        assert isinstance(result, ClassificationResult)
        points, error = reliability(result.probabilities.max(axis=1), result.predicted == result.labels)
        return [
            shares_of_rows(
                result.confusion,
                result.class_names,
                title="Confusion",
                note="Share of the images of each true class (row) that got each predicted class (column).",
            ),
            Lines(
                "Reliability",
                "How often the predicted class is right, by its probability.",
                "probability",
                "right",
                {"images": points},
                diagonal=True,
                summary={CALIBRATION_ERROR: error},
            ),
        ]

    record_column = "Class"

    def record_cell(self, record: Mapping[str, Any]) -> str:
        return f"{record['class']['title']} {record['class']['probability']:.0%}" if "class" in record else ""

    def show_label(self, split: Split, index: int) -> Label:
        assert isinstance(split, ClassificationSplit)
        return Label(text=split.classes[split.labels[index]])


CLASSIFICATION = Classification()
