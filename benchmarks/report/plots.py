"""The plots of the page: val scores, losses and task weights per epoch; thin lines are seeds, thick ones means."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task
from report.data import FULL, Document, Results
from report.text import SCORE_LABELS

#: Told apart by all kinds of colour vision (Okabe and Ito).
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
TASK_COLOURS = {"cls": BLUE, "seg": ORANGE, "det": GREEN}
#: Least distance of two labels, as a share of the height of the panel.
_LABEL_GAP = 0.075

#: (epoch, value) of one seed.
Line = list[tuple[int, float]]


def plot_scores(results: Results, path: Path) -> None:
    """Val per epoch of the unified network, the baselines and the specialists, one panel per task."""
    figure, panels = _panels(len(TASKS))
    finals = results.finals[FULL].values()
    student = [(doc["networks"]["all"]["epochs"], doc["networks"]["all"]["best_epoch"]) for doc in finals]
    for task, axes in zip(TASKS, panels, strict=True):
        metric = get_task(task).metric.key
        teacher = [(doc["networks"][task]["epochs"], doc["networks"][task]["best_epoch"]) for doc in finals]
        specialist = [(doc["epochs"], doc["epoch"]) for doc in results.specialists[task].values()]
        named = [("unified", BLUE, student), ("baseline", ORANGE, teacher), ("specialist", GREEN, specialist)]
        series = []
        for name, colour, runs in named:
            series.append((name, colour, _lines([epochs for epochs, _ in runs], "val", metric)))
            for epochs, chosen in runs:
                value = next(epoch["val"][metric] for epoch in epochs if epoch["epoch"] == chosen)
                axes.plot(chosen, value, "o", color=colour, markersize=4)
        _draw(axes, series)
        axes.set_title(f"{SCORE_LABELS[task]} on val", loc="left", fontsize=10)
    _save(figure, path)


def plot_losses(results: Results, path: Path) -> None:
    """The student's losses per epoch: of the tasks, and of the distillation."""
    figure, panels = _panels(2)
    epochs = [doc["networks"]["all"]["epochs"] for doc in results.finals[FULL].values()]
    for axes, prefix, title in zip(panels, ("", "kd_"), ("task losses", "distillation losses"), strict=True):
        _draw(axes, [(t, TASK_COLOURS[t], _lines(epochs, "losses", f"{prefix}{t}")) for t in TASKS])
        axes.set_title(f"student, {title}", loc="left", fontsize=10)
        axes.set_ylim(bottom=0)
    _save(figure, path)


def plot_weights(results: Results, path: Path) -> None:
    """The student's task weights, which add up to 1."""
    figure, [axes] = _panels(1)
    epochs = [doc["networks"]["all"]["epochs"] for doc in results.finals[FULL].values()]
    _draw(axes, [(t, TASK_COLOURS[t], _lines(epochs, "weights", t)) for t in TASKS])
    axes.set_title("student, weight of each task's loss", loc="left", fontsize=10)
    # From 0, or weights that hardly leave a third would fill the panel.
    axes.set_ylim(0, 1)
    _save(figure, path)


def _lines(runs: Iterable[Sequence[Document]], section: str, key: str) -> list[Line]:
    """A line per run, of the epochs that have the value."""
    found = [[(e["epoch"], e[section][key]) for e in epochs if e[section].get(key) is not None] for epochs in runs]
    return [line for line in found if line]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.4 * count if count > 1 else 6, 2.9), dpi=100, layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure, panels


def _draw(axes: Axes, series: Sequence[tuple[str, str, list[Line]]]) -> None:
    """Each series with its name at the end of its mean; a series without a line is left out."""
    ends = []
    for name, colour, lines in series:
        if not lines:
            continue
        for line in lines if len(lines) > 1 else ():
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=0.7, alpha=0.45)
        centre = _mean_line(lines)
        axes.plot(*zip(*centre, strict=True), color=colour, linewidth=2, marker="o" if len(centre) == 1 else "")
        ends.append((centre[-1], name, colour))
    if not ends:
        return
    last = max(x for (x, _), _, _ in ends)
    low, high = axes.get_ylim()
    for y, ((_, true_y), name, colour) in zip(_spread([y for (_, y), _, _ in ends], high - low), ends, strict=True):
        text = f" {name} {true_y:.3g}"
        axes.annotate(text, (last, y), color=colour, fontsize=8, va="center", annotation_clip=False)
    axes.margins(x=0.02)


def _mean_line(lines: list[Line]) -> Line:
    """Of the epochs that all seeds have."""
    tables = [dict(line) for line in lines]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    return [(epoch, statistics.fmean(table[epoch] for table in tables)) for epoch in common]


def _spread(heights: Sequence[float], span: float) -> list[float]:
    """The heights, moved up where labels would lie on each other."""
    places = list(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for below, index in itertools.pairwise(order):
        places[index] = max(places[index], places[below] + _LABEL_GAP * span)
    return places


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the date and version, so that the same results give the same file.
    figure.savefig(path, metadata={"Software": None})
