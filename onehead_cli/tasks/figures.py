"""Diagrams of a result besides its scores, as plain values: a report draws them and lists the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onehead_cli.wording import readable

#: Of more classes a matrix cannot be read, and is larger than the rest of a page.
_MOST_CLASSES, _LARGEST = 40, 20
#: The mean distance of confidence and share that is right; see `reliability`.
CALIBRATION_ERROR = "expected calibration error"


@dataclass(frozen=True)
class Figure:
    """title: the same for all networks of a task. note: how it is read."""

    title: str
    note: str


@dataclass(frozen=True)
class Matrix(Figure):
    """values: a row per true class, a column per predicted one, 0..1; None in a row without anything true."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Lines(Figure):
    """series: points (x, y) by name, both 0..1. diagonal: x = y is what is wanted. summary: numbers by name."""

    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    diagonal: bool = False
    summary: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Bars(Figure):
    """values: by what is measured; None where there was nothing to measure. unit: what they are."""

    unit: str
    values: Mapping[str, float | None]


def shares_of_rows(counts: NDArray[np.int64], names: Sequence[str], *, title: str, note: str) -> Figure:
    """A confusion matrix [C, C] of counts as shares of each true class; of many classes, the largest confusions."""
    if len(names) > _MOST_CLASSES:
        wrong = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        np.fill_diagonal(wrong, 0.0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:_LARGEST]
        pairs = [divmod(int(place), len(names)) for place in order]
        largest = {f"{readable(names[a])} as {readable(names[b])}": float(wrong[a, b]) for a, b in pairs if wrong[a, b]}
        return Bars(title, f"{note} Only the largest are shown; a CSV has all of them.", "share", largest)
    values = [[count / sum(row) if sum(row) else None for count in row] for row in counts.tolist()]
    called = [readable(name) for name in names]
    return Matrix(title, note, called, called, values)


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], *, bins: int = 10
) -> tuple[list[tuple[float, float]], float | None]:
    """Points (mean confidence, share that is right) of equally wide bins, empty ones left out, and the expected
    calibration error: the mean distance of the two, each bin by its number (Guo et al., arXiv 1706.04599).

    Args: confidence: 0..1, float [n]. right: bool [n].
    """
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    points, error = [], 0.0
    for place in np.unique(places):
        chosen = places == place
        x, y = float(confidence[chosen].mean()), float(right[chosen].mean())
        points.append((x, y))
        error += abs(x - y) * chosen.sum() / len(places)
    return points, error if len(places) else None
