"""The conversions of labels in pictures that are drawn on the spot, so that they may be passed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from onehead_cli.datasets.base import detection_target
from onehead_cli.datasets.geometry import Fit
from onehead_cli.datasets.mask_boxes import boxes_from_mask, shared_classes
from onehead_cli.datasets.sample_sheet import Sample, draw_sheet
from onehead_cli.datasets.synthetic import (
    CLASSES,
    SEGMENTED_CLASSES,
    Scene,
    class_mask,
    draw_detection,
    draw_segmentation,
)
from onehead_cli.decode import read_mask
from onehead_cli.drawing import LIGHT, class_colours
from onehead_cli.losses.distillation import gate_masks
from onehead_cli.types import IGNORE_INDEX

_SIZE, _CELLS = 160, 10
#: Mask label -> detection class.
_SHARED = shared_classes(SEGMENTED_CLASSES, CLASSES)


def write_conversions(path: Path) -> None:
    """Above: true masks and boxes read out of them, doubtful ones dashed. Below: a made-up teacher's mask, gated."""
    rng = np.random.default_rng(0)
    samples = [sample for scene in _with_doubt(rng) for sample in _boxes_for_masks(scene)]
    samples += [sample for scene in _with_boxes(rng) for sample in _masks_for_boxes(scene, rng)]
    colours = class_colours(CLASSES)
    table = np.full((256, 3), LIGHT, dtype=np.uint8)
    table[1 : len(SEGMENTED_CLASSES)] = [colours[name] for name in SEGMENTED_CLASSES[1:]]
    legend = {name: colours[name] for name in SEGMENTED_CLASSES[1:]}
    sheet = draw_sheet(samples, box_colours=colours, mask_colours=table, legend={**legend, "void": LIGHT})
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette that keeps the few pixels of each class's colour.
    sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def _with_doubt(rng: np.random.Generator) -> Iterator[Scene]:
    """The first two scenes in whose masks some boxes are sure and others doubtful."""
    found = 0
    while found < 2:
        scene = draw_segmentation(rng, image_size=_SIZE)
        doubtful = boxes_from_mask(class_mask(scene), _SHARED).doubtful
        if doubtful.any() and not doubtful.all():
            found += 1
            yield scene


def _boxes_for_masks(scene: Scene) -> list[Sample]:
    mask, picture = class_mask(scene), Image.fromarray(scene.picture)
    found = boxes_from_mask(mask, _SHARED)
    boxes = [
        (tuple(box), CLASSES[label], bool(doubtful))
        for box, label, doubtful in zip(found.boxes.tolist(), found.labels, found.doubtful, strict=True)
    ]
    doubts = int(found.doubtful.sum())
    said = f"to learn from: {len(boxes) - doubts}; dashed, doubtful and ignored: {doubts}"
    return [
        Sample(picture, "a true mask of segmentation", mask=mask),
        Sample(picture, said, label="boxes from the mask", mask=mask, boxes=boxes, ignored="doubtful"),
    ]


def _with_boxes(rng: np.random.Generator) -> Iterator[Scene]:
    """The first two scenes with objects of two classes or more that segmentation knows."""
    found = 0
    while found < 2:
        scene = draw_detection(rng, image_size=_SIZE, crowd=False)
        if len({thing.label for thing in scene.objects} & set(SEGMENTED_CLASSES)) >= 2:
            found += 1
            yield scene


def _masks_for_boxes(scene: Scene, rng: np.random.Generator) -> list[Sample]:
    height, width = scene.picture.shape[:2]
    fit = Fit.of(width, height, _SIZE, "resize")
    tight = [thing.box for thing in scene.objects]
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in tight], dtype=np.float64)
    labels = np.array([CLASSES.index(thing.label) for thing in scene.objects])
    target = detection_target([(fit.to_input(corners), labels, np.zeros(len(labels), dtype=bool))])
    before = _noisy_map(class_mask(scene), rng)
    after, _ = gate_masks(before, target, shared=_SHARED, image_size=_SIZE)
    boxes = [(tuple(box), CLASSES[label], False) for box, label in zip(corners.tolist(), labels, strict=True)]
    captions = {
        "a teacher's mask, and the true boxes": "made by hand: the true mask, coarse, with noise",
        "the same, gated": "classes only where a true box of theirs is",
    }
    return [
        Sample(Image.fromarray(scene.picture), source, label=label, mask=read_mask(maps[0], fit), boxes=boxes)
        for (label, source), maps in zip(captions.items(), (before, after), strict=True)
    ]


def _noisy_map(mask: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Logits [1, C, cells, cells]: the true classes, noise, and patches where another class wins."""
    coarse = np.asarray(Image.fromarray(mask).resize((_CELLS, _CELLS), Image.Resampling.NEAREST))
    true = np.where(coarse == IGNORE_INDEX, 0, coarse)
    logits = 3.0 * np.eye(len(SEGMENTED_CLASSES))[true] + rng.normal(0, 0.6, (_CELLS, _CELLS, len(SEGMENTED_CLASSES)))
    for label in rng.choice(np.arange(1, len(SEGMENTED_CLASSES)), size=3, replace=False):
        row, column = rng.integers(0, _CELLS - 2, size=2)
        logits[row : row + 3, column : column + 3, label] += 5.0
    return torch.from_numpy(logits).permute(2, 0, 1)[None].float()
