"""Files that are whole at every moment."""

import multiprocessing
import os
import signal

import pytest

from onehead_cli.errors import OneheadError
from onehead_cli.files.atomic import make_writable_folder, remove_leftovers, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"

    def fail_halfway(file):
        file.write(b"half")
        raise KeyError

    with pytest.raises(KeyError):
        write_atomically(path, fail_halfway)
    assert names(tmp_path) == []
    write_atomically(path, lambda file: file.write(b"old"))
    with pytest.raises(KeyError):
        write_atomically(path, fail_halfway, keep=tmp_path / "before.json")
    assert names(tmp_path) == ["a.json"] and path.read_bytes() == b"old"


def test_the_old_file_goes_where_it_is_kept(tmp_path):
    path, before = tmp_path / "a", tmp_path / "before"
    for content in (b"1", b"2", b"3"):
        write_atomically(path, lambda file, content=content: file.write(content), keep=before)
    assert names(tmp_path) == ["a", "before"] and (path.read_bytes(), before.read_bytes()) == (b"3", b"2")


def _be_killed(path):
    def write(file):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    write_atomically(path, write)


def test_a_killed_process_leaves_the_old_file_and_a_leftover_that_is_removed(tmp_path):
    path = tmp_path / "cls_last.pth"
    write_atomically(path, lambda file: file.write(b"old"))
    process = multiprocessing.get_context("spawn").Process(target=_be_killed, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and path.read_bytes() == b"old"
    leftover = f".cls_last.pth.{process.pid}.tmp"
    assert names(tmp_path) == [leftover, "cls_last.pth"]
    remove_leftovers(tmp_path, "seg[._]*")
    assert leftover in names(tmp_path)
    remove_leftovers(tmp_path, "cls[._]*")
    assert names(tmp_path) == ["cls_last.pth"]


def test_a_folder_is_made_or_refused_before_any_work(tmp_path):
    make_writable_folder(tmp_path / "new" / "deep")
    assert names(tmp_path / "new" / "deep") == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OneheadError, match=r"cannot be written .*; choose another with --output"):
            make_writable_folder(folder)
