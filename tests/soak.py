"""`make soak`: the long versions of the tests of stopped and killed runs, and the benchmarks of flat memory.

Writes what it found, with date and machine, to docs/SOAK.md, and exits with 1 where anything failed.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from onehead_cli.runtime.compute import processor_name
from onehead_cli.wording import how_many

ROOT = Path(__file__).parent.parent


class Results:
    """A pytest plugin that keeps a row for each test: name, what it counted, result, seconds."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test counts by its call; a failed fixture by itself.
        if report.when == "call" or report.failed:
            counted = ", ".join(f"{value} {name}" for name, value in report.user_properties)
            name = report.nodeid.split("::")[-1]
            self.rows.append([f"`{name}`", counted, report.outcome, f"{report.duration:.0f} s"])


def memory_benchmarks() -> list[list[str]]:
    """A row for each figure of the benchmarks whose bound is that memory does not grow."""
    rows = []
    for script in sorted((ROOT / "benchmarks").glob("flat_*.py")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figures.json"
            code = subprocess.run([sys.executable, script, "--json", path]).returncode
            figures = json.loads(path.read_text()) if path.is_file() else {"checks": []}
        for check in figures["checks"]:
            bound = "no bound" if check["bound"] is None else f"at most {check['bound']:g}"
            found = f"{check['value']:.3f}, {bound}"
            rows.append(
                [f"`benchmarks/{script.name}`: {check['name']}", found, "passed" if check["ok"] else "failed", ""]
            )
        if code and not figures["checks"]:
            rows.append([f"`benchmarks/{script.name}`", "", "failed", ""])
    return rows


def main() -> int:
    results = Results()
    # One process: the runs that are killed shall not wait for other tests.
    options = ["-p", "no:xdist", "-o", "addopts=-q --strict-markers", "--soak", "-m", "soak", str(ROOT / "tests")]
    code = int(pytest.main(options, plugins=[results]))
    rows = results.rows + memory_benchmarks()
    failed = bool(code) or any(row[2] != "passed" for row in rows)
    machine = (
        f"{processor_name(torch.device('cpu'))}, {os.cpu_count()} cores, {how_many(torch.get_num_threads(), 'thread')} "
        f"per process, torch {torch.__version__}, Python {sys.version.split()[0]}"
    )
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        "# Soak test",
        "",
        f"`make soak` wrote this file on {today}: {'FAILED' if failed else 'everything passed'}.",
        "",
        f"Machine: {machine}.",
        "",
        "| What | Rounds | Result | Time |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    (ROOT / "docs" / "SOAK.md").write_text("\n".join(lines), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
