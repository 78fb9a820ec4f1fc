"""The conversion of labels in pictures that are drawn on the spot, so that they may be passed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from onehead_cli.data.prepare.outlines import CLASSES
from onehead_cli.data.prepare.scenes import SEGMENTED_CLASSES, Scene, class_mask, draw_segmentation
from onehead_cli.drawing import LIGHT, class_colours
from onehead_cli.preview.sample_sheet import Sample, draw_sheet
from onehead_cli.tasks.boxes_from_masks import boxes_from_mask, shared_classes
from onehead_cli.tasks.labels import Label

_SIZE = 160
#: Mask label -> detection class.
_SHARED = shared_classes(SEGMENTED_CLASSES, CLASSES)


def write_conversions(path: Path) -> None:
    """True masks and boxes read out of them, doubtful ones dashed."""
    rng = np.random.default_rng(0)
    samples = [sample for scene in _with_doubt(rng) for sample in _boxes_for_masks(scene)]
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
    mask, picture = class_mask(scene), Image.fromarray(scene.image)
    found = boxes_from_mask(mask, _SHARED)
    boxes = [
        (tuple(box), CLASSES[label], bool(doubtful))
        for box, label, doubtful in zip(found.boxes.tolist(), found.labels, found.doubtful, strict=True)
    ]
    doubts = int(found.doubtful.sum())
    said = f"to learn from: {len(boxes) - doubts}; dashed, doubtful and ignored: {doubts}"
    return [
        Sample(picture, "a true mask of segmentation", Label(mask=mask)),
        Sample(picture, said, Label("boxes from the mask", mask, boxes), ignored="doubtful"),
    ]
