"""Detection in an exported file: decoding, NMS and voting inside, all boxes above the lowest score outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou, nms

from onehead_cli.config.sections import EvaluationConfig, SizeUnit
from onehead_cli.data.geometry import Fit
from onehead_cli.errors import ConfigError
from onehead_cli.tasks.detection.decode import Detections, cell_scores, decode_boxes
from onehead_cli.tasks.detection.reader import BoxReading, DetectionReader, FoundBoxes
from onehead_cli.tasks.exported import MapReading, PlaceInInput

#: Boxes of a class that are farther apart are two.
_SAME_BOX_PX = 4.0
#: Of an exported file: where it is not given, boxes are as `predict` draws them.
NMS_INPUT = "nms_iou"


@torch.library.custom_op("onehead::select_boxes", mutates_args=())
def select_boxes(boxes: Tensor, scores: Tensor, nms_iou: Tensor, score_min: float, most: int) -> Tensor:
    """NMS within each class: (class, box) of what is left, int64 [k, 2], best first, at most so many.

    An operator of its own, because ONNX has one for it.

    Args:
        boxes: float32 [n, 4], x1 y1 x2 y2.
        scores: float32 [C, n].
        nms_iou: float32 [].
        score_min: a box is dropped unless its score is above.
    """
    kept = []
    for label, of_class in enumerate(scores):
        (found,) = (of_class > score_min).nonzero(as_tuple=True)
        kept += [(label, box) for box in found[nms(boxes[found], of_class[found], float(nms_iou))].tolist()]
    kept.sort(key=lambda pair: -float(scores[pair]))
    return torch.tensor(kept[:most], dtype=torch.int64).reshape(-1, 2)


def select_boxes_in_onnx(boxes: Any, scores: Any, nms_iou: Any, score_min: float, most: int) -> Any:
    """The same in ONNX, as values of onnxscript."""
    from onnx import numpy_helper
    from onnxscript import opset18 as op

    def constant(value: Any, kind: type[np.generic]) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.array(value, dtype=kind)))

    batch = constant([0], np.int64)
    scores = op.Unsqueeze(scores, batch)  # [1, C, n]
    boxes = op.Unsqueeze(boxes, batch)  # [1, n, 4]
    every = op.Squeeze(op.Shape(boxes, start=1, end=2), batch)
    found = op.NonMaxSuppression(boxes, scores, every, nms_iou, constant(score_min, np.float32))  # [k, 3]
    of_found = op.GatherND(scores, found)
    count = op.Min(op.Shape(of_found), constant([most], np.int64))
    _, best = op.TopK(of_found, count, axis=0)
    return op.Slice(
        op.Gather(found, best, axis=0), constant([1], np.int64), constant([3], np.int64), constant([1], np.int64)
    )


@select_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, nms_iou: Tensor, score_min: float, most: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), 2, dtype=torch.int64)


class BoxesReading(MapReading):
    """What `read_boxes` does, of one image."""

    #: unmatched: share of the boxes; of two that overlap by nearly `nms_iou`, a last bit may decide which is dropped.
    tolerances: ClassVar[Mapping[str, tuple[float, float]]] = {
        "score": (1e-4, 1e-2),
        "box_px": (0.05, 1.0),
        "unmatched": (0.01, 0.1),
    }
    int8_limits: ClassVar[Mapping[str, float]] = {"box_f1": 0.7}

    def __init__(self, classes: int, unit: SizeUnit, reading: BoxReading, config: EvaluationConfig) -> None:
        super().__init__(
            {"boxes": ["boxes", 4], "scores": ["boxes"], "labels": ["boxes"]}, {NMS_INPUT: reading.predict_nms_iou}
        )
        self.classes, self.unit, self.reading, self.config = classes, unit, reading, config

    def operators(self) -> dict[Any, Callable[..., Any]]:
        return {torch.ops.onehead.select_boxes.default: select_boxes_in_onnx}

    def forward(self, task_map: Tensor, place: PlaceInInput, mask_size: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        decoded = decode_boxes(task_map, self.classes, self.unit)
        scores = cell_scores(decoded, best_class=self.reading.best_class)[0].transpose(0, 1).flatten(1)  # [C, n]
        boxes = self._in_image(decoded.boxes[0].flatten(0, 2), place)
        solid = ((boxes[:, 2] - boxes[:, 0]) > 0) & ((boxes[:, 3] - boxes[:, 1]) > 0)
        scores = torch.where(solid, scores, -1.0)
        # A box at the lowest score itself stays, which ONNX would leave out.
        lowest = float(np.nextafter(np.float32(self.config.score_min), np.float32(-1)))
        kept = select_boxes(boxes.float(), scores, inputs[0], lowest, self.config.max_detections)
        labels, index = kept.unbind(1)
        found = boxes[index]
        if self.reading.vote_iou < 1:
            found = self._voted(found, boxes, scores[labels], index)
        return found.float(), scores[labels, index], labels

    def differences(self, torch_says: FoundBoxes, file_says: FoundBoxes) -> dict[str, float]:
        """Of boxes that are matched one to one: the largest difference of a score, and of a side in pixels."""
        mine, its = torch_says.boxes, file_says.boxes
        apart = np.abs(mine.boxes[:, None] - its.boxes[None]).max(-1, initial=0.0)  # [n, m]
        apart[mine.labels[:, None] != its.labels] = np.inf
        pairs = matched(-apart, -_SAME_BOX_PX)
        scores = [abs(mine.scores[a] - its.scores[b]) for a, b in pairs]
        most = max(len(mine.labels), len(its.labels))
        return {
            "score": float(max(scores, default=0.0)),
            "box_px": float(max((apart[a, b] for a, b in pairs), default=0.0)),
            "unmatched": 1 - len(pairs) / most if most else 0.0,
        }

    def compared(self, torch_says: FoundBoxes, file_says: FoundBoxes) -> NDArray[np.int64]:
        """How many boxes are the same, of a class and with an IoU of .8, and how many there are in both together."""
        mine, its = torch_says.boxes, file_says.boxes
        overlaps = box_iou(torch.from_numpy(mine.boxes), torch.from_numpy(its.boxes)).numpy()
        overlaps[mine.labels[:, None] != its.labels] = -1.0
        return np.array([len(matched(overlaps, 0.8)), len(mine.labels) + len(its.labels)])

    def agreement(self, compared: Sequence[NDArray[np.int64]]) -> dict[str, float]:
        """The F1 of the boxes that are shown."""
        both, either = np.sum(compared, axis=0).tolist()
        return {"box_f1": 2 * both / either if either else 1.0}

    def _in_image(self, boxes: Tensor, place: PlaceInInput) -> Tensor:
        """Boxes in shares of the input, [n, 4], in pixels of the image, float64; see `Fit.to_image`."""
        scale = torch.stack([place.scale_x, place.scale_y] * 2)
        offset = torch.stack([place.offset_x, place.offset_y] * 2)
        limit = torch.stack([place.width, place.height] * 2)
        moved = ((boxes * place.side).double() - offset) / scale
        return torch.minimum(moved.clamp(min=0), limit)

    def _voted(self, found: Tensor, boxes: Tensor, scores: Tensor, index: Tensor) -> Tensor:
        """The boxes [k, 4] moved to the mean of those that vote for them, where one of these has a score above 0.

        Args: scores: of all boxes [n, 4] as members of each found one's class, float32 [k, n].
        """
        votes = (box_iou(found, boxes) >= self.reading.vote_iou) & (scores >= self.config.score_min)
        votes = votes | (torch.arange(len(boxes)) == index[:, None])
        weights = torch.where(votes, scores.double(), 0.0)
        total = weights.sum(1, keepdim=True)
        return torch.where(total > 0, (weights @ boxes) / total, found)


def matched(merit: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns, each in one pair at most, the best first. Args: merit: [n, m]."""
    pairs, merit = [], merit.copy()
    while merit.size and merit.max() >= least:
        a, b = np.unravel_index(merit.argmax(), merit.shape)
        pairs.append((int(a), int(b)))
        merit[a], merit[:, b] = -np.inf, -np.inf
    return pairs


