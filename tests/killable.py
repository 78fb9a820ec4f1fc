"""Commands as processes of their own that a test can kill: forked from a server that has imported torch already."""

import multiprocessing
import os
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["onehead_cli.training.run", "onehead_cli.app"])


def start(*args: object, stderr: Path | str = os.devnull):
    """Run a command as `python -m onehead_cli` does, and return its process."""
    process = _SERVER.Process(target=_run, args=(list(map(str, args)), str(stderr)))
    process.start()
    return process


def _run(args: list[str], stderr: str) -> None:
    for descriptor, path in ((1, os.devnull), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY), descriptor)
    os.environ["TERM"] = "xterm"  # for where stderr is a terminal
    from onehead_cli.app import main

    main(args)
