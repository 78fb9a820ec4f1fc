"""The command line itself: help, errors, exit codes, pipes."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from onehead_cli import __version__
from onehead_cli.app import run
from onehead_cli.commands.console import Console, table

COMMANDS = ["prepare-data", "train-teacher", "train-unified", "evaluate", "profile", "predict", "export"]


def onehead(*args, **more):
    return subprocess.run([sys.executable, "-m", "onehead_cli", *args], capture_output=True, text=True, **more)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_answers_at_once(command):
    args = ["--help"] if command is None else [command, "--help"]
    seconds = []
    for _ in range(3):
        before = os.times()
        result = onehead(*args)
        after = os.times()
        # Of the processor, not of the clock: the machine may be busy with something else.
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
        if seconds[-1] < 1:
            break
    assert result.returncode == 0 and "Usage: onehead" in result.stdout
    assert min(seconds) < 1, seconds


def test_the_list_of_commands_fits_80_columns_unabridged():
    shown = onehead("--help", env={**os.environ, "COLUMNS": "80"}).stdout
    assert max(map(len, shown.splitlines())) <= 80
    listed = re.findall(r"^  (\S+) +(.*)$", shown.partition("Commands:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert [name for name, _ in listed] == COMMANDS
    for name, short in listed:
        own = onehead(name, "--help", env={**os.environ, "COLUMNS": "80"}).stdout
        assert f"\n  {short}\n" in own and short.endswith("."), short


@pytest.mark.parametrize("args", [["train-unified"], ["prepare-data", "--check"]])
def test_a_missing_config_of_the_projects_own_says_where_it_is(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = Path(__file__).parents[2] / "configs" / "lite-quick.yaml"
    config = [] if args[-1] == "--check" else ["--config"]
    assert run([*args, *config, "configs/lite-quick.yaml"]) == 2
    assert capsys.readouterr().err == f"error: configs/lite-quick.yaml: no such file; onehead's own is {there}\n"
    assert run([*args, *config, "my.yaml"]) == 2
    assert capsys.readouterr().err == "error: my.yaml: no such file\n"


def test_help_and_prepare_data_never_import_torch(tmp_path):
    script = (
        "import sys; from onehead_cli.app import run\n"
        f"args = ['prepare-data', '--source', 'synthetic', '--data', {str(tmp_path)!r}, '--sizes', '10,10,10', '-q']\n"
        "assert run(args) == 0\n"
        f"assert run(['prepare-data', '--check', {str(tmp_path)!r}, '-q']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_without_a_command_the_help_is_shown(capsys):
    assert run([]) == 2
    assert "train-unified" in capsys.readouterr().out


def test_verify_finds_what_changed(tiny_data, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    assert run(["prepare-data", "--verify", "--data", str(root)]) == 0
    victims = sorted((root / "mini_coco_det" / "val").iterdir())[:2]
    victims[0].unlink()
    victims[1].write_bytes(victims[1].read_bytes() + b"x")
    capsys.readouterr()
    assert run(["prepare-data", "--verify", "--data", str(root), "--json"]) == 1
    captured = capsys.readouterr()
    problems = json.loads(captured.out)["problems"]
    assert len(problems) == 2 and all(any(v.name in p for p in problems) for v in victims)


def test_a_name_with_brackets_is_shown_as_it_is(capsys):
    Console().result({}, table("t", ["Name", "n"], [["holiday [red]x[/red].jpg", "1"]]))
    assert "holiday [red]x[/red].jpg" in capsys.readouterr().out


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"onehead {__version__}"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train-unifed"], ["'train-unifed'", "did you mean 'train-unified'"]),
        (["train-unified", "--lambda-destill", "1"], ["did you mean '--lambda-distill'"]),
        (["evaluate", "--zzz"], ["no such option '--zzz'; see onehead evaluate --help"]),
        (["train-teacher"], ["--task"]),
        (["train-teacher", "--task", "pose"], ["pose"]),
        (["train-unified", "--epochs", "many"], ["--epochs", "integer"]),
        (["train-unified", "--epochs", "0"], ["student.epochs"]),
        (["train-unified", "--lr", "-1"], ["student.lr"]),
        (["train-unified", "--lr", "nan"], ["student.lr"]),
        (["train-unified", "--set", "student.epoch=3"], ["did you mean 'student.epochs'"]),
        (["train-unified", "--config", "no.yaml"], ["no.yaml"]),
        (["train-unified", "--device", "tpu"], ["device"]),
        (["evaluate", "--split", "val,,test"], ["--split"]),
        (["prepare-data", "--source", "synthetic", "--sizes", "3"], ["--sizes"]),
        (["prepare-data", "--source", "local"], ["--coco"]),
        (["prepare-data", "--check", "no.yaml"], ["no.yaml"]),
        (["prepare-data", "--source", "synthetic", "--skip-bad"], ["--check"]),
        (["prepare-data", "--base-url", "vok=http://x/"], ["--base-url", "voc"]),
        (["prepare-data", "--source", "synthetic", "--sizes", "12,5,5"], ["at least 10"]),
    ],
)
def test_usage_and_config_errors_are_one_line_and_exit_2(args, words, capsys):
    assert run(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


@pytest.mark.parametrize(
    "args", [["train-teacher", "--task", "cls", "--data", "nowhere"], ["evaluate", "--checkpoint", "nowhere/all.pth"]]
)
def test_what_is_not_there_is_one_line_and_exit_1(args, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(args) == 1
    captured = capsys.readouterr()
    assert "nowhere" in captured.err and captured.err.count("\n") == 1


def test_show_config_as_text_and_json(capsys):
    assert run(["train-unified", "--show-config", "--epochs", "7"]) == 0
    assert "student.epochs = 7  (int, epochs, default 20)" in capsys.readouterr().out
    assert run(["evaluate", "--show-config", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)["fields"]
    assert {"key", "type", "value", "default", "unit", "meaning"} == set(fields[0])


def test_a_pipe_gets_plain_lines(tiny_data, trained):
    args = ["evaluate", "--data", str(tiny_data), "--output", str(trained), "--split", "val"]
    result = onehead(*args, env={"PATH": "", "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    for text in (result.stdout, result.stderr):
        assert "\r" not in text and "\x1b" not in text
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80
    assert "Baseline" in result.stdout and "unified: " in result.stderr


def test_a_terminal_gets_a_bar_and_no_colour_is_kept(tiny_data, undisturbed, tmp_path):
    def through_terminal(**env):
        parent, child = pty.openpty()
        command = [sys.executable, "-m", "onehead_cli", "evaluate", "--data", str(tiny_data), "--split", "val"]
        command += ["--output", str(tmp_path), "--task", "cls", "--checkpoint", str(undisturbed / "cls_best.pth")]
        everything = {"PATH": "", "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **env}
        with subprocess.Popen(command, stderr=child, stdout=subprocess.DEVNULL, env=everything) as process:
            os.close(child)
            seen = b""
            while True:
                try:
                    chunk = os.read(parent, 4096)
                except OSError:
                    break
                if not chunk:
                    break
                seen += chunk
            os.close(parent)
        assert process.returncode == 0
        return seen.decode()

    coloured, plain = through_terminal(), through_terminal(NO_COLOR="1")
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert "%" in coloured and colour.search(coloured)
    assert "%" in plain and not colour.search(plain)


def test_json_is_all_that_stdout_gets(tiny_data, trained):
    args = ["evaluate", "--data", str(tiny_data), "--output", str(trained), "--split", "val", "--json"]
    result = forked.run("-m", "onehead_cli", *args)
    assert json.loads(result.stdout)["command"] == "evaluate" and "unified: " in result.stderr


def test_a_reader_that_leaves_does_no_harm(tiny_data, trained):
    command = f"{sys.executable} -m onehead_cli train-unified --show-config | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.startswith("seed = ") and "Traceback" not in result.stderr and "Exception" not in result.stderr


def test_folders_of_any_name(tiny_data, trained, tmp_path, capsys):
    """Not UTF-8, and with characters that a terminal would obey."""
    folder = tmp_path / os.fsdecode(b"caf\xe9\n\x1b[31m")
    data, output = folder / "data", folder / "out"
    shutil.copytree(tiny_data / "imagenette-160", data / "imagenette-160")
    output.mkdir()
    shutil.copy(trained / "cls_best.pth", output)
    checkpoint = ["--checkpoint", str(output / "cls_best.pth"), "--output", str(output)]
    where = ["--data", str(data), "--task", "cls", "--split", "val"]
    assert run(["evaluate", *where, *checkpoint]) == 0
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown and f"{tmp_path}/caf\\xe9\\n\\x1b[31m/out/evaluate.json" in shown
    report = json.loads((output / "evaluate.json").read_bytes().decode("utf-8"))
    assert report["checkpoint"].encode("utf-8", "surrogateescape") == os.fsencode(output / "cls_best.pth")
    assert run(["prepare-data", "--preview", "--data", str(data)]) in (0, 1)
    assert "\x1b" not in "".join(capsys.readouterr())
