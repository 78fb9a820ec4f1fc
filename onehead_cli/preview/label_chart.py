"""Horizontal bars: how often each class is in each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from onehead_cli.drawing import Colour, class_colours, shortened
from onehead_cli.fonts import Font

_BAR, _GAP, _MARGIN = 13, 9, 20
_BAR_WIDTH, _VALUE_WIDTH = 360, 76
_MOST_ROWS = 100
_BLACK, _PALE = (30, 33, 38), (224, 226, 230)
#: Of the splits; told apart in grey too. Further splits get other colours.
_COLOURS = ((38, 70, 120), (232, 145, 45), (70, 160, 130))


@dataclass(frozen=True)
class Panel:
    """One diagram; values[split][i] belongs to the i-th row."""

    title: str
    values: Mapping[str, Sequence[int]]


def draw_chart(rows: Sequence[str], panels: Sequence[Panel], *, splits: Mapping[str, str]) -> Image.Image:
    """The panels side by side over the same rows, as RGB; of very many rows the largest of the first panel.

    Args:
        rows: class names.
        splits: what the legend says of each split.
    """
    totals = [sum(values[row] for values in panels[0].values.values()) for row in range(len(rows))]
    order = sorted(sorted(range(len(rows)), key=lambda row: -totals[row])[:_MOST_ROWS])
    bold, font, small = Font(17), Font(14), Font(12)
    names = [shortened(rows[row], font, 600) for row in order]
    left = _MARGIN + round(max((font.length(name) for name in names), default=0)) + 10
    panel_width = _BAR_WIDTH + _VALUE_WIDTH + _MARGIN
    group = _BAR * len(splits) + _GAP
    more = f"and {len(rows) - len(order)} more classes" if len(order) < len(rows) else ""
    top = _MARGIN + 24 * len(splits) + 40
    height = top + group * len(order) + (30 if more else 0) + _MARGIN
    legend_width = round(22 + max(font.length(text) for text in splits.values()) + _MARGIN)
    chart = Image.new("RGB", (left + max(panel_width * len(panels), legend_width), height), "white")
    draw = ImageDraw.Draw(chart)
    colours = split_colours(list(splits))
    for place, (split, text) in enumerate(splits.items()):
        y = _MARGIN + 24 * place
        draw.rectangle((left, y, left + 14, y + 14), fill=colours[split])
        font.write(draw, (left + 22, y + 7), text, fill=_BLACK)
    for line, name in enumerate(names):
        y = top + group * line
        draw.line((_MARGIN, y - _GAP // 2 - 1, chart.width - _MARGIN, y - _GAP // 2 - 1), fill=_PALE)
        font.write(draw, (left - 10, y + _BAR * len(splits) / 2), name, fill=_BLACK, align="right")
    for place, panel in enumerate(panels):
        x = left + panel_width * place
        bold.write(draw, (x, top - 26), panel.title, fill=_BLACK)
        highest = max((values[row] for values in panel.values.values() for row in order), default=0) or 1
        for line, row in enumerate(order):
            for band, split in enumerate(splits):
                value, y = panel.values[split][row], top + group * line + _BAR * band
                length = round(_BAR_WIDTH * value / highest)
                # What is not there at all has no bar; what is there has one of a pixel at least.
                if value:
                    draw.rectangle((x, y, x + max(length, 1), y + _BAR - 2), fill=colours[split])
                small.write(draw, (x + length + 6, y + _BAR / 2 - 1), short_number(value), fill=_BLACK)
        draw.line((x, top - _GAP // 2, x, top + group * len(order) - _GAP), fill=_BLACK)
    if more:
        font.write(draw, (left, height - _MARGIN - 15), more, fill=_BLACK)
    return chart


def split_colours(splits: Sequence[str]) -> dict[str, Colour]:
    further = class_colours(splits)
    return {split: _COLOURS[place] if place < len(_COLOURS) else further[split] for place, split in enumerate(splits)}


def short_number(value: int) -> str:
    """At most seven characters: 12,345 or 12.3 M."""
    for limit, sign in ((10**9, " G"), (10**6, " M")):
        if value >= limit:
            return f"{value / limit:.3g}{sign}" if value < 1000 * limit else f"{value // limit:,}{sign}"
    return f"{value:,}"
