"""How far bf16 moves a class: by hand, and through the script."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from forked import run

#: With `make bench-quick`.
pytestmark = pytest.mark.benchmark

_WAYS = ("none", "gate,", "gate", "soft")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pooling.py"


def test_a_cell_that_crosses_the_gate_by_hand():
    """Two classes, two cells: one sure of class 0, the other just above and just below .75 of class 1."""
    from pooling import largest_change

    def maps(sureness):
        logit = math.log(sureness / (1 - sureness))
        return torch.tensor([[[[5.0, 0.0]], [[0.0, logit]]]])

    above, below = maps(0.7501), maps(0.7499)
    # Above, the mean of both cells: logits 2.5 and log(3) / 2; below, the sure cell alone: 5 and 0.
    change = 1 / (1 + math.exp(-5)) - 1 / (1 + math.exp(math.log(3) / 2 - 2.5))
    assert largest_change((above, below), 0.75, "gate") == pytest.approx(change, abs=1e-4) and change > 0.1
    assert largest_change((above, below), 0.75, "soft") < 1e-3
    assert largest_change((above, below), 0.0, "gate") < 1e-3


def test_the_script_has_a_row_for_each_way(tiny_data, trained):
    shown = run(SCRIPT, "--data", tiny_data, "--checkpoint", trained / "all_best.pth")
    assert shown.returncode == 0, shown.stderr
    rows = [words for line in shown.stdout.splitlines() if (words := line.split()) and words[0] in _WAYS]
    assert [words[0] for words in rows] == ["none", "gate,", "gate", *["soft"] * 4]
    assert all(0 <= float(words[-1]) <= 1 for words in rows)
    missing = run(SCRIPT, "--data", tiny_data, "--checkpoint", tiny_data / "none.pth")
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1
