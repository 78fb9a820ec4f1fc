"""The package runs where a system's own modules are not there; other libraries may import them at will.

What is in `os` or `signal` on one system alone is found by `mypy --platform win32`, of `make check`.
"""

import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

import onehead_cli
from onehead_cli.data.prepare import official_files
from onehead_cli.errors import DataError

#: Modules of Python that one system has and another lacks.
ONE_SYSTEM = (
    *("_posixsubprocess", "crypt", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "resource", "spwd"),
    *("syslog", "termios", "tty"),
    *("_winapi", "msvcrt", "nt", "winreg", "winsound"),
)

#: From here on an import of one of them fails, if it stands in the package's own code.
WITHOUT = f"""
import builtins

really_import = builtins.__import__

def import_for(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {{}}).get("__name__", "")
    if level == 0 and asks.split(".")[0] == "onehead_cli" and name.split(".")[0] in {ONE_SYSTEM!r}:
        raise ModuleNotFoundError(f"no {{name}} here, for {{asks}}", name=name)
    return really_import(name, globals, locals, fromlist, level)

builtins.__import__ = import_for
"""


def run_without(script, folder):
    command = [sys.executable, "-c", WITHOUT + script]
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=200)
    assert result.returncode == 0, result.stderr
    return result


def test_the_block_itself(tmp_path):
    run_without(
        "import fcntl\n"
        "for line in ('import fcntl', 'from resource import getrusage', 'import tty as t'):\n"
        "    exec(line, {'__name__': 'elsewhere.module'})\n"
        "    try: exec(line, {'__name__': 'onehead_cli.files.lock'})\n"
        "    except ModuleNotFoundError: continue\n"
        "    raise AssertionError(line)\n",
        tmp_path,
    )


def test_every_module_can_be_imported(tmp_path):
    script = (
        "import importlib, pkgutil, onehead_cli\n"
        "found = [module.name for module in pkgutil.walk_packages(onehead_cli.__path__, 'onehead_cli.')]\n"
        "for name in found: importlib.import_module(name)\n"
        "from onehead_cli.runtime.memory import keep_freed_memory, peak_resident_bytes\n"
        "assert peak_resident_bytes() == 0\n"
        "keep_freed_memory()\n"
        "print(len(found))\n"
    )
    modules = list(Path(onehead_cli.__file__).parent.rglob("*.py"))
    assert int(run_without(script, tmp_path).stdout) == len(modules) - 1  # all but the package itself


def test_help_is_shown_and_data_prepared(tmp_path):
    command = ["prepare-data", "--source", "synthetic", "--data", "data", "--sizes", "10,10,10", "--image-size", "64"]
    for arguments in (["--help"], [command[0], "--help"], command, ["prepare-data", "--data", "data", "--verify"]):
        script = f"import sys; from onehead_cli.app import run; sys.exit(run({arguments!r}))"
        run_without(script, tmp_path)
    assert (tmp_path / "data" / "manifest.json").is_file()


def test_what_a_terminal_has_no_signs_for_does_not_end_a_command(tmp_path):
    """A code page of Windows has neither the dash of an empty cell nor most names."""
    script = (
        "from onehead_cli import app\n"
        "@app.app.command('show')\n"
        "def show() -> None:\n"
        "    from onehead_cli.commands.console import Console, table\n"
        "    Console().result({}, table('', ['a', 'b'], [['\\u2013', '\\u4e2d']]), '\\u2013')\n"
        "app.main(['show'])\n"
    )
    for encoding in ("ascii", "cp437"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr.decode()
        assert result.stdout.split()[-1] == b"-"


@pytest.mark.parametrize(
    "name", ["C:/a.jpg", "C:a.jpg", "\\a.jpg", "..\\a.jpg", "a\\..\\..\\b.jpg", "../a.jpg", "/a.jpg"]
)
def test_names_that_leave_their_folder_on_windows(monkeypatch, name):
    monkeypatch.setattr(official_files, "PurePath", PureWindowsPath)
    with pytest.raises(DataError, match="leaves its folder"):
        official_files.inside(name, Path("x"))
    assert str(official_files.inside("train2017/a.jpg", Path("x"))) == "train2017/a.jpg"
