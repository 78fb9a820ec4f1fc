"""report.html: one file without a script or a request, drawn from what evaluate.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from onehead_cli.report import charts

_TEMPLATE = "report.html"


def render_page(details: Mapping[str, Any], images: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        details: from `report_details`. images: from `image_details`. document: what evaluate.json holds besides.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onehead_cli.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "signed": _signed, "count": _count, "share": _share}
    labels = list(dict.fromkeys(row["network"] for row in details["scores"]))
    colours = {label: place for place, label in enumerate(labels)}
    return environment.get_template(_TEMPLATE).render(
        d=details, images=images, document=document, charts=charts, colours=colours, labels=labels, runs=_runs(details)
    )


def _runs(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each training with its curves by title."""
    found = []
    for run in details["training"]:
        epochs = run["epochs"]
        plots = {
            title: {
                name: [(row["epoch"], row[key][name]) for row in epochs if row[key].get(name) is not None]
                for name in dict.fromkeys(name for row in epochs for name in row[key])
            }
            for title, key in (("loss", "losses"), ("score on val", "scores"), ("task weight", "weights"))
        }
        if len(plots["task weight"]) < 2:  # of one task it is always 1
            del plots["task weight"]
        found.append({**run, "plots": {title: series for title, series in plots.items() if any(series.values())}})
    return found


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
