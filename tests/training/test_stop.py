"""Signals: a step is finished and saved, a second signal ends at once, the terminal is left clean."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from forked import start
from runs import at_step, lines, read
from tiny import SMALL

from onehead_cli import app
from onehead_cli.data.loader import TrainLoader

NUMBERS = [signal.SIGINT, signal.SIGTERM]
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


@pytest.fixture
def main():
    """Run the command line in this process with the signal handlers of a real one; gives its exit code."""
    before = {number: signal.getsignal(number) for number in NUMBERS}

    def ended(args):
        with pytest.raises(SystemExit) as ending:
            app.main(args)
        return ending.value.code

    yield ended
    for number, handler in before.items():
        signal.signal(number, handler)


def through_terminal(process, terminal, once):
    """Everything the process wrote to its terminal; calls `once` again and again until it returns True."""
    seen, done = b"", False
    while process.is_alive() or select.select([terminal], [], [], 0)[0]:
        done = done or once()
        if select.select([terminal], [], [], 0.01)[0]:
            seen += os.read(terminal, 4096)
    process.join()
    return seen


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
def test_fault_36_a_signal_lets_the_step_finish_saves_and_exits(number, tiny_data, tmp_path):
    """SIGINT and SIGTERM finish the step, save and exit with 130 and 143; a second signal ends the run at once."""
    command = ["train-teacher", "--task", "cls", "--data", tiny_data, "--output", tmp_path, "--epochs", "50", *SMALL]
    command.remove("--quiet")
    parent, child = pty.openpty()
    process = start(*command, stderr=os.ttyname(child))

    def stop_after_a_step():
        log = tmp_path / "cls.jsonl"
        if not log.is_file() or not log.read_text():
            return False
        os.kill(process.pid, number)
        return True

    seen = through_terminal(process, parent, stop_after_a_step)
    os.close(parent)
    os.close(child)
    assert process.exitcode == 128 + number
    # The bar hides the cursor while it is drawn; at the end it is shown, and nothing but the message follows the bar.
    assert 0 <= seen.rfind(HIDE) < seen.rfind(SHOW)
    step = read(tmp_path / "cls_last.pth")["training"]["step"]
    assert step == [r["step"] for r in lines(tmp_path / "cls.jsonl") if r["kind"] == "step"][-1]
    last_line = seen[seen.rfind(SHOW) :].split(b"\n")[-2]
    assert f"error: cls: stopped at step {step} of 150 and saved; continue with --resume".encode() in last_line
    assert b"Traceback" not in seen


def test_a_second_signal_ends_at_once(teacher_command, tmp_path, monkeypatch, main, capsys):
    minibatch = TrainLoader.minibatch

    def impatient(self, position):
        if position == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        return minibatch(self, position)

    monkeypatch.setattr(TrainLoader, "minibatch", impatient)
    assert main([*teacher_command, "--output", str(tmp_path)]) == 143
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"
    assert read(tmp_path / "cls_last.pth")["training"]["step"] == 6  # the last save
    assert not list(tmp_path.glob(".*.tmp"))


PLACES = {
    "before the first step": ("onehead_cli.training.run.estimate_training", "train"),
    "while data are loaded": ("onehead_cli.tasks.classification.task.Classification.load", "train"),
    "while weights are read": ("onehead_cli.training.setup.build_pretrained", "train"),
    "evaluate": ("onehead_cli.tasks.classification.task.Classification.load", "evaluate"),
    "profile": ("onehead_cli.profiling.counts.FlopCounterMode", "profile"),
    "predict": ("onehead_cli.prediction.predict.open_image", "predict"),
    "a checkpoint is read": ("onehead_cli.checkpoint.checkpoint.torch.load", "predict"),
}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
@pytest.mark.parametrize(("target", "command"), PLACES.values(), ids=PLACES)
def test_a_signal_anywhere_else_is_one_line_too(
    number, target, command, teacher_command, small_teachers, tiny_data, tmp_path, monkeypatch, main, capsys
):
    best, output = str(small_teachers / "cls_best.pth"), ["--output", str(tmp_path)]
    args = {
        "train": [*teacher_command, *output],
        "evaluate": ["evaluate", "--task", "cls", "--checkpoint", best, "--data", str(tiny_data), *output, "-q"],
        "profile": ["profile", "--checkpoint", best, "-q"],
        "predict": ["predict", str(next(tiny_data.rglob("*.jpg"))), "--checkpoint", best, *output, "-q"],
    }[command]
    reached = []
    module, name = target.rsplit(".", 1)

    def interrupted(*args, **kwargs):
        reached.append(True)
        os.kill(os.getpid(), number)
        time.sleep(5)  # the handler interrupts it

    monkeypatch.setattr(f"{module}.{name}", interrupted)
    assert main(args) == 128 + number
    assert reached and capsys.readouterr().err == f"error: stopped by {number.name}\n"
    assert not list(tmp_path.glob(".*.tmp")) and not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
def test_a_signal_within_an_import_is_one_line_too(number, tmp_path):
    """An exception there can be swallowed, or leave half a module behind; the process must end all the same."""
    script = f"""
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            try:
                os.kill(os.getpid(), {int(number)})
                for _ in range(100): pass
            except BaseException:
                pass
