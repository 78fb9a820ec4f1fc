"""stdout and stderr of any encoding, closed, full, or left by their reader: the work is done and said."""

import json
import os
import subprocess
import sys
import unicodedata

import forked
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onehead_cli.commands.console import Console, table
from onehead_cli.wording import escaped, shown

#: A process whose streams are as Python would have made them at its start, which a forked one is too late for.
WITH_STREAMS = """
import io, os, sys
{prepare}
from onehead_cli.app import main
main({command!r})
"""
CLOSE = "os.close({number}); sys.{name} = None"
ENCODED = "sys.{name} = io.TextIOWrapper(open({number}, 'wb', closefd=False), encoding={encoding!r}, errors='strict')"
REDIRECT = "os.dup2(os.open({path!r}, os.O_WRONLY), {number})"
#: A pipe that nobody reads any more.
LEFT = "ends = os.pipe(); os.close(ends[0]); os.dup2(ends[1], {number})"

ONE = {"number": 1, "name": "stdout"}
TWO = {"number": 2, "name": "stderr"}


@pytest.fixture
def image(tmp_path):
    """Nothing is found in it, so that the table has a dash; its name is not UTF-8."""
    path = tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m.png")
    Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(path)
    return path


def predict(image, tmp_path, *prepare, more=()):
    command = ["predict", *map(str, more), str(image), "--output", str(tmp_path / "out"), "--no-overlays"]
    script = WITH_STREAMS.format(prepare="\n".join(prepare), command=command)
    return forked.run("-c", script)


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out/predictions/predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "koi8-r"])
def test_fault_62_an_output_that_lacks_characters(encoding, image, tmp_path):
    """With any encoding of stdout and stderr and any characters in a name, the work is done and reported: characters
    that the encoding lacks are replaced by similar ones or escaped."""
    streams = [ENCODED.format(encoding=encoding, **stream) for stream in (ONE, TWO)]
    result = predict(image, tmp_path, *streams)
    assert result.returncode == 0, result.stderr
    assert r"caf\xe9 \x1b[31m.png" in result.stdout and r"caf\xe9 \x1b[31m.png" in result.stderr
    assert ("–" in result.stdout) == (encoding == "utf-8")
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        ([CLOSE.format(**ONE)], 0),
        ([CLOSE.format(**TWO)], 0),
        ([CLOSE.format(**ONE), CLOSE.format(**TWO), "os.close(0); sys.stdin = None"], 0),
        ([LEFT.format(**ONE)], 0),
        ([LEFT.format(**TWO)], 0),
        ([REDIRECT.format(path="/dev/full", **TWO)], 0),
        ([REDIRECT.format(path="/dev/full", **ONE)], 1),
    ],
    ids=["no stdout", "no stderr", "none", "left stdout", "left stderr", "full stderr", "full stdout"],
)
def test_fault_68_a_stream_that_takes_nothing(streams, code, image, tmp_path):
    """stdout or stderr that is closed, full or left by its reader does not end the work, and the exit code is that of
    the work; only if the disk was full for the result it is 1, with a line."""
    result = predict(image, tmp_path, *streams)
    assert result.returncode == code, result.stderr
    assert len(records(tmp_path)) == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error") or "Traceback" in line]
    assert lines == (["error: stdout: cannot be written (No space left on device)"] if code else [])


def test_a_reader_that_leaves_does_not_hide_a_failure(image, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    result = predict(image, tmp_path, LEFT.format(**ONE), more=[tmp_path / "bad.png"])
    assert result.returncode == 1 and result.stderr.endswith("error: 1 of 2 images failed\n")


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("onehead --help >&-", 0, ""),
        ("onehead predict --help >&- 2>&-", 0, ""),
        ("onehead --version >/dev/full", 1, "error: stdout: cannot be written (No space left on device)\n"),
        ("onehead --help >/dev/full", 1, "error: stdout: cannot be written (No space left on device)\n"),
        ("onehead evaluate --show-config | head -n 1; exit ${PIPESTATUS[0]}", 0, ""),
        ("PYTHONUNBUFFERED=1 onehead evaluate --show-config | head -n 1; exit ${PIPESTATUS[0]}", 0, ""),
        ("onehead evaluate --zzz 2>/dev/full", 2, ""),
        ("onehead evaluate --zzz 2>&- >&- <&-", 2, ""),
        ("onehead predict - <&-", 2, "error: a list of paths was expected on stdin, which is closed\n"),
        ("PYTHONIOENCODING=ascii onehead evaluate --help", 0, ""),
        (
            "PYTHONIOENCODING=ascii onehead predict $'gone\\xe9\\u20ac\\n'",
            2,
            "error: no such file or folder: gone\\xe9\\u20ac\\n\n",
        ),
        (
            "cd $(mktemp -d); touch a.jpg; echo output: é >c.yaml; export PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C; "
            "onehead predict a.jpg --config c.yaml",
            1,
            "error: \\xe9: no name in the encoding of this locale (ascii); set PYTHONUTF8=1\n",
        ),
        (
            "PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C onehead evaluate --output $'\\xe9' --show-config | head -n 1",
            0,
            "",
        ),
    ],
)
def test_real_shells(command, code, error):
    script = f'onehead() {{ "{sys.executable}" -m onehead_cli "$@"; }}; {command}'
    result = subprocess.run(["bash", "-c", script], capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert (result.returncode, result.stderr.decode()) == (code, error)


@given(st.text())
def test_any_text_is_shown_on_one_line(text):
    line = shown(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line)
    assert len(line.splitlines()) <= 1
    assert shown(line) == line
    for character in text:
        assert escaped(character).isascii() and escaped(character).isprintable()


def test_what_is_escaped_by_hand():
    assert shown("a\nb\tc\r\x1b[0m\x7f\x85\u2028") == r"a\nb\tc\r\x1b[0m\x7f\x85\u2028"
    assert shown("caf\udce9 é 日本 👩\u200d🚀") == "caf\\xe9 é 日本 👩\u200d🚀"
    assert shown("photo\u202egnp.exe") == r"photo\u202egnp.exe"


def test_every_kind_of_message_is_escaped(capsys):
    name = "a\n\x1b[31mred :cat: [bold]"
    console = Console()
    console.note(name)
    console.say(name)
    console.warn(name)
    with console.track(name, 1) as advance:
        advance(1, name)
    console.result({}, table(name, [name], [[name]]), name)
    captured = capsys.readouterr()
    expected = r"a\n\x1b[31mred :cat: [bold]"
    assert captured.err == f"{expected}\n{expected}\nwarning: {expected}\n{expected}: 1/1 {expected}\n"
    assert captured.out.count(expected) == 4 and "\x1b" not in captured.out
