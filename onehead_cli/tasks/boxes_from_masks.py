"""Boxes from masks: what a segmentation dataset says about the classes that a detection dataset knows too.

After Le and Pham, "Box for mask and mask for box", arXiv 2411.17536. A mask does not tell one object from the next of
its class: a connected component is taken for an object where that is likely, and for a region to ignore elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onehead_cli.config.sections import Config
from onehead_cli.data.split import Split
from onehead_cli.errors import ConfigError
from onehead_cli.tasks.detection.split import DetectionSplit
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.segmentation.split import SegmentationSplit

#: A component of less than this share of the image is too small to be sure of.
_MIN_SHARE = 0.002
#: A component that fills less than this share of its box is rarely one whole object.
_MIN_FILL = 0.15
#: Components of a class whose gap is below this share of the larger one's longer side may be one object cut in two.
_MAX_GAP = 0.08
#: ... unless one has at least this many times the area of the other: that one is the object, the other a scrap.
_SCRAP = 10.0
#: Worn off at its edge by this share of the root of its area, a component that falls into several parts of at least
#: the other share of it is taken for several objects that touch.
_WEAR, _PART = 0.09, 0.15
#: VOC leaves a border of some five pixels void round each object; half of it belongs to the object.
_BORDER = 2

#: The same thing under COCO's name and VOC's.
_SYNONYMS = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "dining table": "diningtable",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}


@dataclass
class MaskBoxes:
    """boxes: float64 [n, 4], x1 y1 x2 y2 in the mask's pixels. labels: int64 [n], detection classes.

    doubtful: bool [n], True for a region to ignore.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    doubtful: NDArray[np.bool_]


class _Lent:
    """The boxes that a split's masks hold, read out once."""

    def __init__(self, split: SegmentationSplit, shared: Mapping[int, int], weight: float) -> None:
        self.split, self.shared, self.weight = split, shared, weight
        self._boxes: dict[int, MaskBoxes] = {}

    def __call__(self, indices: Sequence[int]) -> DetectionTarget:
        for index in indices:
            if index not in self._boxes:
                self._boxes[index] = boxes_from_mask(self.split.mask(index), self.shared)
        found = [(self.split.fit(index), self._boxes[index]) for index in indices]
        target = DetectionTarget.padded([(fit.to_input(b.boxes), b.labels, b.doubtful) for fit, b in found])
        return replace(target, labelled=tuple(sorted(self.shared.values())), weight=self.weight)


def lender() -> tuple[str, ...]:
    """The tasks whose masks boxes are read out of."""
    return (SegmentationSplit.task,)


def lend_boxes(
    split: Split, classes: Mapping[str, Sequence[str]], *, weight: float
) -> Callable[[Sequence[int]], DetectionTarget]:
    """What gives the boxes of images by their indices.

    Args:
        classes: of all tasks.
        weight: of an image with such boxes beside one with true ones.
    """
    assert isinstance(split, SegmentationSplit)
    return _Lent(split, _shared(classes), weight)


def check_shared(classes: Mapping[str, Sequence[str]], config: Config) -> None:
    """Raises: ConfigError: there is nothing to lend, or nobody who can use it."""
    if not _shared(classes):
        raise ConfigError("boxes_from_masks: needs both segmentation and detection, with a class name in common")
    if config.model.detection_loss == "yolov1":
        raise ConfigError("boxes_from_masks: needs model.detection_loss=quality, which supports ignored regions")


def _shared(classes: Mapping[str, Sequence[str]]) -> dict[int, int]:
    return shared_classes(classes.get(SegmentationSplit.task, ()), classes.get(DetectionSplit.task, ()))


def shared_classes(mask_classes: Sequence[str], box_classes: Sequence[str]) -> dict[int, int]:
    """Mask label -> detection class, of the classes that both datasets know (COCO's and VOC's spellings are one)."""
    plain = {_plain(name): label for label, name in enumerate(mask_classes)}
    return {plain[_plain(name)]: index for index, name in enumerate(box_classes) if _plain(name) in plain}


def boxes_from_mask(mask: NDArray[np.uint8], shared: Mapping[int, int]) -> MaskBoxes:
    """A box for each connected component (8 neighbours) of the shared classes, the doubtful ones marked.

    Doubtful are components that are tiny, that hardly fill their box, or that have another component of their class
    close by: one object behind a pole, or two that stand together, look the same in a mask.

    Args:
        mask: uint8 [height, width], class labels.
        shared: mask label -> detection class, from `shared_classes`.
    """
    from scipy import ndimage  # which only trainings need

    boxes: list[NDArray[np.float64]] = []
    labels: list[int] = []
    doubtful: list[bool] = []
    for label, index in shared.items():
        components, count = ndimage.label(mask == label, structure=np.ones((3, 3)))
        if not count:
            continue
        areas = np.bincount(components.ravel(), minlength=count + 1)[1:]
        found = ndimage.find_objects(components)
        extents = np.array([_box(where) for where in found])
        merged = [_falls_apart(components[where] == number) for number, where in enumerate(found, start=1)]
        unsure = _doubtful(extents, areas, mask.size) | np.array(merged)
        height, width = mask.shape
        grown = extents + np.array([-_BORDER, -_BORDER, _BORDER, _BORDER])
        boxes.append(grown.clip(0, [width, height, width, height]))
        labels += [index] * count
        doubtful += unsure.tolist()
    return MaskBoxes(
        boxes=np.concatenate(boxes) if boxes else np.zeros((0, 4)),
        labels=np.array(labels, dtype=np.int64),
        doubtful=np.array(doubtful, dtype=np.bool_),
    )


def _doubtful(extents: NDArray[np.float64], areas: NDArray[np.int64], pixels: int) -> NDArray[np.bool_]:
    sides = extents[:, 2:] - extents[:, :2]  # [n, 2]
    unsure = (areas < _MIN_SHARE * pixels) | (areas < _MIN_FILL * sides.prod(1))
    gap = np.maximum(extents[:, None, :2] - extents[None, :, 2:], extents[None, :, :2] - extents[:, None, 2:])
    gap = gap.max(-1)  # [n, n], negative where the boxes overlap
    near = gap < _MAX_GAP * np.maximum(sides.max(1)[:, None], sides.max(1)[None])
    np.fill_diagonal(near, False)
    # A scrap casts no doubt on the object that it was cut from.
    near &= areas[:, None] < _SCRAP * areas[None]
    return np.asarray(unsure | near.any(1))


def _falls_apart(component: NDArray[np.bool_]) -> bool:
    from scipy import ndimage

    area = int(component.sum())
    depth = ndimage.distance_transform_edt(np.pad(component, 1))
    parts, count = ndimage.label(depth > _WEAR * np.sqrt(area))
    large = np.bincount(parts.ravel(), minlength=count + 1)[1:] >= _PART * area
    return int(large.sum()) > 1


def _box(where: tuple[slice, ...]) -> list[float]:
    rows, columns = where
    return [columns.start, rows.start, columns.stop, rows.stop]


def _plain(name: str) -> str:
    lower = name.lower().replace("_", " ")
    return _SYNONYMS.get(lower, lower)
