"""The picture that a person looks at: mask tint and contours, boxes with labels, the class above, the legend below."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from onehead_cli.datasets.layout import IMAGENETTE_NAMES
from onehead_cli.decode import Detections
from onehead_cli.types import Task

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont
#: x1 y1 x2 y2 in pixels of the drawing.
Rect = tuple[float, float, float, float]

#: Small pictures are enlarged and large ones reduced until the longer side is between these.
_MIN_SIDE, _MAX_SIDE = 640, 1280
#: A thinner picture is drawn amid a dark area of at least this width and height, so that text has room.
_MIN_AREA = (400, 160)
_TINT = 0.45
#: Of the next most probable classes, those from here on stand in the banner.
_ALSO_LIKELY = 0.05

_DARK, _LIGHT, _GREY = (22, 24, 29), (245, 246, 248), (150, 155, 165)
#: Told apart on dark and on bright pictures; more classes get colours of other hues.
_COLOURS = bytes.fromhex(
    "ff4d4d 3cb4ff ffd21f 3ddc72 ff8c2e c77dff 19e0d2 ff5fc4 b4f03c 5b7cff e6a8ff f7c59f "
    "00a878 b5651d ff9d9d 9fd8ff a89000 8a4fff d81159 7fb800 aaffc3 fff3a0 00708a bc5090"
)


def readable(name: str) -> str:
    """The class name as a person would say it; ImageNet's folder names have one."""
    return IMAGENETTE_NAMES.get(name, name)


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
        names = dict.fromkeys([*self.box_names, *self.mask_names[1:]])
        self._colours = {name: _colour(place) for place, name in enumerate(names)}

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
        font = ImageFont.load_default(size=9 + max(drawing.size) / 75)
        assert isinstance(font, Font)
        line = round(font.size * 1.75)
        width, height = (max(side, least) for side, least in zip(drawing.size, _MIN_AREA, strict=True))
        top = line if likely else 0
        legend = _legend_rows(self._shares(mask), font, line, width)
        canvas = Image.new("RGB", (width, top + height + line * len(legend)), _DARK)
        x, y = (width - drawing.width) // 2, top + (height - drawing.height) // 2
        canvas.paste(drawing if mask is None else self._tinted(drawing, mask), (x, y))
        draw = ImageDraw.Draw(canvas)
        if boxes is not None:
            scale = np.array([drawing.width / size[0], drawing.height / size[1]] * 2)
            placed = boxes.boxes * scale + [x, y, x, y]
            self._draw_boxes(draw, boxes, placed, (0, top, width, top + height), font)
        if likely:
            _draw_banner(draw, likely, font, line, width)
        for row, entries in enumerate(legend):
            self._draw_legend(draw, entries, font, top + height + row * line, line)
        return canvas

    def _shares(self, mask: NDArray[np.uint8] | None) -> list[tuple[str, float]]:
        """The classes in the mask but the background, and the share of the picture that each covers; largest first."""
        if mask is None:
            return []
        counts = np.bincount(mask.ravel(), minlength=len(self.mask_names))
        order = [int(i) for i in np.argsort(-counts, kind="stable") if i and counts[i]]
        return [(self.mask_names[i], float(counts[i] / mask.size)) for i in order]

    def _tinted(self, drawing: Image.Image, mask: NDArray[np.uint8]) -> Image.Image:
        labels = Image.fromarray(mask).resize(drawing.size, Image.Resampling.NEAREST)
        if drawing.width >= 2 * mask.shape[1]:
            labels = labels.filter(ImageFilter.ModeFilter(7))  # takes the stairs off enlarged pixels
        reach = 7 if max(drawing.size) > 900 else 5
        highest, lowest = labels.filter(ImageFilter.MaxFilter(reach)), labels.filter(ImageFilter.MinFilter(reach))
        label = np.asarray(labels)
        colours = np.array([(0, 0, 0), *(self._colours[name] for name in self.mask_names[1:])], dtype=np.uint8)
        # 0 where the picture shows, 1 on contours.
        strength = np.where(label > 0, _TINT, 0.0).astype(np.float32)
        strength[(np.asarray(highest) != np.asarray(lowest)) & (label > 0)] = 1.0
        colour = Image.fromarray(colours[label])
        return Image.composite(colour, drawing, Image.fromarray((strength * 255).astype(np.uint8)))

    def _draw_boxes(
        self,
        draw: ImageDraw.ImageDraw,
        boxes: Detections,
        placed: NDArray[np.float64],
        area: Rect,
        font: Font,
    ) -> None:
        thick = max(2, round(font.size / 7))
        for index in reversed(range(len(placed))):  # the best on top
            x1, y1, x2, y2 = placed[index].round().tolist()
            frame = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
            draw.rectangle(_grown(frame, 1), outline=_DARK, width=thick + 2)
            draw.rectangle(frame, outline=self._colours[self.box_names[boxes.labels[index]]], width=thick)
        taken: list[Rect] = []
        for rect, label, score in zip(placed.tolist(), boxes.labels, boxes.scores, strict=True):
            name = self.box_names[label]
            colour = self._colours[name]
            text = _shortened(f"{name} {score:.2f}", font, area[2] - area[0] - font.size)
            size = font.getlength(text) + font.size * 0.6, font.size * 1.3
            place = place_label(rect, size, area, taken)
            taken.append(place)
            draw.rectangle(place, fill=colour)
            draw.text(_centre(place), text, font=font, fill=_contrast(colour), anchor="mm")

    def _draw_legend(
        self,
        draw: ImageDraw.ImageDraw,
        entries: list[tuple[float, str, str]],
        font: Font,
        y: float,
        line: int,
    ) -> None:
        side = font.size * 0.8
        for x, name, text in entries:
            swatch = (x, y + (line - side) / 2, x + side, y + (line + side) / 2)
            draw.rectangle(swatch, fill=self._colours[name])
            draw.text((x + side * 1.5, y + line / 2), text, font=font, fill=_LIGHT, anchor="lm")