@dataclass
class ExportedBoxes(DetectionReader):
    """Takes the boxes as the file gives them."""

    def __post_init__(self) -> None:
        self.observe_inputs = {NMS_INPUT: self.reading.nms_iou}
        self.predict_inputs = {NMS_INPUT: self.reading.predict_nms_iou}

    def _shown(self, maps: Any, fits: Sequence[Fit]) -> Sequence[Detections | None]:
        # The file has run with the NMS of the evaluation.
        return [None] * len(fits)

    def boxes(self, maps: Any, fits: Sequence[Fit], nms_iou: float, score_min: float) -> list[Detections]:
        read = []
        for each in maps:
            keep = (each["scores"] >= score_min).nonzero()[0][: self.config.max_detections]
            found = (each["boxes"][keep].astype(np.float64), each["scores"][keep].astype(np.float64))
            read.append(Detections(*found, each["labels"][keep]))
        return read


def check_fixed(reader: DetectionReader, fixed: Mapping[str, Any], score_threshold: float | None) -> None:
    """Raises: ConfigError: the file reads boxes otherwise than the reader would, or lacks some that were asked for.

    Limits that the config leaves at their defaults are the file's own.

    Args:
        fixed: of the file, from `Task.fixed_reading`.
        score_threshold: what boxes of every class are asked for from; None where nothing was said.
    """
    for key in ("best_class", "vote_iou"):
        if (wanted := getattr(reader.reading, key)) != fixed[key]:
            raise ConfigError(f"evaluation.{key} is {fixed[key]} in the exported file; export it again for {wanted}")
    usual, config = EvaluationConfig(), reader.config
    lowest = score_threshold
    if lowest is None and config.score_min != usual.score_min:
        lowest = config.score_min
    if lowest is not None and lowest < fixed["score_min"]:
        raise ConfigError(f"the exported file has no boxes of scores below {fixed['score_min']:g}; export it again")
    if config.max_detections != usual.max_detections and config.max_detections > fixed["max_detections"]:
        raise ConfigError(f"the exported file has at most {fixed['max_detections']} boxes per image; export it again")
