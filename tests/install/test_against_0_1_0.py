"""The benchmark that unpacks 0.1.0 and runs both versions; `make test-install`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "against_0_1_0.py"


@pytest.mark.install
def test_both_versions_run_and_are_compared(tmp_path):
    path = tmp_path / "figures.json"
    run = subprocess.run([sys.executable, SCRIPT, "--quick", "--json", path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    figures = json.loads(path.read_text())
    assert figures["quick"] and figures["checks"] and all(check["value"] > 0 for check in figures["checks"])
