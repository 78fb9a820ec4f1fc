"""What the last epoch is worth, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from forked import run

#: With `make bench-quick`.
pytestmark = pytest.mark.benchmark

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_what_the_last_epoch_is_worth_by_hand():
    from keep_last import Curve

    curve = Curve([0.1, 0.2, 0.5, 0.3, 0.4, 0.3], [2, 4, 6, 8, 10, 12], chosen=6)
    assert curve.loss == pytest.approx(-0.2)
    # Before the last: (.3 + .4) / 2; beside the chosen: (.2 + .3) / 2.
    assert curve.unchosen_loss == pytest.approx(0.1)
    # From the third on: .3 - .45 and .4 - .3; the mean square is .01625, by 1.5.
    assert curve.noise == pytest.approx((0.01625 / 1.5) ** 0.5)


def test_noise_is_that_of_one_evaluation():
    from keep_last import Curve

    scores = np.random.default_rng(0).normal(0.5, 0.02, 4000).tolist()
    assert Curve(scores, range(4000), chosen=1).noise == pytest.approx(0.02, rel=0.05)


def test_it_reads_the_curves_that_0_1_0_kept():
    """The rows of detection's teachers, beside the JSON itself."""
    lost = []
    for path in sorted((BENCHMARKS / "results" / "0.1.0").glob("final-*.json")):
        network = json.loads(path.read_text())["networks"]["det"]
        scores = {each["epoch"]: each["val"].get("map") for each in network["epochs"]}
        lost.append(scores[max(scores)] - scores[network["best_epoch"]])
    shown = run(BENCHMARKS / "keep_last.py")
    assert shown.returncode == 0, shown.stderr
    [row] = [line.split() for line in shown.stdout.splitlines() if "teacher, map" in line]
    assert len(lost) == sum("/" in word for word in row) == 4
    assert float(row[-3]) == pytest.approx(sum(lost) / len(lost), abs=5e-5)
