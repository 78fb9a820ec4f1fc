"""Saves survive: kills, damage, full disks."""

import contextlib
import os
import random
import resource
import shutil
import signal
import time

import pytest
from forked import start
from runs import assert_same_run, lines

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import can_resume, last_path, previous_path
from onehead_cli.commands.console import Console
from onehead_cli.errors import CheckpointError, DamagedCheckpointError, OneheadError
from onehead_cli.events import EpochInfo
from onehead_cli.training import log as runlog
from onehead_cli.training import resume
from onehead_cli.training.log import RunLog


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flipped bit":
        content[len(content) // 3] ^= 4
    path.write_bytes(content[: len(content) // 2] if how == "truncated" else content)
    if how == "missing":
        path.unlink()


def temporary(folder):
    return list(folder.glob(".cls*.tmp"))


def saved_step(folder):
    """The step of the newest whole save, None before the first; at most one of the two files may be missing."""
    steps = []
    for path in (last_path(folder, "cls"), previous_path(folder, "cls")):
        if path.is_file():
            steps.append(load_checkpoint(path).training["step"])
    return max(steps, default=None)


def logged_step(folder):
    """The last step whose line is whole."""
    path = folder / "cls.jsonl"
    text = path.read_text() if path.is_file() else ""
    return text.count('"kind": "step"') if text.endswith("\n") or not text else text.count('"kind": "step"') - 1


def kill_within_a_save(process, folder, draw):
    """Kill the process while the temporary file of a save is there; False where it ended before."""
    while process.is_alive():
        if temporary(folder):
            time.sleep(draw.uniform(0, 0.05))
            # Stopped, it cannot finish the save while we look whether it is still in it.
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.01)
            if temporary(folder):
                process.kill()
                return True
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.0005)
    return False


def kill_at_any_moment(process, folder, draw):
    """Kill the process some time after some step; False where it ended before."""
    steps, began = logged_step(folder) + draw.randrange(4), time.monotonic()
    while process.is_alive() and logged_step(folder) < steps and time.monotonic() - began < 20:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.2))
    if not process.is_alive():
        return False
    process.kill()
    return True


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fault_37_a_run_killed_at_any_moment_goes_on_from_a_whole_save(
    teacher_command, undisturbed, tmp_path, soak, record_property
):
    """Killed at any moment, also within a save, a run loses the steps since its last save and nothing else."""
    draw = random.Random(37)
    killed, folder = {"within a save": 0, "at any moment": 0}, tmp_path / "0"
    wanted = {"within a save": 25 if soak else 3, "at any moment": 25 if soak else 2}
    finished = 0
    while killed != wanted or not finished:
        kind = draw.choice([kind for kind in wanted if killed[kind] < wanted[kind]] or ["not"])
        before = saved_step(folder) if can_resume(folder, "cls") else None
        error = tmp_path / "stderr"
        error.write_text("")
        resume = [] if before is None else ["--resume"]
        process = start(*teacher_command, "--output", folder, *resume, stderr=error)
        hit = False
        if kind == "within a save":
            hit = kill_within_a_save(process, folder, draw)
        elif kind == "at any moment":
            hit = kill_at_any_moment(process, folder, draw)
        process.join()
        message = error.read_text()
        assert "Traceback" not in message and "damaged" not in message
        if hit and process.exitcode == -signal.SIGKILL:  # else it had just ended by itself
            killed[kind] += 1
            step, logged = saved_step(folder), logged_step(folder)
            assert step is not None or logged <= 2
            assert step is None or max(before or 0, logged - 2) <= step
        else:
            assert process.exitcode == 0, message
            assert before is None or f"resumed from step {before} of 9" in message
            assert_same_run(undisturbed, folder, "cls")
            assert not temporary(folder)
            finished += 1
            folder = tmp_path / str(finished)
    for kind, count in killed.items():
        record_property(f"kills {kind}", count)


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing"])
def test_fault_40_a_damaged_save_is_noticed_and_the_one_before_is_used(
    how, teacher_command, stopped, undisturbed, tmp_path, capsys
):
    """A last save that is damaged or missing is named in a warning, and the run continues from the previous one."""
    output = tmp_path / "out"
    shutil.copytree(stopped, output)
    damage(output / "cls_last.pth", how)
    assert run([*teacher_command, "--output", str(output), "--resume"]) == 0
    warning, resumed = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {output / 'cls_last.pth'}: ")
    assert "continuing from the previous one, cls_previous.pth, of step 4" in warning
    assert resumed.startswith("cls: resumed from step 4 of 9")
    assert_same_run(undisturbed, output, "cls")


