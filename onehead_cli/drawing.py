"""How labels look wherever they are drawn: colours of classes, tinted masks, boxes with names, legends."""

from __future__ import annotations

import bisect
import colorsys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from onehead_cli.fonts import Font, can_write, one_line
from onehead_cli.wording import how_many, readable

Colour = tuple[int, int, int]
#: x1 y1 x2 y2 in pixels of the drawing.
Rect = tuple[float, float, float, float]

DARK, LIGHT, GREY = (22, 24, 29), (245, 246, 248), (150, 155, 165)

_TINT = 0.45
#: Classes that the warning of `numbers_for_names` names.
_NAMED = 5
#: Told apart on dark and on bright images; more classes get colours of other hues.
_COLOURS = bytes.fromhex(
    "ff4d4d 3cb4ff ffd21f 3ddc72 ff8c2e c77dff 19e0d2 ff5fc4 b4f03c 5b7cff e6a8ff f7c59f "
    "00a878 b5651d ff9d9d 9fd8ff a89000 8a4fff d81159 7fb800 aaffc3 fff3a0 00708a bc5090"
)


def class_text(name: str, number: int) -> str:
    """What a class is called in a drawing: its readable name, or "#3" where no font here can write it."""
    return readable(name) if can_write(readable(name)) else f"#{number}"


def numbers_for_names(classes: Mapping[str, Sequence[str]]) -> str | None:
    """The warning that names the classes of which drawings show the numbers; None where there are none.

    Args:
        classes: names by task, in the order of their numbers.
    """
    found = [
        f"#{number} of {task} is '{readable(name)}'"
        for task, names in classes.items()
        for number, name in enumerate(names)
        if not can_write(readable(name))
    ]
    if not found:
        return None
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"no installed font can draw {how_many(len(found), 'class name')}, so the drawings show numbers: "
        f"{', '.join(found[:_NAMED])}{more}; install a font for that script, such as Noto Sans"
    )


def class_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each different name, in their order."""
    return {name: _colour(place) for place, name in enumerate(dict.fromkeys(names))}


def tinted(drawing: Image.Image, mask: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    """The image with the labels above 0 tinted and their contours solid.

    Args:
        mask: uint8 [height, width], at any size.
        colours: uint8 [labels, 3].
    """
    labels = Image.fromarray(mask).resize(drawing.size, Image.Resampling.NEAREST)
    if drawing.width >= 2 * mask.shape[1]:
        labels = labels.filter(ImageFilter.ModeFilter(7))  # takes the stairs off enlarged pixels
    reach = 7 if max(drawing.size) > 900 else 5
    highest, lowest = labels.filter(ImageFilter.MaxFilter(reach)), labels.filter(ImageFilter.MinFilter(reach))
    label = np.asarray(labels)
    # 0 where the image shows, 1 on contours.
    strength = np.where(label > 0, _TINT, 0.0).astype(np.float32)
    strength[(np.asarray(highest) != np.asarray(lowest)) & (label > 0)] = 1.0
    colour = Image.fromarray(colours[label])
    return Image.composite(colour, drawing, Image.fromarray((strength * 255).astype(np.uint8)))


def draw_boxes(
    draw: ImageDraw.ImageDraw,
    boxes: Sequence[Rect],
    texts: Sequence[str],
    colours: Sequence[Colour],
    *,
    area: Rect,
    font: Font,
    dashed: Sequence[bool] | None = None,
) -> None:
    """Frames and their labels, the first on top; `area` is what no label may leave.

    Args:
        texts: an empty one is a frame without a label.
        dashed: which frames have gaps; without it none.
    """
    thick = max(2, round(font.size / 7))
    for index in reversed(range(len(boxes))):
        x1, y1, x2, y2 = map(round, boxes[index])
        frame = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(_grown(frame, 1), outline=DARK, width=thick + 2)
        if dashed is not None and dashed[index]:
            _draw_dashes(draw, frame, colours[index], thick)
        else:
            draw.rectangle(frame, outline=colours[index], width=thick)
    taken: list[Rect] = []
    for rect, text, colour in zip(boxes, texts, colours, strict=True):
        if not text:
            continue
        shown = shortened(text, font, area[2] - area[0] - font.size)
        size = font.length(shown) + font.size * 0.6, font.size * 1.3
        place = place_label(rect, size, area, taken)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        font.write(draw, _centre(place), shown, fill=_contrast(colour), align="middle")


def _draw_dashes(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], colour: Colour, thick: int) -> None:
    x1, y1, x2, y2 = frame
    dash = 4 * thick
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, max(y1, y2 - thick + 1)):
            draw.rectangle((x, y, min(x + dash, x2), min(y + thick - 1, y2)), fill=colour)
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, max(x1, x2 - thick + 1)):
            draw.rectangle((x, y, min(x + thick - 1, x2), min(y + dash, y2)), fill=colour)


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


def legend_rows(entries: Sequence[tuple[str, str]], font: Font, width: int) -> list[list[tuple[float, str, str]]]:
    """Rows of (x, class name, text), as many of the (class name, text) in each as fit."""
    rows: list[list[tuple[float, str, str]]] = []
    margin, x = font.size * 0.6, float(width)
    for name, text in entries:
        shown = shortened(text, font, width - font.size * 2.4)
        length = font.size * 1.2 + font.length(shown)
        if x + length > width - margin:
            rows.append([])
            x = margin
        rows[-1].append((x, name, shown))
        x += length + font.size
    return rows


def draw_legend(
    draw: ImageDraw.ImageDraw,
    entries: Sequence[tuple[float, str, str]],
    colours: Mapping[str, Colour],
    font: Font,
    y: float,
    line: int,
) -> None:
    """One row of `legend_rows`, `line` pixels high, from y downwards."""
    side = font.size * 0.8
    for x, name, text in entries:
        swatch = (x, y + (line - side) / 2, x + side, y + (line + side) / 2)
        draw.rectangle(swatch, fill=colours[name])
        font.write(draw, (x + side * 1.5, y + line / 2), text, fill=LIGHT)


def shortened(text: str, font: Font, width: float) -> str:
    """The text in one line, or as much of its beginning as fits, with an ellipsis."""
    text = one_line(text)
    if font.length(text) <= width:
        return text
    # The longest beginning that fits is searched by halves: a name may have thousands of letters.
    fits = bisect.bisect_right(range(1, len(text)), width, key=lambda end: font.length(text[:end] + "…"))
    return text[:fits] + "…"


def wrapped(text: str, font: Font, width: float, *, most: int | None = None) -> list[str]:
    """The text in lines that fit, broken between words where it can be; most: lines, of which the last is cut."""
    lines = [""]
    for word in one_line(text).split():
        joined = f"{lines[-1]} {word}".strip()
        if font.length(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and font.length(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], shortened(" ".join(lines[most - 1 :]), font, width)]
    return lines


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
    return DARK if luminance > 120 else LIGHT
