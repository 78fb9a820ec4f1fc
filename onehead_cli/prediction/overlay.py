"""The picture that a person looks at: mask tint and contours, boxes with labels, the class above, the legend below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onehead_cli.drawing import (
    DARK,
    GREY,
    LIGHT,
    Font,
    Rect,
    class_colours,
    draw_boxes,
    draw_legend,
    legend_rows,
    load_font,
    shortened,
    tinted,
)
from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.types import Task
from onehead_cli.wording import readable

#: Small pictures are enlarged and large ones reduced until the longer side is between these.
_MIN_SIDE, _MAX_SIDE = 640, 1280

#: A thinner picture is drawn amid a dark area of at least this width and height, so that text has room.
_MIN_AREA = (400, 160)

#: Of the next most probable classes, those from here on stand in the banner.
_ALSO_LIKELY = 0.05


def drawing_copy(picture: Image.Image) -> Image.Image:
    """The picture at the size it is drawn at; the original need not be kept."""
    longer = max(picture.size)
    scale = min(max(longer, _MIN_SIDE), _MAX_SIDE) / longer
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


class Painter:
    """Draws predictions; a class has the same colour in every picture, and in mask and boxes."""

    def __init__(self, classes: Mapping[Task, Sequence[str]]) -> None:
        """Args: classes: the class names of every task, the mask's background first."""
        self.box_names = list(classes.get(Task.DET, ()))
        self.mask_names = list(classes.get(Task.SEG, ()))
        self._colours = class_colours([*self.box_names, *self.mask_names[1:]])
        self._mask_colours = np.array([DARK, *(self._colours[name] for name in self.mask_names[1:])], dtype=np.uint8)

    def paint(
        self,
        drawing: Image.Image,
        *,
        size: tuple[int, int],
        likely: Sequence[tuple[str, float]] = (),
        mask: NDArray[np.uint8] | None = None,
        boxes: Detections | None = None,
    ) -> Image.Image:
        """An RGB picture, larger than `drawing` by the banner and the legend.

        Args:
            drawing: from `drawing_copy`.
            size: width and height of the original picture, whose pixels mask and boxes refer to.
            likely: class names and probabilities, best first.
            mask: uint8 [height, width], class indices.
            boxes: what to draw.
        """
        font = load_font(9 + max(drawing.size) / 75)
        line = round(font.size * 1.75)
        width, height = (max(side, least) for side, least in zip(drawing.size, _MIN_AREA, strict=True))
        top = line if likely else 0
        legend = legend_rows(self._shares(mask), font, width)
        canvas = Image.new("RGB", (width, top + height + line * len(legend)), DARK)
        x, y = (width - drawing.width) // 2, top + (height - drawing.height) // 2
        canvas.paste(drawing if mask is None else tinted(drawing, mask, self._mask_colours), (x, y))
        draw = ImageDraw.Draw(canvas)
        if boxes is not None:
            scale = np.array([drawing.width / size[0], drawing.height / size[1]] * 2)
            placed = boxes.boxes * scale + [x, y, x, y]
            self._draw_boxes(draw, boxes, placed, (0, top, width, top + height), font)
        if likely:
            _draw_banner(draw, likely, font, line, width)
        for row, entries in enumerate(legend):
            draw_legend(draw, entries, self._colours, font, top + height + row * line, line)
        return canvas

    def _shares(self, mask: NDArray[np.uint8] | None) -> list[tuple[str, str]]:
        """The classes in the mask but the background, each with the share of the picture it covers; largest first."""
        if mask is None:
            return []
        counts = np.bincount(mask.ravel(), minlength=len(self.mask_names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if i and counts[i]]
        shares = [(self.mask_names[i], float(counts[i] / mask.size)) for i in order]
        return [(name, f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%") for name, share in shares]

    def _draw_boxes(
        self, draw: ImageDraw.ImageDraw, boxes: Detections, placed: NDArray[np.float64], area: Rect, font: Font
    ) -> None:
        names = [self.box_names[label] for label in boxes.labels]
        texts = [f"{name} {score:.2f}" for name, score in zip(names, boxes.scores, strict=True)]
        draw_boxes(draw, placed.tolist(), texts, [self._colours[name] for name in names], area=area, font=font)


def _draw_banner(
    draw: ImageDraw.ImageDraw, likely: Sequence[tuple[str, float]], font: Font, line: int, width: int
) -> None:
    x = font.size * 0.6
    for place, (name, probability) in enumerate(likely):
        text = shortened(f"{readable(name)} {probability:.0%}", font, width - font.size * 1.2)
        end = x + font.getlength(text)
        if place and (probability < _ALSO_LIKELY or end > width - font.size * 0.6):
            break
        draw.text((x, line / 2), text, font=font, fill=GREY if place else LIGHT, anchor="lm")
        x = end + font.size