sys.meta_path.insert(0, Finder())
from onehead_cli.__main__ import main
sys.argv = ["onehead", "train-teacher", "--task", "cls", "--output", {str(tmp_path)!r}]
main()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (128 + number, f"error: stopped by {number.name}\n")


def test_a_signal_during_validation_saves_the_epoch(teacher_command, tmp_path, monkeypatch, main, capsys):
    from onehead_cli.training import setup

    validate = setup.validate

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args, **kwargs)

    monkeypatch.setattr(setup, "validate", signalled)
    assert main([*teacher_command, "--output", str(tmp_path)]) == 143
    assert capsys.readouterr().err.startswith("error: cls: stopped at step 3 of 9 and saved")
    assert [r["kind"] for r in lines(tmp_path / "cls.jsonl")] == ["scan"] + ["step"] * 3 + ["epoch"]
    assert read(tmp_path / "cls_last.pth")["epoch"] == 1 and (tmp_path / "cls_best.pth").is_file()
    # One save for the step, not one for the epoch and one for the signal: the one before is that of step 2.
    assert read(tmp_path / "cls_previous.pth")["training"]["step"] == 2


def test_a_second_signal_within_a_save_is_no_failed_save(teacher_command, tmp_path, monkeypatch, main, capsys):
    """torch makes a RuntimeError of whatever is raised while it writes; a signal must not be taken for a full disk."""
    from onehead_cli.files import atomic

    sync = os.fsync

    def impatient(descriptor):
        if list(tmp_path.glob(".cls_last.pth.*.tmp")):
            os.kill(os.getpid(), signal.SIGTERM)
        sync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", impatient)
    at_step(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert main([*teacher_command, "--output", str(tmp_path)]) == 143
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"
    assert not list(tmp_path.glob(".*.tmp")) and not list(tmp_path.glob("*.pth"))


def test_a_signal_within_the_last_save_ends_the_command_before_its_next_network(
    teacher_command, tmp_path, monkeypatch, main, capsys
):
    from onehead_cli.training import saves as saver

    save = saver.save_checkpoint

    def signalled(path, checkpoint, **more):
        if checkpoint.training and checkpoint.training["step"] == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        save(path, checkpoint, **more)

    monkeypatch.setattr(saver, "save_checkpoint", signalled)
    command = ["all" if word == "cls" else word for word in teacher_command]
    assert main([*command, "--output", str(tmp_path)]) == 143
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"
    assert read(tmp_path / "cls_last.pth")["training"]["step"] == 9
    assert not list(tmp_path.glob("seg*"))
