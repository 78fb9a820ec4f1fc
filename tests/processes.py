"""Start a command in several processes on this machine, as torchrun does, without its agent."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from forked import run_together
from torch.distributed import TCPStore

if TYPE_CHECKING:
    from onehead_cli.events import StepInfo


@contextmanager
def _meeting(count: int) -> Iterator[list[dict[str, str]]]:
    """The variables by which processes find each other, for each of them."""
    # The store takes a free port and keeps it, as torchrun's agent does, so that no other test can get in between.
    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    shared = {
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    yield [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    del store


@contextmanager
def started(count: int, command: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """`python {command}` in `count` processes that find each other; those still alive at the end are killed."""
    with _meeting(count) as variables:
        processes = [
            subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **mine},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for mine in variables
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def in_turn(count: int, commands: Sequence[Sequence[str]], folder: Path) -> list[list[tuple[int, str, str]]]:
    """Run commands of onehead one after the other in the same processes, which saves imports.

    A command whose first word is "stop:N" has the second process get SIGTERM in step N, and the others no signal.

    Returns, for each command, the exit code, stdout and stderr of each process.
    """
    script = [str(Path(__file__)), json.dumps([list(map(str, command)) for command in commands]), str(folder)]
    for code, _, error in finished(count, script):
        assert code == 0, error
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    return [[(code, out, err) for code, out, err in of_command] for of_command in zip(*results, strict=True)]


def _run_captured(command: list[str]) -> tuple[int, str, str]:
    from onehead_cli.app import run
    from onehead_cli.training.loop import TrainingLoop

    take_step = TrainingLoop._step
    stop = int(command.pop(0).removeprefix("stop:")) if command[0].startswith("stop:") else None

    def step(loop: TrainingLoop) -> StepInfo:
        if os.environ["RANK"] == "1" and loop.state.step + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(loop)

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(TrainingLoop, "_step", step):
        return run(command), out.getvalue(), err.getvalue()


def finished(count: int, command: Sequence[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each process, once all have ended."""
    with _meeting(count) as variables:
        ended = run_together([command] * count, variables=variables)
        return [(each.returncode, each.stdout, each.stderr) for each in ended]


if __name__ == "__main__":
    captured = [_run_captured(command) for command in json.loads(sys.argv[1])]
    (Path(sys.argv[2]) / f"{os.environ['RANK']}.json").write_text(json.dumps(captured))