def test_where_both_saves_are_damaged_one_line_says_so(teacher_command, stopped, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(stopped, output)
    for name in ("last", "previous"):
        damage(output / f"cls_{name}.pth", "flipped bit")
    assert run([*teacher_command, "--output", str(output), "--resume"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cls_last.pth" in line and "cls_previous.pth" in line and "leave --resume out" in line
    (output / "cls_previous.pth").unlink()
    assert run([*teacher_command, "--output", str(output), "--resume"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cls_last.pth" in line and "damaged" in line


def test_a_damaged_save_never_takes_the_place_of_the_good_one_before_it(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "out")
    last = tmp_path / "out" / "cls_last.pth"
    damage(last, "flipped bit")
    resume._last_or_previous(tmp_path / "out", "cls", Console(quiet=True))
    # What the next save would keep as the one before:
    assert load_checkpoint(last).training["step"] == 4


def test_a_damaged_best_file_is_written_anew_by_the_next_evaluation(
    teacher_command, stopped, undisturbed, tmp_path, capsys
):
    output = tmp_path / "out"
    shutil.copytree(stopped, output)
    damage(output / "cls_best.pth", "flipped bit")
    assert run([*teacher_command, "--output", str(output), "--resume"]) == 0
    assert "cls_best.pth: not a readable checkpoint" in capsys.readouterr().err
    assert load_checkpoint(output / "cls_best.pth").epoch >= 2
    damage(output / "cls_best.pth", "flipped bit")
    assert run([*teacher_command, "--output", str(output), "--resume"]) == 1  # the run is over: there is no next one
    assert "cls_best.pth" in capsys.readouterr().err


@contextlib.contextmanager
def no_file_over(size):
    """A quota: what would make a file larger fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_fault_38_a_full_disk_leaves_the_old_save_intact(teacher_command, stopped, undisturbed, tmp_path, capsys):
    """If a save does not fit on the disk, one line says so; the old save is untouched and can be resumed."""
    output = tmp_path / "out"
    shutil.copytree(stopped, output)
    before = {path.name: path.read_bytes() for path in output.glob("*.pth")}
    with no_file_over(len(before["cls_last.pth"]) // 2):
        assert run([*teacher_command, "--output", str(output), "--resume"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {output / 'cls_last.pth'}: cannot be written (File too large)")
    for name in ("cls_last.pth", "cls_previous.pth"):
        assert (output / name).read_bytes() == before[name]
    assert not temporary(output)
    assert run([*teacher_command, "--output", str(output), "--resume"]) == 0
    assert_same_run(undisturbed, output, "cls")


def test_a_log_that_no_longer_fits_is_one_error_and_is_cut_back_on_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(runlog, "_tensorboard", lambda *args: None)
    info = EpochInfo(1, 3, 3, {"top1": 0.5}, 0.5, True, 1.0)
    with RunLog(tmp_path, "cls", resumed_step=None) as log:
        log.write(info)
    path = tmp_path / "cls.jsonl"
    with (
        no_file_over(path.stat().st_size + 10),
        pytest.raises(OneheadError, match=r"cls\.jsonl: cannot be written \(File too large"),
        RunLog(tmp_path, "cls", resumed_step=3) as log,
    ):
        log.write(info)
    assert not path.read_text().endswith("\n")
    with RunLog(tmp_path, "cls", resumed_step=3):
        pass
    assert len(lines(path)) == 1


def test_the_damage_of_any_checkpoint_is_noticed(stopped, tmp_path):
    for how, kind in (("flipped bit", DamagedCheckpointError), ("truncated", DamagedCheckpointError)):
        path = tmp_path / "cls_best.pth"
        shutil.copy(stopped / "cls_best.pth", path)
        damage(path, how)
        with pytest.raises(kind, match=r"cls_best\.pth: not a readable checkpoint"):
            load_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_a_killed_runs_leftovers_are_cleared_at_the_next_start(teacher_command, stopped, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(stopped, output)
    mine = [output / name for name in (".cls_last.pth.123.tmp", ".cls_best.pth.9.tmp", ".cls.jsonl.77.tmp")]
    others = [output / ".seg_last.pth.123.tmp", output / "cls_note.tmp"]
    for path in [*mine, *others]:
        path.write_bytes(b"half of it")
    assert run([*teacher_command, "--output", str(output), "--resume", "--lr", "0.5"]) == 1  # refused, but started
    assert not any(path.exists() for path in mine) and all(path.exists() for path in others)
