"""What val decides: the checkpoint that is kept and the thresholds that are stored with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from onehead_cli.checkpoint import Thresholds
from onehead_cli.datasets.base import TaskData
from onehead_cli.evaluation.detection import DetectionResult, best_f1_thresholds
from onehead_cli.evaluation.evaluate import Evaluator, best_cell_threshold, classification_result
from onehead_cli.model.onehead import OneHead
from onehead_cli.types import MAIN_METRIC, Task


@dataclass(frozen=True)
class Validation:
    """scores: by metric. criterion: the larger the better. thresholds: the best for these weights."""

    scores: dict[str, float | None]
    criterion: float
    thresholds: Thresholds


def validate(
    model: OneHead,
    splits: Mapping[Task, TaskData],
    evaluator: Evaluator,
    *,
    cell_threshold: float,
    teacher_scores: Mapping[Task, float] | None = None,
) -> Validation:
    """Measure a network on val and choose its thresholds.

    The criterion is the smallest, over the tasks, of score minus the teacher's score; without a teacher for
    each of them, the mean score.

    Args:
        splits: val of each task.
        cell_threshold: kept where there is no classification to choose it on.
        teacher_scores: main metric of each teacher on val.
    """
    scores: dict[str, float | None] = {}
    thresholds = Thresholds(cells=cell_threshold, boxes=[])
    for task, split in splits.items():
        if task is Task.CLS:
            maps, labels = evaluator.class_maps(model, [split])
            thresholds.cells = best_cell_threshold(maps, labels)
            scores |= classification_result(maps, labels, thresholds.cells, split.classes).scores()
            continue
        result = evaluator.measure(model, task, [split], cell_threshold=thresholds.cells)
        scores |= result.scores()
        if task is Task.DET:
            thresholds.boxes = _drawing_thresholds(model, split, evaluator)
    main = {task: scores[MAIN_METRIC[task]] or 0.0 for task in splits}
    if teacher_scores and all(task in teacher_scores for task in splits):
        criterion = min(main[task] - teacher_scores[task] for task in splits)
    else:
        criterion = sum(main.values()) / len(main)
    return Validation(scores, criterion, thresholds)


def _drawing_thresholds(model: OneHead, split: TaskData, evaluator: Evaluator) -> list[float]:
    """The score of each class from which `predict` shows a box, chosen on boxes read as `predict` reads them."""
    config = evaluator.config.model_copy(update={"nms_iou": evaluator.config.predict_nms_iou})
    result = dataclasses.replace(evaluator, config=config).measure(model, Task.DET, [split], cell_threshold=0.0)
    assert isinstance(result, DetectionResult)
    return best_f1_thresholds(result)
