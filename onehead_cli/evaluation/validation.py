"""What val decides: the checkpoint that is kept and the thresholds that are stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onehead_cli.checkpoint.checkpoint import Thresholds
from onehead_cli.data.split import TaskData
from onehead_cli.evaluation.evaluator import Evaluator, TaskResult
from onehead_cli.network.onehead import OneHead
from onehead_cli.tasks.detection.average_precision import best_f1_thresholds
from onehead_cli.tasks.detection.ranking import BoxRanking, summarise
from onehead_cli.types import MAIN_METRIC, Task


@dataclass(frozen=True)
class Validation:
    """scores: by metric. criterion: the larger the better. thresholds: the best for these weights.

    diagnostics: what shows whether a task is taught well, by name; it decides nothing.
    """

    scores: dict[str, float | None]
    criterion: float
    thresholds: Thresholds
    diagnostics: dict[str, float | None] = field(default_factory=dict)


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
    diagnostics: dict[str, float | None] = {}
    thresholds = Thresholds(cells=cell_threshold, boxes=[])
    for task, split in splits.items():
        result: TaskResult
        if task is Task.CLS:
            maps, labels = evaluator.class_maps(model, [split])
            thresholds.cells = evaluator.best_cell_threshold(maps, labels)
            result = evaluator.classified(maps, labels, thresholds.cells, split.classes)
        elif task is Task.DET:
            reading = evaluator.reading
            # A box is drawn from the score that is best for boxes read as they are drawn.
            nms_ious = list(dict.fromkeys([reading.nms_iou, reading.predict_nms_iou]))
            rankings: list[BoxRanking] = []
            results = evaluator.detected(model, [split], nms_ious, rankings=rankings)
            diagnostics |= summarise(rankings)
            result, drawn = results[0], results[-1]
            thresholds.boxes = best_f1_thresholds(drawn, shared_below=evaluator.config.shared_below)
        else:
            result = evaluator.measure(model, task, [split], cell_threshold=thresholds.cells)
        scores |= result.scores()
    main = {task: scores[MAIN_METRIC[task]] or 0.0 for task in splits}
    if teacher_scores and all(task in teacher_scores for task in splits):
        criterion = min(main[task] - teacher_scores[task] for task in splits)
    else:
        criterion = sum(main.values()) / len(main)
    return Validation(scores, criterion, thresholds, diagnostics)
