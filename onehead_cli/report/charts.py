"""The diagrams of the report as SVG. Colours are variables of the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

#: How the networks are told apart, by their place: by colour, and by the shape of a point or the dashes of a line.
_DASHES = ("", "6 3", "2 3", "8 2 2 2")
_WIDTH = 640


def forest(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The interval of each verdict against its limit.

    A gain lies to the right, whichever direction of the score is better. Rows of different units are different plots.
    """
    units = dict.fromkeys(row["unit"] for row in rows)
    return Markup("").join(_forest([row for row in rows if row["unit"] == unit], unit) for unit in units)


def _forest(rows: Sequence[Mapping[str, Any]], unit: str) -> Markup:
    spans = [_gains(row) for row in rows]
    scale, ticks = _axis(
        [value for low, gain, high, floor in spans for value in (low, gain, high, floor)] + [0.0], (170, _WIDTH - 16)
    )
    height = 34 * len(rows)
    parts = [_line(scale(0.0), 0, scale(0.0), height, "axis")]
    for place, (row, (low, gain, high, floor)) in enumerate(zip(rows, spans, strict=True)):
        y = 34 * place + 17
        name = row["title"] if row["against"] == "teacher" else f"{row['label']}, {row['against']}"
        parts += [
            _text(0, y + 4, _short(name, 26)),
            _line(scale(floor), y - 14, scale(floor), y + 14, "limit"),
            _line(scale(low), y, scale(high), y, f"interval {row['verdict'].lower()}"),
            Markup('<circle class="point {}" cx="{:.1f}" cy="{}" r="5"/>').format(
                row["verdict"].lower(), scale(gain), y
            ),
        ]
    for tick, text in ticks:
        parts += [
            _line(scale(tick), height, scale(tick), height + 5, "axis"),
            _text(scale(tick), height + 18, text, "middle"),
        ]
    label = f"gain{f' in {unit}' if unit else ''}: to the right the student is better; the dashed line is the limit"
    parts.append(_text(_WIDTH / 2, height + 36, label, "middle"))
    words = "; ".join(f"{row['title']}: {row['verdict']}, {row['low']:+.3f} to {row['high']:+.3f}" for row in rows)
    return _svg(height + 42, parts, f"Forest plot of the differences. {words}")


