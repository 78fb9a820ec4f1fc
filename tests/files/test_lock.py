"""Locks against real second processes, and what is done where there can be none."""

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from onehead_cli.errors import DataError
from onehead_cli.files import lock
from onehead_cli.files.lock import LOCK_FILE, HeldError, NoLocksError, locked, take_lock

SPAWN = multiprocessing.get_context("spawn")


def _hold(folder, whole_folder):
    with locked(folder) if whole_folder else take_lock(folder / "one.lock"):
        (folder / "held").touch()
        time.sleep(600)


@pytest.fixture
def start(tmp_path):
    """Starts a process that holds the folder, or the file `one.lock` in it, and waits until it does."""
    processes = []

    def start_one(*, whole_folder):
        process = SPAWN.Process(target=_hold, args=(tmp_path, whole_folder))
        processes.append(process)
        process.start()
        while not (tmp_path / "held").exists():
            assert process.is_alive()
            time.sleep(0.01)
        (tmp_path / "held").unlink()
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.join()


def test_a_lock_names_its_process_and_dies_with_it(start, tmp_path):
    path = tmp_path / "one.lock"
    holder = start(whole_folder=False)
    for _ in range(2):  # asking changes nothing
        with pytest.raises(HeldError) as held:
            take_lock(path)
        assert held.value.process == str(holder.pid)
    holder.kill()
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    with take_lock(path):
        assert int(path.read_text()) == os.getpid()
        with pytest.raises(HeldError, match=str(os.getpid())):
            take_lock(path)
    assert path.exists()
    start(whole_folder=False)


def test_a_folder_is_held_until_its_run_ends_and_shows_no_trace(start, tmp_path):
    holder = start(whole_folder=True)
    with pytest.raises(DataError) as held, locked(tmp_path):
        pass
    assert str(held.value) == f"{tmp_path}: another run is using it; wait until that has ended"
    holder.kill()
    holder.join()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]  # what a kill leaves
    with locked(tmp_path) as is_held:
        assert is_held and (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path):
    script = (
        "import os, sys, time; from pathlib import Path; from onehead_cli.files.lock import take_lock\n"
        f"with take_lock(Path({str(tmp_path / 'one.lock')!r})):\n"
        "    child = os.fork()\n"
        "    if not child: print(os.getpid(), flush=True)\n"  # once it has closed what it inherited
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        try:
            with pytest.raises(HeldError, match=str(parent.pid)):
                take_lock(tmp_path / "one.lock")
            parent.kill()
            parent.wait()
            os.kill(child, 0)  # lives
            with take_lock(tmp_path / "one.lock"):
                pass
        finally:
            parent.kill()
            os.kill(child, signal.SIGKILL)


def _count(folder, times):
    counter = folder / "counter"
    while times:
        try:
            with locked(folder) as held:
                assert held
                number = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(number + 1))
        except DataError:
            time.sleep(0.0005)
        else:
            times -= 1


def test_no_two_processes_are_ever_in_one_folder(tmp_path):
    """Although the file goes with each lock and is made anew by the next."""
    (tmp_path / "counter").write_text("0")
    processes = [SPAWN.Process(target=_count, args=(tmp_path, 60)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "counter").read_text() == "240"


def test_a_file_that_was_deleted_before_it_was_locked_is_no_lock(tmp_path, monkeypatch):
    path = tmp_path / "one.lock"
    flock = fcntl.flock

    def delete_first(*args):
        path.unlink(missing_ok=True)
        return flock(*args)

    with monkeypatch.context() as patch, pytest.raises(HeldError, match="unknown"):
        patch.setattr(fcntl, "flock", delete_first)
        take_lock(path)
    with take_lock(path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
@pytest.mark.parametrize("left", [False, True])
def test_a_file_system_without_locks_holds_nothing_and_never_pretends_to(tmp_path, monkeypatch, number, left):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    if left:
        (tmp_path / LOCK_FILE).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # filelock's, when it takes the soft lock instead
        with pytest.raises(NoLocksError, match=os.strerror(number)):
            take_lock(tmp_path / "one.lock")
        with locked(tmp_path) as first, locked(tmp_path) as second:
            assert not first and not second
    # A file that was there may be that of a run that could lock it.
    assert (tmp_path / LOCK_FILE).exists() == left


def test_where_no_file_can_be_made_nothing_is_held(tmp_path):
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(OSError, match=LOCK_FILE) as error:
        take_lock(tmp_path / LOCK_FILE)
    assert error.value.errno == errno.EISDIR
    with locked(tmp_path) as held:
        assert not held
    assert (tmp_path / LOCK_FILE).is_dir()


def test_a_full_disk_costs_the_name_and_not_the_lock(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "one.lock"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        held = take_lock(path)
    with held, pytest.raises(HeldError, match="unknown"):
        take_lock(path)


def test_the_name_is_read_past_the_byte_that_windows_locks(tmp_path, monkeypatch):
    path = tmp_path / "one.lock"
    with take_lock(path):
        assert path.read_bytes()[:1] == b" "
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "win32")
            assert lock._signed_by(path) == str(os.getpid())
