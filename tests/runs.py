"""What tests compare two runs by."""

import json
import math
from pathlib import Path

import torch

from onehead_cli.events import StepInfo
from onehead_cli.training.log import RunLog


def read(path):
    return torch.load(path, weights_only=True)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(records):
    """A log without what may differ between a run and the same run resumed: the clock, and that it was resumed."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records if r["kind"] != "resumed"]


def differences(a, b, where="") -> list[str]:
    """Where two nested values are not equal to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        return [] if same else [where]  # NaN equals NaN
    if isinstance(a, dict) and isinstance(b, dict):
        missing = [f"{where}.{key}" for key in a.keys() ^ b.keys()]
        return missing + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{i}]")]
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return []
    return [] if type(a) is type(b) and a == b else [where]


def assert_same_run(a: Path, b: Path, name: str) -> None:
    """Every value of the best and the last checkpoint and of the log is equal; only the output folder differs."""
    for which in ("best", "last"):
        one, other = read(a / f"{name}_{which}.pth"), read(b / f"{name}_{which}.pth")
        assert one["config"].pop("output") and other["config"].pop("output")
        # Somebody may commit or edit a file while the tests run.
        assert "commit" in one["origin"] and (one["origin"].pop("commit"), other["origin"].pop("commit"))
        assert differences(one, other) == []
    assert timeless(lines(a / f"{name}.jsonl")) == timeless(lines(b / f"{name}.jsonl"))


def at_step(monkeypatch, step, action):
    """Call `action` right after a step was logged, which is before it is saved."""
    write = RunLog.write

    def patched(self, info):
        write(self, info)
        if isinstance(info, StepInfo) and info.step == step:
            action()

    monkeypatch.setattr(RunLog, "write", patched)