def place_label(box: Sequence[float], size: tuple[float, float], area: Rect, taken: Sequence[Rect]) -> Rect:
    """Where the label of a box stands: at one of its corners where that is free, else below or above, inside the area.

    Args:
        box: x1 y1 x2 y2. size: width and height of the label. area: what it may not leave.
        taken: the labels that are there already.
    """
    (x1, y1, x2, y2), (width, height) = box, size
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y1), (x1, y2 - height)]
    steps = range(1, int((area[3] - area[1]) / height))
    for x, y in [*corners, *((x1, y1 + height * step * way) for step in steps for way in (1, -1))]:
        place = _inside((x, y, x + width, y + height), area)
        if not any(_overlap(place, other) for other in taken):
            return place
    return _inside((x1, y1 - height, x1 + width, y1), area)


def _inside(rect: Rect, area: Rect) -> Rect:
    x1, y1, x2, y2 = rect
    x = max(area[0], min(x1, area[2] - (x2 - x1) - 1))
    y = max(area[1], min(y1, area[3] - (y2 - y1) - 1))
    return x, y, x + x2 - x1, y + y2 - y1


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _grown(rect: Rect, by: float) -> Rect:
    return rect[0] - by, rect[1] - by, rect[2] + by, rect[3] + by


def _centre(rect: Rect) -> tuple[float, float]:
    return (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2


def _draw_banner(
    draw: ImageDraw.ImageDraw, likely: Sequence[tuple[str, float]], font: Font, line: int, width: int
) -> None:
    x = font.size * 0.6
    for place, (name, probability) in enumerate(likely):
        text = _shortened(f"{readable(name)} {probability:.0%}", font, width - font.size * 1.2)
        end = x + font.getlength(text)
        if place and (probability < _ALSO_LIKELY or end > width - font.size * 0.6):
            break
        draw.text((x, line / 2), text, font=font, fill=_GREY if place else _LIGHT, anchor="lm")
        x = end + font.size


def _legend_rows(
    shares: list[tuple[str, float]], font: Font, line: int, width: int
) -> list[list[tuple[float, str, str]]]:
    """Rows of (x, class name, text), as many entries in each as fit."""
    rows: list[list[tuple[float, str, str]]] = []
    margin, x = font.size * 0.6, float(width)
    for name, share in shares:
        text = _shortened(f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%", font, width - font.size * 2.4)
        length = font.size * 1.2 + font.getlength(text)
        if x + length > width - margin:
            rows.append([])
            x = margin
        rows[-1].append((x, name, text))
        x += length + font.size
    return rows


def _shortened(text: str, font: Font, width: float) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _colour(place: int) -> Colour:
    if 3 * place < len(_COLOURS):
        red, green, blue = _COLOURS[3 * place : 3 * place + 3]
        return red, green, blue
    # Steps of the golden section never come back to a hue.
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(place * 0.618034 % 1, 0.7, 0.95))
    return red, green, blue


def _contrast(colour: Colour) -> Colour:
    """Dark or light, whichever is read better on the colour."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return _DARK if luminance > 120 else _LIGHT
