"""Reads the boxes of a detection map: on labelled splits, and on images without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from torch import Tensor

from onehead_cli.config.sections import EvaluationConfig, SizeUnit
from onehead_cli.data.geometry import Fit
from onehead_cli.data.split import Split
from onehead_cli.drawing import class_text
from onehead_cli.tasks.canvas import Boxes, Canvas
from onehead_cli.tasks.detection.average_precision import DetectionResult, best_f1_thresholds
from onehead_cli.tasks.detection.decode import BoxMap, Detections, decode_boxes, read_boxes
from onehead_cli.tasks.detection.ranking import BoxRanking, rank_boxes, summarise
from onehead_cli.tasks.detection.split import DetectionSplit, pooled_ground_truth
from onehead_cli.tasks.reader import Choice, Reader

if TYPE_CHECKING:
    from PIL import Image

    from onehead_cli.coco_results import CocoResults


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


#: How the boxes of a new network are read, where the config does not say.
FIRST_READING = BoxReading(best_class=True, nms_iou=0.45, predict_nms_iou=0.3, vote_iou=0.5)


@dataclass(frozen=True)
class Observation:
    """found: the boxes of an image, for each NMS. shown: those that are drawn, if they are known.

    ranking: of all images of its batch, with the first of them.
    """

    found: tuple[Detections, ...]
    shown: Detections | None = None
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

    def observe(self, maps: Any, split: Split, indices: Sequence[int], *, choosing: bool = False) -> list[Observation]:
        assert isinstance(split, DetectionSplit)
        fits = [split.fit(index) for index in indices]
        nms_ious = self._nms_ious() if choosing else [self.reading.nms_iou]
        read = [self.boxes(maps, fits, nms_iou, self.config.score_min) for nms_iou in nms_ious]
        observed = [Observation(found) for found in zip(*read, strict=True)]
        if not choosing:
            shown = self._shown(maps, fits)
            observed = [replace(one, shown=each) for one, each in zip(observed, shown, strict=True)]
        else:
            ranking = rank_boxes(self._decoded(maps), split.target(indices), split.image_size)
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

    def predict(self, maps: Any, fits: Sequence[Fit]) -> Iterator[FoundBoxes]:
        for found in self.boxes(maps, fits, self.reading.predict_nms_iou, self.score_min):
            yield FoundBoxes(self.classes, self._above_thresholds(found))

    def _shown(self, maps: Any, fits: Sequence[Fit]) -> Sequence[Detections | None]:
        """The boxes of each image that `predict` would give."""
        found = self.boxes(maps, fits, self.reading.predict_nms_iou, self.score_min)
        return [self._above_thresholds(each) for each in found]

    def _above_thresholds(self, found: Detections) -> Detections:
        keep = found.scores >= self.thresholds[found.labels]
        return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])

    def _nms_ious(self) -> list[float]:
        return list(dict.fromkeys([self.reading.nms_iou, self.reading.predict_nms_iou]))

    def _results(self, observations: Sequence[Observation], splits: Sequence[Split]) -> list[DetectionResult]:
        """A result for each NMS."""
        sources = [split for split in splits if isinstance(split, DetectionSplit)]
        truth, first = pooled_ground_truth(sources), sources[0]
        shown = [one.shown for one in observations if one.shown is not None]
        known = shown if len(shown) == len(observations) else None
        labels = range(len(first.classes))
        return [
            DetectionResult(truth, [one.found[which] for one in observations], labels, first.classes, known)
            for which in range(len(observations[0].found))
        ]

    def boxes(self, maps: Any, fits: Sequence[Fit], nms_iou: float, score_min: float) -> list[Detections]:
        """The boxes of each image, after NMS."""
        return read_boxes(
            self._decoded(maps),
            fits,
            nms_iou=nms_iou,
            score_min=score_min,
            max_detections=self.config.max_detections,
            best_class=self.reading.best_class,
            vote_iou=self.reading.vote_iou,
        )

    def _decoded(self, maps: Tensor) -> BoxMap:
        return decode_boxes(maps, len(self.classes), self.layout.size_unit)


@dataclass(frozen=True)
class FoundBoxes:
    """boxes: those above the thresholds, best first."""

    classes: Sequence[str]
    boxes: Detections

    def record(self, save: Callable[[str, Image.Image], str | None]) -> dict[str, Any]:
        return {"boxes": [{"label": name, "score": score, "box": box} for name, score, box in self._rows()]}

    def add_to_coco(self, results: CocoResults, *, masks: bool) -> None:
        for row in self._rows():
            results.add_box(*row)

    def _rows(self) -> Iterator[tuple[str, float, list[float]]]:
        """Name, score and box of each, rounded as they are written."""
        rows = zip(self.boxes.labels.tolist(), self.boxes.scores.tolist(), self.boxes.boxes.tolist(), strict=True)
        for label, score, box in rows:
            yield self.classes[label], round(score, 6), [round(side, 3) for side in box]

    def paint(self, canvas: Canvas) -> None:
        labels = self.boxes.labels.tolist()
        names = [self.classes[label] for label in labels]
        called = [class_text(name, label) for name, label in zip(names, labels, strict=True)]
        texts = [f"{name} {score:.2f}" for name, score in zip(called, self.boxes.scores, strict=True)]
        canvas.boxes = Boxes(self.boxes.boxes, names, texts)