def _gains(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The lowest, the measured and the highest gain, and the limit."""
    low, high = sorted((row["sign"] * row["low"], row["sign"] * row["high"]))
    return low, row["sign"] * row["diff"], high, -row["limit"] * (row["baseline"] if row["relative"] else 1)


def matrix(figure: Mapping[str, Any], label: str) -> Markup:
    """A confusion matrix, dark where much is."""
    rows, columns = figure["rows"], figure["columns"]
    cell = max(10, min(26, 420 // max(len(columns), 1)))
    left, top = 150, 20
    parts = []
    for y, (name, values) in enumerate(zip(rows, figure["values"], strict=True)):
        parts.append(_text(left - 6, top + cell * (y + 0.5) + 4, _short(name), "end"))
        for x, value in enumerate(values):
            if not value:
                continue
            told = f"{name}, predicted as {columns[x]}: {value:.0%}"
            rect = Markup(
                '<rect class="cell" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.3f}"><title>{}</title></rect>'
            )
            parts.append(rect.format(left + cell * x, top + cell * y, cell - 1, cell - 1, value, told))
    bottom = top + cell * len(rows)
    parts.append(
        Markup('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>').format(
            left, top, cell * len(columns), cell * len(rows)
        )
    )
    parts += [
        Markup('<text transform="translate({:.1f} {}) rotate(55)" class="small">{}</text>').format(
            left + cell * (x + 0.35), bottom + 8, _short(name)
        )
        for x, name in enumerate(columns)
    ]
    width = max(left + cell * len(columns) + 90, 320)
    return _svg(bottom + 110, parts, f"{figure['note']} {label}.", width=width)


def lines(figures: Mapping[str, Mapping[str, Any]], *, colours: Mapping[str, int]) -> Markup:
    """The series of the networks in one square of 0..1 by 0..1."""
    first = next(iter(figures.values()))

    def x(value: float) -> float:
        return 46 + 300 * value

    def y(value: float) -> float:
        return 310 - 300 * value

    parts = [_line(x(0), y(0), x(1), y(0), "axis"), _line(x(0), y(0), x(0), y(1), "axis")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [_text(x(tick), y(0) + 16, f"{tick:g}", "middle"), _text(x(0) - 6, y(tick) + 4, f"{tick:g}", "end")]
    parts += [_text(x(0.5), y(0) + 34, first["x"], "middle"), _text(x(0) + 6, y(1) + 4, first["y"])]
    if first["diagonal"]:
        parts.append(_line(x(0), y(0), x(1), y(1), "limit"))
    for label, figure in figures.items():
        for points in figure["series"].values():
            parts += _curve([(x(a), y(b)) for a, b in points], colours[label], marked=len(points) <= 15)
    return _svg(350, parts, f"{first['note']}", width=360)


def bars(figures: Mapping[str, Mapping[str, Any]], *, colours: Mapping[str, int]) -> Markup:
    """A group of bars per entry, one of each network."""
    names = list(next(iter(figures.values()))["values"])
    most = max((value or 0.0 for figure in figures.values() for value in figure["values"].values()), default=0.0) or 1.0
    step = 16 * len(figures) + 10
    parts = []
    for place, name in enumerate(names):
        parts.append(_text(210, step * place + step / 2, _short(name, 34), "end"))
        for row, (label, figure) in enumerate(figures.items()):
            value = figure["values"][name]
            top = step * place + 16 * row
            width = 340 * (value or 0.0) / most
            parts.append(
                Markup('<rect class="bar c{}" x="216" y="{}" width="{:.1f}" height="13"/>').format(
                    colours[label], top, width
                )
            )
            parts.append(_text(222 + width, top + 11, _amount(value)))
    return _svg(step * len(names) + 4, parts, "Bars; the numbers are in the table below.")


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    colours: Mapping[str, int],
    x: str,
    y: str,
) -> Markup:
    """Curves over training, from 0 up."""
    xs = [a for points in series.values() for a, _ in points]
    ys = [b for points in series.values() for _, b in points] + [0.0]
    if not xs:
        return Markup("")
    across, ticks = _axis(xs, (46, 470))
    up, marks = _axis(ys, (180, 24))
    parts = [_line(46, 180, 470, 180, "axis"), _line(46, 180, 46, 24, "axis")]
    for tick, text in ticks:
        parts.append(_text(across(tick), 196, text, "middle"))
    for tick, text in marks:
        parts.append(_text(42, up(tick) + 4, text, "end"))
    parts += [_text(258, 214, x, "middle"), _text(46, 14, y)]
    for label, points in series.items():
        parts += _curve([(across(a), up(b)) for a, b in points], colours[label], marked=len(points) <= 3)
    # The names at the ends of the curves, from the lowest up, each above the one before it.
    ends = sorted(((up(points[-1][1]) + 4, label) for label, points in series.items() if points), reverse=True)
    before = math.inf
    for wanted, label in ends:
        before = min(wanted, before - 12)
        parts.append(_text(476, before, _short(label, 20)))
    return _svg(220, parts, f"{y} over {x}; the numbers are in the table below.", width=600)


def _curve(points: Sequence[tuple[float, float]], colour: int, *, marked: bool) -> list[Markup]:
    if not points:
        return []
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    found = [
        Markup('<polyline class="curve c{}" points="{}" stroke-dasharray="{}"/>').format(
            colour, path, _DASHES[colour % len(_DASHES)]
        )
    ]
    if marked:
        found += [_mark(x, y, colour) for x, y in points]
    return found


def _mark(x: float, y: float, colour: int) -> Markup:
    if colour % 2:
        return Markup('<rect class="mark c{}" x="{:.1f}" y="{:.1f}" width="7" height="7"/>').format(
            colour, x - 3.5, y - 3.5
        )
    return Markup('<circle class="mark c{}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(colour, x, y)


def _axis(
    values: Iterable[float], ends: tuple[float, float]
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """From values to pixels, and round ticks with their texts."""
    found = list(values)
    low, high = min(found), max(found)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    margin = (high - low) * 0.04
    low, high = low - margin, high + margin
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    ticks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    first, last = ends
    return (lambda value: first + (last - first) * (value - low) / (high - low)), [
        (tick, f"{tick:.4g}") for tick in ticks
    ]


def _svg(height: float, parts: Iterable[Markup], words: str, *, width: int = _WIDTH) -> Markup:
    return Markup('<svg viewBox="0 0 {} {:.0f}" width="{}" role="img" aria-label="{}">{}</svg>').format(
        width, height, width, words, Markup("").join(parts)
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:.3f}"
