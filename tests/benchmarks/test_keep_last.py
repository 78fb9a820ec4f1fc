"""What the last epoch is worth, by hand."""

from __future__ import annotations

import numpy as np
import pytest

#: With `make bench-quick`.
pytestmark = pytest.mark.benchmark


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
