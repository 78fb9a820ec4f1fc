"""Commands and scripts as processes of their own, forked from a server that has imported the libraries already: that
takes longer than most tests of them. onehead itself they import anew."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "timm",
        "torchvision.ops",
        "torch.distributed.elastic.multiprocessing",
        "scipy.ndimage",
        "scipy.stats",
        "pycocotools.cocoeval",
        "pydantic",
        "rich.progress",
        "typer.main",
        "yaml",
        "safetensors.torch",
        "filelock",
    ]
)
_LIMIT = 280.0


def start(*args: object, stderr: Path | str = os.devnull):
    """Run a command as `python -m onehead_cli` does, and return its process, which a test may kill."""
    process = _SERVER.Process(target=_command, args=(list(map(str, args)), str(stderr)))
    process.start()
    return process


def run(
    *args: object, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([sys.executable, *args])` gives; args: a script, or `-c` and code, or `-m` and a
    module, and its arguments. variables: of its environment."""
    return run_together([args], cwd=cwd, variables=[variables or {}])[0]


def run_together(
    commands: Sequence[Sequence[object]], *, cwd: Path | None = None, variables: Sequence[Mapping[str, str]] = ()
) -> list[subprocess.CompletedProcess[str]]:
    """The same for several processes at once. Args: variables: of the environment of each."""
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for place, args in enumerate(commands):
            arguments, environment = list(map(str, args)), dict(variables[place]) if variables else {}
            texts = tuple(Path(folder) / f"{place}.{name}" for name in ("out", "err"))
            target = (arguments, str(cwd or Path.cwd()), environment, *map(str, texts))
            process = _SERVER.Process(target=_script, args=target)
            process.start()
            processes.append((process, arguments, texts))
        try:
            results = []
            for process, arguments, (out, err) in processes:
                process.join(_LIMIT)
                if process.exitcode is None:
                    raise subprocess.TimeoutExpired(arguments, _LIMIT)
                done = subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())
                results.append(done)
            return results
        finally:
            for process, *_ in processes:
                process.kill()


def _command(args: list[str], stderr: str) -> None:
    _redirect(os.devnull, stderr)
    os.environ["TERM"] = "xterm"  # for where stderr is a terminal
    from onehead_cli.app import main

    main(args)


def _script(args: list[str], cwd: str, variables: dict[str, str], out: str, err: str) -> None:
    _redirect(out, err)
    os.chdir(cwd)
    os.environ.update(variables)
    sys.path[1:1] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    if args[0] == "-m":
        sys.argv, sys.path[0] = args[1:], cwd
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif args[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *args[2:]], cwd
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = args, str(Path(args[0]).parent)
        runpy.run_path(args[0], run_name="__main__")


def _redirect(out: str, err: str) -> None:
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY, 0o600), descriptor)
