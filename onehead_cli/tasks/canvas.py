"""What the tasks put on the drawing of an image: a banner, tints, boxes, legend, further panels beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    shortened,
    tinted,
)
from onehead_cli.fonts import Font

#: Small images are enlarged and large ones reduced until the longer side is between these.
_MIN_SIDE, _MAX_SIDE = 640, 1280
#: A thinner image is drawn amid a dark area of at least this width and height, so that text has room.
_MIN_AREA = (400, 160)
#: Of the next most probable classes, those from here on stand in the banner.
_ALSO_LIKELY = 0.05


def drawing_copy(image: Image.Image) -> Image.Image:
    """The image at the size it is drawn at; the original need not be kept."""
    longer = max(image.size)
    scale = min(max(longer, _MIN_SIDE), _MAX_SIDE) / longer
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


@dataclass(frozen=True)
class Boxes:
    """x1 y1 x2 y2 in pixels of the original image, float [n, 4], best first; names of their classes; their labels."""

    corners: NDArray[np.float64]
    names: Sequence[str]
    texts: Sequence[str]


@dataclass
class Canvas:
    """The drawing of one image.

    colours: of classes, the same in all drawings.
    banner: what classes are called (`drawing.class_text`) and their probabilities, best first.
    tint: uint8 [height, width] labels and uint8 [labels, 3] their colours; 0 is not tinted.
    legend: (class name, text).
    panels: further drawings beside it, at any size.
    """

    colours: Mapping[str, Colour]
    banner: Sequence[tuple[str, float]] = ()
    tint: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
    boxes: Boxes | None = None
    legend: Sequence[tuple[str, str]] = ()
    panels: list[Image.Image] = field(default_factory=list)

    def render(self, drawing: Image.Image, size: tuple[int, int], *, least: tuple[int, int] = _MIN_AREA) -> Image.Image:
        """An RGB image, larger than `drawing` by the banner, the legend and the panels.

        Args:
            drawing: from `drawing_copy`.
            size: width and height of the original image, whose pixels labels and boxes refer to.
            least: width and height of the area that a thinner image is drawn amid.
        """
        font = Font(9 + max(drawing.size) / 75)
        line = round(font.size * 1.75)
        width, height = (max(side, least) for side, least in zip(drawing.size, least, strict=True))
        whole = width * (1 + len(self.panels))
        top = line if self.banner else 0
        legend = legend_rows(self.legend, font, whole)
        canvas = Image.new("RGB", (whole, top + height + line * len(legend)), DARK)
        x, y = (width - drawing.width) // 2, top + (height - drawing.height) // 2
        canvas.paste(drawing if self.tint is None else tinted(drawing, *self.tint), (x, y))
        for place, panel in enumerate(self.panels, start=1):
            canvas.paste(panel.resize(drawing.size, Image.Resampling.BILINEAR), (place * width + x, y))
        draw = ImageDraw.Draw(canvas)
        if self.boxes is not None:
            scale = np.array([drawing.width / size[0], drawing.height / size[1]] * 2)
            placed = (self.boxes.corners * scale + [x, y, x, y]).tolist()
            colours = [self.colours[name] for name in self.boxes.names]
            area: Rect = (0, top, width, top + height)
            draw_boxes(draw, placed, self.boxes.texts, colours, area=area, font=font)
        if self.banner:
            _draw_banner(draw, self.banner, font, line, width)
        for row, entries in enumerate(legend):
            draw_legend(draw, entries, self.colours, font, top + height + row * line, line)
        return canvas


def _draw_banner(
    draw: ImageDraw.ImageDraw, likely: Sequence[tuple[str, float]], font: Font, line: int, width: int
) -> None:
    x = font.size * 0.6
    for place, (name, probability) in enumerate(likely):
        text = shortened(f"{name} {probability:.0%}", font, width - font.size * 1.2)
        end = x + font.length(text)
        if place and (probability < _ALSO_LIKELY or end > width - font.size * 0.6):
            break
        font.write(draw, (x, line / 2), text, fill=GREY if place else LIGHT)
        x = end + font.size
