"""A sheet of labelled images, four in a row: class names, tinted masks with a legend, boxes with names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onehead_cli.drawing import (
    DARK,
    GREY,
    LIGHT,
    Colour,
    Rect,
    draw_boxes,
    draw_legend,
    legend_rows,
    tinted,
    wrapped,
)
from onehead_cli.fonts import Font
from onehead_cli.tasks.labels import Label
from onehead_cli.wording import readable

COLUMNS = 4
#: What an image is fitted into, in pixels.
CELL = (400, 300)
MARGIN = 16
_LINE = 22
#: A box of this share of its cell has its name beside it.
_NAMED_FROM = 0.02


@dataclass
class Sample:
    """An image with its label.

    source: split and file, for the caption.
    ignored: what a region to ignore is called.
    """

    image: Image.Image
    source: str
    label: Label
    ignored: str = "crowd"


def draw_sheet(
    samples: Sequence[Sample],
    *,
    texts: Mapping[str, str] | None = None,
    box_colours: Mapping[str, Colour] | None = None,
    mask_colours: NDArray[np.uint8] | None = None,
    legend: Mapping[str, Colour] | None = None,
    columns: int = COLUMNS,
) -> Image.Image:
    """The sheet as RGB, CELL-sized images with MARGIN between them, captions below each and the legend at the end.

    Args:
        texts: what classes are called; without it, or of others, their readable names.
        box_colours: a colour for each class name of the boxes, where there are any.
        mask_colours: uint8 [256, 3], a colour for each label of the masks, where there are any.
        legend: the classes whose colours are explained below.
        columns: images in a row.
    """

    def called(name: str) -> str:
        return (texts or {}).get(name, readable(name))

    font, small = Font(16), Font(13)
    captions = [
        [(line, font, LIGHT) for line in (wrapped(called(s.label.text), font, CELL[0], most=3) if s.label.text else [])]
        + [(line, small, GREY) for line in wrapped(s.source, small, CELL[0])]
        for s in samples
    ]
    width = MARGIN + columns * (CELL[0] + MARGIN)
    rows = [range(first, min(first + columns, len(samples))) for first in range(0, len(samples), columns)]
    heights = [CELL[1] + MARGIN // 2 + _LINE * max(len(captions[i]) for i in row) + MARGIN for row in rows]
    entries = legend_rows([(name, called(name)) for name in legend or {}], font, width)
    canvas = Image.new("RGB", (width, MARGIN + sum(heights) + (_LINE + 6) * len(entries)), DARK)
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = MARGIN + column * (CELL[0] + MARGIN)
            canvas.paste(_cell(samples[index], box_colours or {}, mask_colours, called), (left, top))
            for line, (text, face, colour) in enumerate(captions[index]):
                y = top + CELL[1] + MARGIN // 2 + _LINE * (line + 0.5)
                face.write(draw, (left, y), text, fill=colour)
        top += height
    for line, entry in enumerate(entries):
        draw_legend(draw, entry, legend or {}, font, top + line * (_LINE + 6) - MARGIN / 2, _LINE)
    return canvas


def placed(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of an image of this size within its cell."""
    scale = min(CELL[0] / size[0], CELL[1] / size[1])
    width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (CELL[0] - width) // 2, (CELL[1] - height) // 2, width, height


def _cell(
    sample: Sample,
    box_colours: Mapping[str, Colour],
    mask_colours: NDArray[np.uint8] | None,
    called: Callable[[str], str],
) -> Image.Image:
    left, top, width, height = placed(sample.image.size)
    image = sample.image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if sample.label.mask is not None and mask_colours is not None:
        image = tinted(image, sample.label.mask, mask_colours)
    cell = Image.new("RGB", CELL, (0, 0, 0))
    cell.paste(image, (left, top))
    # Small boxes on top, and their names first, for they have less room.
    found = sorted(sample.label.boxes, key=lambda box: _area(box[0]))
    scale_x, scale_y = width / sample.image.width, height / sample.image.height
    boxes = [
        (left + x1 * scale_x, top + y1 * scale_y, left + x2 * scale_x, top + y2 * scale_y)
        for (x1, y1, x2, y2), _, _ in found
    ]
    draw_boxes(
        ImageDraw.Draw(cell),
        boxes,
        [_name(index, boxes, found, sample.ignored, called) for index in range(len(found))],
        [box_colours[name] for _, name, _ in found],
        area=(0, 0, *CELL),
        font=Font(13),
        dashed=[dashed for _, _, dashed in found],
    )
    return cell


def _name(
    index: int,
    placed_boxes: Sequence[Rect],
    boxes: Sequence[tuple[Rect, str, bool]],
    ignored: str,
    called: Callable[[str], str],
) -> str:
    """A large box has a name, and so has the largest of each kind; more would hide a crowded image."""
    _, name, dashed = boxes[index]
    is_last = not any((other, same) == (name, dashed) for _, other, same in boxes[index + 1 :])
    if not is_last and _area(placed_boxes[index]) < _NAMED_FROM * CELL[0] * CELL[1]:
        return ""
    return f"{called(name)} ({ignored})" if dashed else called(name)


def _area(box: Rect) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
