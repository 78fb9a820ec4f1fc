"""Every benchmark runs; its figures are judged on a quiet machine, not here."""

import json
from pathlib import Path

import pytest
from forked import run

FOLDER = Path(__file__).parents[2] / "benchmarks"
#: Those without a bound, which have tests of their own.
OTHERS = (
    "common",
    "ablation",
    "specialists",
    "results",
    "results_page",
    "keep_last",
    "pooling",
    "ship",
    "deploy_page",
    "door_picture",
    "fields_page",
    "against_0_1_0",
)
pytestmark = pytest.mark.benchmark
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in OTHERS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_runs_and_writes_its_figures(name, tmp_path):
    path = tmp_path / "figures.json"
    result = run(FOLDER / f"{name}.py", "--quick", "--json", path)
    assert result.returncode == 0, result.stderr
    figures = json.loads(path.read_text())
    assert figures["quick"] and figures["checks"] and all(check["value"] > 0 for check in figures["checks"])
