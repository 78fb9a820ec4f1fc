"""The log of a run, and TensorBoard where it is installed."""

import dataclasses
import json
import sys
import threading
import time
import types

import pytest

from onehead_cli.errors import OneheadError
from onehead_cli.events import EpochInfo, StepInfo
from onehead_cli.training.log import RunLog


def step(number):
    return StepInfo(1, number, 9, 1.5, {"cls": 2.0}, {"cls": 1.0}, 0.1, 3.0, 0.01)


def epoch(number):
    return EpochInfo(number, 3, number * 3, {"top1": 0.5, "top5": None}, 0.5, True, 1.0)


def test_a_resumed_log_is_cut_back_to_its_checkpoint(tmp_path):
    with RunLog(tmp_path, "cls", resumed_step=None) as log:
        for number in range(1, 6):
            log.write(step(number))
    path = tmp_path / "cls.jsonl"
    damaged = b'{"kind": "\xff"}\n7\n{"no": "step"}\n'
    path.write_bytes(damaged + path.read_bytes() + b'{"kind": "st')  # the last one cut by a kill
    with RunLog(tmp_path, "cls", resumed_step=3) as log:
        log.write(step(4))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_tensorboard_gets_losses_weights_and_scores(tmp_path, monkeypatch):
    written = {}

    class Writer:
        def __init__(self, folder, purge_step):
            written["purge_step"] = purge_step

        def add_scalar(self, name, value, at):
            written[name] = (value, at)

        def close(self):
            written["closed"] = True

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("torch.utils.tensorboard", fake, raising=False)
    with RunLog(tmp_path, "all", resumed_step=None) as log:
        log.write(dataclasses.replace(step(2), gradient_cosine={"cls-seg": {"head": -0.5, "necks": None}}))
        log.write(epoch(1))
    assert written["loss/cls"] == (2.0, 2) and written["weight/cls"] == (1.0, 2) and written["val/top1"] == (0.5, 3)
    assert written["gradient_cosine/cls-seg/head"] == (-0.5, 2) and written["closed"]
    assert "val/top5" not in written and "gradient_cosine/cls-seg/necks" not in written


def test_a_log_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "cls.jsonl").mkdir()
    with pytest.raises(OneheadError, match=r"cls\.jsonl: cannot be written"):
        RunLog(tmp_path, "cls", resumed_step=None)


def test_a_tensorboard_that_cannot_be_written_is_one_error(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "cls").write_text("no folder")
    with pytest.raises(OneheadError, match=r"tensorboard/cls: cannot be written"):
        RunLog(tmp_path, "cls", resumed_step=None)


def test_a_full_disk_under_tensorboard_is_one_error_without_a_traceback(tmp_path, monkeypatch, capsys):
    """It writes in a thread of its own, whose errors Python would show."""
    gfile = pytest.importorskip("tensorboard.compat.tensorflow_stub.io.gfile")

    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    with (
        RunLog(tmp_path, "cls", resumed_step=None) as log,
        pytest.raises(OneheadError, match=r"tensorboard/cls: cannot be written \(No space left on device\)"),
    ):
        monkeypatch.setattr(gfile.LocalFileSystem, "append", full)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            log.write(step(1))
    assert capsys.readouterr().err == ""
