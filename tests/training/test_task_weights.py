"""The task weights against the described trap and its cures."""

import pytest
import torch

from onehead_cli.registry import TASKS
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights

CONSTANT = torch.tensor([0.2, 0.6, 2.0])


def after_training(*, decay: float = 0.0, normalise: bool = False) -> list[float]:
    """The weights after 6,000 steps of Adam at 1e-3 on three losses that never change."""
    weights = TaskWeights(TASKS)
    normaliser = LossNormaliser(normalise)
    optimizer = torch.optim.AdamW(weights.parameters(), lr=1e-3, weight_decay=decay)
    named = dict(zip(["cls", "seg", "det"], CONSTANT, strict=True))
    for step in range(6000):
        optimizer.zero_grad()
        scaled = torch.stack([loss / normaliser.scale(name, loss) for name, loss in named.items()])
        (weights() * scaled).sum().backward()
        optimizer.step()
        normaliser.update({name: float(loss) for name, loss in named.items()}, first_epoch=step < 100)
    return weights().tolist()


def test_without_a_cure_the_weight_drifts_to_the_smallest_loss():
    assert after_training() == pytest.approx([0.957, 0.031, 0.012], abs=0.02)


def test_a_small_weight_decay_is_no_cure():
    assert after_training(decay=0.01) == pytest.approx([0.957, 0.031, 0.012], abs=0.02)


def test_decoupled_decay_of_one_bounds_the_weights():
    assert after_training(decay=1.0) == pytest.approx([0.43, 0.41, 0.16], abs=0.02)


def test_dividing_by_the_running_mean_keeps_the_weights_equal():
    assert after_training(normalise=True) == pytest.approx([1 / 3] * 3, abs=0.02)


def test_gradient_is_the_closed_form():
    weights = TaskWeights(TASKS)
    with torch.no_grad():
        weights.r.copy_(torch.tensor([0.5, -1.0, 2.0]))
    (weights() * CONSTANT).sum().backward()
    share = weights.r.detach().sigmoid()
    expected = share * (1 - share) / share.sum() * (CONSTANT - (share / share.sum() * CONSTANT).sum())
    torch.testing.assert_close(weights.r.grad, expected)


def test_fixed_and_equal_weights_add_up_to_one_and_do_not_learn():
    fixed = TaskWeights(TASKS, "fixed", [1.0, 1.0, 2.0])
    assert fixed().tolist() == [0.25, 0.25, 0.5]
    assert not fixed().requires_grad
    assert TaskWeights(["seg"], "equal")().tolist() == [1.0]


def test_normaliser_keeps_a_floor_of_its_first_epoch():
    normaliser = LossNormaliser()
    for value in (2.0, 4.0):
        normaliser.update({"cls": value}, first_epoch=True)
    assert normaliser.scale("cls", torch.tensor(9.0)) == pytest.approx(2.0 + 0.1 * 2.0)
    for _ in range(500):
        normaliser.update({"cls": 0.0}, first_epoch=False)
    assert normaliser.scale("cls", torch.tensor(9.0)) == pytest.approx(0.05 * 3.0)


def test_the_floor_is_as_high_as_it_is_set():
    normaliser = LossNormaliser(floor=0.5)
    normaliser.update({"det": 4.0}, first_epoch=True)
    for value in (4.0, 0.0, 0.0, 0.0):
        normaliser.update({"det": value}, first_epoch=False)
    assert normaliser.scale("det", torch.tensor(9.0)) == pytest.approx(4 * 0.9**3)  # .729 of the first epoch's mean
    for _ in range(9):
        normaliser.update({"det": 0.0}, first_epoch=False)
    assert normaliser.scale("det", torch.tensor(9.0)) == 2.0


def test_a_first_loss_of_zero_is_not_divided_by():
    normaliser = LossNormaliser()
    normaliser.update({"seg": 0.0}, first_epoch=True)
    assert normaliser.scale("seg", torch.tensor(3.0)) == 3.0


def test_normaliser_starts_from_the_loss_itself_and_survives_a_checkpoint():
    normaliser = LossNormaliser()
    assert normaliser.scale("seg", torch.tensor(7.0)) == 7.0
    normaliser.update({"seg": 3.0}, first_epoch=True)
    restored = LossNormaliser()
    restored.load_state_dict(normaliser.state_dict())
    restored.update({"seg": 5.0}, first_epoch=False)
    assert restored.mean == {"seg": pytest.approx(3.2)}
