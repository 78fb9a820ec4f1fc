"""A term from outside that learns weights: it is trained, saved, resumed and counted without another line elsewhere."""

import os
import shutil
import signal

import pytest
import torch
from runs import at_step
from tiny import SMALL
from torch import nn

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.training import estimate, setup
from onehead_cli.training.terms import Term


class Toy(Term):
    """Pulls the mean of the features to a number that it learns."""

    name = "toy"

    def __init__(self) -> None:
        super().__init__()
        self.wanted = nn.Parameter(torch.full((1000,), 2.0))

    def forward(self, seen):
        mean = seen.features.float().mean((1, 2, 3))  # [B]
        return {"toy": (mean[:, None] - self.wanted).square().mean(1).sum() / seen.total}

    def weights(self):
        return {"toy": 0.5}


@pytest.fixture
def toy(monkeypatch):
    real = setup.build_terms
    monkeypatch.setattr(setup, "build_terms", lambda *args: [*real(*args), Toy()])


def test_a_term_that_learns_is_trained_saved_and_resumed_bit_equal(toy, teacher_command, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run([*teacher_command, "--output", str(whole)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run([*teacher_command, "--output", str(stopped)]) == 143
    middle = load_checkpoint(stopped / "cls_last.pth").training["auxiliary"]["toy.wanted"]
    assert run([*teacher_command, "--output", str(stopped), "--resume"]) == 0
    one, other = (load_checkpoint(folder / "cls_last.pth") for folder in (whole, stopped))
    learned = one.training["auxiliary"]["toy.wanted"]
    assert torch.equal(learned, other.training["auxiliary"]["toy.wanted"])
    assert not torch.equal(learned, torch.full((1000,), 2.0)) and not torch.equal(learned, middle)
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    assert not any("toy" in name for name in one.weights), "it is of the training, not of the network"


def test_a_term_that_learns_is_counted_in_the_estimate(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "peak_resident_bytes", lambda: 0)
    found = []
    real = estimate.estimate_training
    monkeypatch.setattr(
        "onehead_cli.training.run.estimate_training", lambda loop: found.append(real(loop)) or found[-1]
    )
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--epochs", "1", *SMALL]
    assert run([*command, "--output", str(tmp_path / "plain")]) == 0
    build = setup.build_terms
    monkeypatch.setattr(setup, "build_terms", lambda *args: [*build(*args), Toy()])
    assert run([*command, "--output", str(tmp_path / "toy")]) == 0
    assert found[1].memory_bytes - found[0].memory_bytes == 2 * 1000 * 4, "AdamW's two moments"
    shutil.rmtree(tmp_path)
