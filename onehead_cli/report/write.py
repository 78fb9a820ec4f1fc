"""Writes what an evaluation found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from onehead_cli.config.sections import Config
from onehead_cli.evaluation.compare import EvaluateResult
from onehead_cli.evaluation.report import write_report
from onehead_cli.files.json_files import SCHEMA


def write_files(result: EvaluateResult, config: Config, *, page: bool) -> list[Path]:
    """Write evaluate.json, its tables and, if it is wanted, report.html into the output folder.

    What the page shows is put into the result's document as well, under "report".

    Raises:
        OneheadError: a file cannot be written, or an image cannot be read again.
    """
    first = result.comparisons[0]
    write = partial(
        write_report, config.output, per_class=result.per_class(), drops=first.drops, curves=result.curves()
    )
    # Whatever the page meets with, the numbers are there.
    files = write({"schema": SCHEMA, **result.document})
    if not page:
        return files
    from onehead_cli.report.details import report_details, shown_networks
    from onehead_cli.report.page import render_page
    from onehead_cli.report.panels import image_details

    details = report_details(result, config)
    images = image_details(shown_networks(result, config), result.measurer, config)
    rendered = render_page(details, images, result.document)
    without_panels = {
        task: [{key: value for key, value in image.items() if key != "panels"} for image in found]
        for task, found in images.items()
    }
    result.document["report"] = {**details, "images": without_panels}
    return write({"schema": SCHEMA, **result.document}, page=rendered)
