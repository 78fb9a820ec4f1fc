"""The specialists that our networks are compared with learn, and are measured as ours are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "specialists.py"


@pytest.mark.parametrize(("task", "metric"), [("cls", "top1"), ("seg", "miou"), ("det", "map")])
def test_a_specialist_trains_and_is_not_trained_twice(task, metric, tiny_data, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("data: {image_size: 64}\nmodel: {pretrained: false}\nteacher: {epochs: 1, batch_size: 6}\n")
    command = [sys.executable, SCRIPT, "--task", task, "--config", config, "--data", tiny_data]
    command += ["--results", tmp_path, "--report", "val,pooled"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    path = tmp_path / f"specialist-{task}-seed0.json"
    document = json.loads(path.read_text())
    assert 0 <= document["scores"]["val"][metric] <= 1 and 0 <= document["scores"]["pooled"][metric] <= 1
    # The weights that were kept are those of the best epoch, here the only one, and pooled is val and test.
    assert document["epochs"] == [{"epoch": 1, "val": document["scores"]["val"]}]
    assert document["pictures"] == {"val": 10, "pooled": 20}
    before = path.stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True)
    assert "done already" in again.stderr and path.stat().st_mtime_ns == before
