"""One run at a time per network and folder."""

import fcntl
import multiprocessing
import os
import shutil
import time

import pytest

from onehead_cli.app import run
from onehead_cli.commands.console import Console
from onehead_cli.errors import OneheadError
from onehead_cli.training.hold import hold_runs

QUIET = Console(quiet=True)


def hold(folder, names):
    with hold_runs(folder, names, QUIET):
        (folder / "held").touch()
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the runs 'cls' and 'seg' of a folder until it is killed."""
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "out", ["cls", "seg"]))
    process.start()
    while not (tmp_path / "out" / "held").exists():
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_fault_45_two_runs_in_one_folder_are_kept_apart(holder, teacher_command, stopped, tmp_path, capsys):
    """A second run of a network in one folder is refused in one line until the first one's process has ended."""
    output = tmp_path / "out"
    shutil.copytree(stopped, output, dirs_exist_ok=True, ignore=lambda folder, names: [".cls.lock"])
    before = {path: path.read_bytes() for path in output.glob("cls*") if path.is_file()}
    for resume in ([], ["--resume"]):
        assert run([*teacher_command, "--output", str(output), *resume]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: output folder {output}: process {holder.pid} is training 'cls' into it")
    assert {path: path.read_bytes() for path in before} == before
    # Other networks may be trained in the folder meanwhile, here and in other folders all of them.
    with (
        hold_runs(output, ["det"], QUIET),
        hold_runs(output, ["all"], QUIET),
        hold_runs(tmp_path / "b", ["cls"], QUIET),
    ):
        pass
    with pytest.raises(OneheadError, match="is training 'seg' into it"), hold_runs(output, ["det", "seg"], QUIET):
        pass
    holder.kill()
    holder.join()
    with hold_runs(output, ["cls", "seg"], QUIET):
        assert int((output / ".cls.lock").read_text()) == os.getpid()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    leftover = tmp_path / ".cls_last.pth.1.tmp"
    leftover.touch()
    with hold_runs(tmp_path, ["cls"], QUIET):
        assert leftover.exists()  # it may be another run's, which nothing keeps away
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "cannot be locked (Operation not supported)" in line


def test_a_lock_file_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / ".seg.lock").mkdir()
    with pytest.raises(OneheadError) as error, hold_runs(tmp_path, ["cls", "seg"], QUIET):
        pass
    advice = "choose another folder with --output"
    assert str(error.value) == f"{tmp_path / '.seg.lock'}: cannot be written (Is a directory); {advice}"
    with hold_runs(tmp_path, ["cls"], QUIET):  # which was given back
        pass
