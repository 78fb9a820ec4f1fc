"""What the launcher's environment means to the commands."""

import pytest
from pretended_device import pretended_gpu

from onehead_cli.app import run
from onehead_cli.runtime import launch


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_a_process_knows_its_place(second_of_two, monkeypatch):
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (1, 2, 1, 2)
    assert not launch.is_main() and not launch.speaks()
    # Some clusters set WORLD_SIZE for the number of machines; that alone is no launcher.
    monkeypatch.delenv("RANK")
    assert (launch.rank(), launch.world_size()) == (0, 1) and launch.is_main() and launch.speaks()


@pytest.mark.parametrize(
    "command", [["predict", "a.jpg"], ["profile"], ["prepare-data", "--source", "synthetic"]], ids=lambda c: c[0]
)
def test_commands_of_one_process_refuse_torchrun(command, second_of_two, monkeypatch, capsys):
    assert run(command) == 2
    assert capsys.readouterr().err == ""  # the first process of the machine says it
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run(command) == 2
    assert capsys.readouterr().err == f"error: {command[0]} runs in one process: start it without torchrun\n"


def test_an_incomplete_environment_is_one_line(second_of_two, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert run(["train-teacher", "--task", "cls", "--device", "cpu"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "torchrun" in message and "MASTER_ADDR" in message


def test_synchronised_batch_norm_is_refused_on_a_cpu(tiny_data, tmp_path, capsys):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--device", "cpu", "--quiet"]
    assert run(["train-teacher", "--task", "cls", *where, "--set", "model.sync_batch_norm=true"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "model.sync_batch_norm runs on NVIDIA GPUs only, not on cpu" in message


def test_each_process_needs_a_gpu_of_its_own(second_of_two, monkeypatch):
    import torch

    from onehead_cli.errors import ConfigError
    from onehead_cli.runtime.compute import resolve_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"2 processes on a machine with 1 GPU\(s\)"):
        resolve_device("auto")
    with pretended_gpu():
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert resolve_device("auto") == torch.device("cuda", 1)
