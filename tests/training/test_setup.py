"""A loop as the commands build it: the estimate leaves it alone, and signals end it between two steps."""

import copy
import os
import signal

import pytest
import torch
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.data.listings import Listings
from onehead_cli.errors import ConfigError
from onehead_cli.registry import TASKS
from onehead_cli.runtime.signals import StopRequest
from onehead_cli.training import setup
from onehead_cli.training.estimate import estimate_training
from onehead_cli.training.setup import architecture_for, build_loop


@pytest.fixture
def loop(tiny_data, tmp_path):
    config = Config.model_validate(
        {
            "data": {"root": tiny_data, "image_size": 64},
            "model": {"backbone": "mobilenetv3_small_050", "pretrained": False},
            "student": {"batch_size": 2, "epochs": 2},
            "distill": {"lambda": 0},
            "output": tmp_path,
        }
    )
    listings = Listings(config)
    architecture = architecture_for(config, TASKS, listings)
    return build_loop(architecture, config, teachers={}, listings=listings, reporter=Console(quiet=True))


def test_the_training_images_are_kept_where_the_network_learns(monkeypatch, request):
    elsewhere = torch.device("cpu", 0)  # the CPU, and yet another device than "cpu" for who compares them
    monkeypatch.setattr(setup, "resolve_device", lambda name: elsewhere)
    loop, val = request.getfixturevalue("loop"), {}
    monkeypatch.setattr(setup, "validate", lambda model, splits, *args, **more: val.update(splits))
    loop.validate(loop.average.model)
    kept = [{task: split.device for task, split in splits.items()} for splits in (loop.loader.splits, val)]
    assert kept == [dict.fromkeys(TASKS, elsewhere), dict.fromkeys(TASKS, torch.device("cpu"))]
    assert loop.loader.device == elsewhere and loop.loader.minibatch(0)


def test_the_estimate_changes_nothing(loop):
    before = copy.deepcopy(loop.state_dict())
    random_state = torch.random.get_rng_state()
    estimate = estimate_training(loop)
    after = loop.state_dict()
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])
    assert before["normaliser"] == after["normaliser"] and before["step"] == after["step"] == 0
    assert not any(p.grad is not None and p.grad.any() for p in loop.objective.model.parameters())
    parameters = sum(p.numel() for p in loop.objective.model.parameters())
    assert estimate.seconds > 0 and estimate.memory_bytes > 5 * 4 * parameters


def test_the_weights_that_are_measured_are_the_averaged_ones(loop):
    class Measured(Exception):
        pass

    def validate(model):
        assert model is loop.average.model and not model.training
        raise Measured

    loop.validate = validate
    steps = []
    with pytest.raises(Measured):
        for info in loop.run():
            steps.append(info.step)
    assert steps == list(range(1, loop.steps_per_epoch + 1))


def test_the_first_signal_is_remembered_and_the_second_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, StopRequest() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 0.1)  # lets the interpreter run the handler
        pytest.fail("it went on")
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_device_that_is_not_there_is_a_config_error():
    from onehead_cli.runtime.compute import resolve_device

    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ConfigError, match=f"--device {missing}: not available"):
        resolve_device(missing)


@pytest.mark.parametrize("forced", ["bf16", "auto"])
def test_bf16_that_the_processor_does_not_have_is_warned_about(forced, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    tasks = ["--task", "cls", "--task", "seg"]
    assert run(["train-teacher", *tasks, *where, "--set", f"model.precision={forced}"]) == 0
    warning = "warning: model.precision=bf16: this processor has no instructions for bf16, so training is slow"
    assert capsys.readouterr().err.count(warning) == (forced == "bf16")  # once for all networks
    stored = torch.load(tmp_path / "seg_last.pth", weights_only=True)
    assert stored["origin"]["precision"] == ("bf16" if forced == "bf16" else "fp32")


def test_bf16_is_decided_by_features(monkeypatch):
    from onehead_cli.runtime import compute as device

    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert device.resolve_precision("auto", cpu) is torch.float32
    assert device.resolve_precision("bf16", cpu) is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert device.resolve_precision("auto", cpu) is torch.bfloat16
    assert device.resolve_precision("fp32", cpu) is torch.float32
