"""Scores of the detection task: COCO average precision, matched and added up by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onehead_cli.tasks.detection.errors import box_errors
from onehead_cli.tasks.reader import Row

if TYPE_CHECKING:
    from onehead_cli.tasks.detection.decode import Detections

#: Detections that COCO counts per image and category.
_MAX_DETECTIONS = 100
#: Largest array of a resample step, in numbers of 8 bytes.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class _Matches:
    """The D detections of one class in the whole split, best first as pycocotools sorts them; T IoU thresholds.

    image: int64 [D], where the detection's image stands in the list of images.
    scores: float64 [D].
    correct: bool [T, D], matched to a true box.
    ignored: bool [T, D], matched to a crowd region: neither right nor wrong.
    truth: int64 [n], true boxes of each image, crowds left out.
    """

    image: NDArray[np.int64]
    scores: NDArray[np.float64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    truth: NDArray[np.int64]


class DetectionResult:
    """The boxes that a network found in each image of a split, matched to the true ones.

    precision: float64 [10, 101, C], the precision at IoU .50, .55, ... .95 and recall 0, .01, ... 1; NaN for a class
        without a true box.
    """

    task: ClassVar[str] = "det"

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        detections: Sequence[Detections],
        category_ids: Sequence[int],
        class_names: Sequence[str],
        shown: Sequence[Detections] | None = None,
    ) -> None:
        """Match the boxes; nothing given is changed.

        Args:
            ground_truth: `images` and `annotations` in COCO form, boxes x y w h in pixels; a missing `iscrowd` is 0, a
                missing `area` w x h. Categories that `category_ids` does not list are left out.
            detections: one per image, in the order of `images`, boxes x1 y1 x2 y2 in pixels of the image.
            category_ids: the category of each class index, C numbers.
            class_names: the C names.
            shown: the boxes of each image that are drawn, where they are known.

        Raises:
            ValueError: lists whose lengths do not fit together, or an id that stands twice.
        """
        image_ids = [image["id"] for image in ground_truth["images"]]
        if len(detections) != len(image_ids):
            raise ValueError(f"detections of {len(detections)} images for {len(image_ids)} images")
        if len(category_ids) != len(class_names):
            raise ValueError(f"{len(category_ids)} category ids for {len(class_names)} classes")
        if len(set(image_ids)) < len(image_ids) or len(set(category_ids)) < len(category_ids):
            raise ValueError("an image id or category id stands twice")
        self.class_names = class_names
        self.errors = None if shown is None else box_errors(shown, _by_image(ground_truth, category_ids))
        self._images = len(image_ids)
        truth = [_true_box(annotation) for annotation in ground_truth["annotations"]]
        found = [
            box
            for image_id, one in zip(image_ids, detections, strict=True)
            for box in _found_boxes(one, image_id, category_ids)
        ]
        evaluator = _run_coco(image_ids, truth, found, category_ids)
        # pycocotools sorts the categories: class c stands at ranks[c].
        ranks = np.argsort(np.argsort(category_ids))
        precision = evaluator.eval["precision"][:, :, ranks, 0, 0]
        self.precision: NDArray[np.float64] = np.where(precision < 0, np.nan, precision)
        self.recall_steps: NDArray[np.float64] = evaluator.params.recThrs
        position = {image_id: index for index, image_id in enumerate(image_ids)}
        n = self._images
        self._matches = [
            _gather(evaluator.evalImgs[rank * n : (rank + 1) * n], position, thresholds=len(precision))
            for rank in ranks
        ]

    def __len__(self) -> int:
        return self._images

    def scores(self) -> dict[str, float | None]:
        """COCO AP at IoU .50:.95 (map) and .50 (map50), area all, 100 detections; None without a true box."""
        present = self.precision[:, :, ~np.isnan(self.precision[0, 0])]
        if not present.size:
            return {"map": None, "map50": None}
        return {"map": float(present.mean()), "map50": float(present[0].mean())}

    def by_score(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The score of each detection that is no crowd's, and whether it is right at IoU .50; of all classes."""
        kept = [~matches.ignored[0] for matches in self._matches]
        scores = [matches.scores[keep] for matches, keep in zip(self._matches, kept, strict=True)]
        right = [matches.correct[0, keep] for matches, keep in zip(self._matches, kept, strict=True)]
        return np.concatenate([*scores, np.zeros(0)]), np.concatenate([*right, np.zeros(0, dtype=bool)])

    def per_class(self) -> list[Row]:
        """A row per class: name, count (true boxes without crowds), ap and ap50, None without a true box."""
        rows: list[Row] = []
        for index, (name, matches) in enumerate(zip(self.class_names, self._matches, strict=True)):
            count, precision = int(matches.truth.sum()), self.precision[:, :, index]
            rows.append(
                {
                    "name": name,
                    "count": count,
                    "ap": float(precision.mean()) if count else None,
                    "ap50": float(precision[0].mean()) if count else None,
                }
            )
        return rows

    def resampled(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """AP at IoU .50:.95 when image i is taken counts[r, i] times; counts int [R, n], returns float64 [R].

        The images are not matched again; boxes of one image with equal scores are ranked as if it stood there once.
        A class without a true box in a resample is left out of its mean; NaN where no class has one.
        """
        per_class = np.stack([self._resampled_class(matches, counts) for matches in self._matches])  # [C, R]
        present = ~np.isnan(per_class)
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = np.where(present, per_class, 0.0).sum(axis=0) / present.sum(axis=0)
        return mean

    def curves(self) -> dict[str, list[list[Any]]]:
        """Precision at IoU .50 of each class against recall; a class without truth stays empty."""
        rows: list[list[Any]] = [["recall", *self.class_names]]
        for at, values in zip(self.recall_steps.tolist(), self.precision[0].tolist(), strict=True):
            rows.append([f"{at:.2f}", *("" if value != value else value for value in values)])
        return {"precision_recall": rows}

    def _resampled_class(self, matches: _Matches, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """AP of one class in each resample, float64 [R]; NaN without a true box."""
        rows = max(1, _CHUNK // max(1, len(matches.image)))
        parts = [self._weighted_ap(matches, counts[start : start + rows]) for start in range(0, len(counts), rows)]
        return np.concatenate(parts)

    def _weighted_ap(self, matches: _Matches, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """What COCOeval.accumulate does, with a weight a detection.

        Precision only rises, and recall only moves, at a correct detection, so those K ranks are all that counts.
        """
        truth = (counts @ matches.truth).astype(np.float64)  # [R]
        weights = counts.T[matches.image].astype(np.float64)  # [D, R]
        total = np.zeros(len(counts))
        for correct, ignored in zip(matches.correct, matches.ignored, strict=True):
            kept = weights[~ignored] if ignored.any() else weights
            ranks = np.flatnonzero(correct[~ignored])
            if not ranks.size:
                continue
            hits = kept[ranks].cumsum(axis=0)  # [K, R]
            # Summed from one correct detection to the next, which is faster than rank by rank.
            seen = np.add.reduceat(kept[: ranks[-1] + 1], np.append(0, ranks[:-1] + 1), axis=0).cumsum(axis=0)
            envelope = np.maximum.accumulate((hits / (seen + np.spacing(1)))[::-1], axis=0)[::-1]
            recall = hits / np.maximum(truth, 1.0)
            # Rank k is the first to reach the recall steps that it covers and rank k - 1 does not.
            covered = np.searchsorted(self.recall_steps, recall, side="right")
            total += (envelope * np.diff(covered, axis=0, prepend=0)).sum(axis=0)
        return np.where(truth > 0, total / (len(matches.correct) * len(self.recall_steps)), np.nan)


def best_f1_thresholds(result: DetectionResult, *, shared_below: int = 0, default: float = 0.3) -> list[float]:
    """The score of each class from which on its boxes have the best F1 at IoU .50.

    F1 = 2 x correct / (kept + true); the highest score among equals; `default` without a true box or without a correct
    detection.

    Args:
        shared_below: classes with fewer true boxes share one threshold, the best for their boxes together.
    """
    few = [matches for matches in result._matches if matches.truth.sum() < shared_below]
    shared = _best_f1_threshold(few, default)
    return [
        shared if matches.truth.sum() < shared_below else _best_f1_threshold([matches], default)
        for matches in result._matches
    ]


def _best_f1_threshold(classes: Sequence[_Matches], default: float) -> float:
    scores = np.concatenate([m.scores[~m.ignored[0]] for m in classes] + [np.zeros(0)])
    correct = np.concatenate([m.correct[0, ~m.ignored[0]] for m in classes] + [np.zeros(0, dtype=bool)])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], correct[order].cumsum()
    if not hits.size or not hits[-1]:
        return default
    truth = sum(int(m.truth.sum()) for m in classes)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + truth)
    # A threshold keeps all boxes of its score, so only the last of equal scores is one.
    last = np.append(scores[1:] < scores[:-1], True)
    return float(scores[np.where(last, f1, -1.0).argmax()])


def _by_image(ground_truth: Mapping[str, Any], category_ids: Sequence[int]) -> dict[Any, list[Mapping[str, Any]]]:
    """The annotations of each image, their categories as class indices."""
    index = {category_id: place for place, category_id in enumerate(category_ids)}
    found: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        if annotation["category_id"] in index:
            found[annotation["image_id"]].append({**annotation, "category_id": index[annotation["category_id"]]})
    return found


def _true_box(annotation: Mapping[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": list(annotation["bbox"]),
        "area": annotation.get("area", width * height),
        "iscrowd": annotation.get("iscrowd", 0),
    }


def _found_boxes(detections: Detections, image_id: Any, category_ids: Sequence[int]) -> Iterable[dict[str, Any]]:
    for (x1, y1, x2, y2), score, label in zip(
        detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
    ):
        yield {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "score": score,
        }


def _run_coco(
    image_ids: list[Any], truth: list[dict[str, Any]], found: list[dict[str, Any]], category_ids: Sequence[int]
) -> Any:
    """A COCOeval that has matched and accumulated, over area all and 100 detections."""
    from pycocotools.cocoeval import COCOeval  # which predict does without

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            _coco(image_ids, truth, category_ids), _coco(image_ids, found, category_ids), iouType="bbox"
        )
        evaluator.params.catIds = sorted(category_ids)
        evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
        evaluator.params.maxDets = [_MAX_DETECTIONS]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _coco(image_ids: list[Any], boxes: list[dict[str, Any]], category_ids: Sequence[int]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in image_ids],
        # Numbered from 1: pycocotools takes a match with id 0 for none.
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, start=1)],
        "categories": [{"id": category_id} for category_id in category_ids],
    }
    coco.createIndex()
    return coco


def _gather(per_image: Iterable[Mapping[str, Any] | None], position: Mapping[Any, int], *, thresholds: int) -> _Matches:
    """Put the matches of one category together; None stands for an image with neither true nor found boxes."""
    truth = np.zeros(len(position), dtype=np.int64)
    images, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    matched, ignored = [np.zeros((thresholds, 0))], [np.zeros((thresholds, 0), dtype=bool)]
    for match in per_image:
        if match is None:
            continue
        index = position[match["image_id"]]
        truth[index] = np.count_nonzero(match["gtIgnore"] == 0)
        images.append(np.full(len(match["dtScores"]), index))
        scores.append(np.asarray(match["dtScores"], dtype=np.float64))
        matched.append(match["dtMatches"])
        ignored.append(match["dtIgnore"])
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="mergesort")
    is_ignored = np.concatenate(ignored, axis=1)[:, order].astype(bool)
    is_matched = np.concatenate(matched, axis=1)[:, order] > 0
    return _Matches(
        image=np.concatenate(images)[order],
        scores=all_scores[order],
        correct=is_matched & ~is_ignored,
        ignored=is_ignored,
        truth=truth,
    )
