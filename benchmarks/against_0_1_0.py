"""`evaluate --split val,test` with three teachers, and `profile`, against version 0.1.0: at most 0.7 of its time each.

    python benchmarks/against_0_1_0.py --checkout ../onehead-0.1.0 --data data

The commands with each version's own defaults (`profile` timed 30 passes, and now 20), after the imports, in a process
of each version that take turns. The networks are trained by 0.1.0 for an epoch, as what they say does not matter.
--checkout: a folder with 0.1.0 (commit e8523c1); without it git is asked for it. --data: prepared images; without it
they are drawn. --quick compares this version with itself.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from common import Check, Options, finish, milliseconds, parse_options

from onehead_cli import engine
from onehead_cli.commands.console import Console
from onehead_cli.data.prepare.settings import Synthetic

BOUND = 0.7
COMMIT = "e8523c1"
HERE = Path(__file__).resolve().parent.parent


class Version:
    """A process that runs the commands of one checkout."""

    def __init__(self, checkout: Path, config_file: Path) -> None:
        worker = Path(__file__).parent / "versions" / "worker.py"
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, str(worker), str(config_file)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, cwd=checkout, **pipes)
        found = Path(self._answer()).resolve()
        if found != checkout.resolve():
            raise RuntimeError(f"onehead was imported from {found}, not from {checkout}")

    def run(self, command: str) -> float:
        """Seconds of a command of versions/worker.py."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def end(self) -> None:
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a version ended before it answered; its message stands above")
        return str(line.strip())


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before = HERE if options.quick else options.paths["checkout"] or extract(root / "0.1.0")
        data, size = options.paths["data"], options.image_size
        if data is None:
            data, counts = root / "data", (12, 10, 10) if options.quick else (12, 20, 20)
            drawn = Synthetic(root=data, sizes=counts, image_size=72 if options.quick else 480)
            engine.prepare_data(drawn, reporter=Console(quiet=True))
        settings = {
            "device": options.device,
            "output": str(root / "output"),
            "data": {"root": str(data.resolve()), "image_size": size},
            "model": {"backbone": "mobilenetv3_small_050", "pretrained": False} if options.quick else {},
            "teacher": {"epochs": 1},
            "student": {"epochs": 1},
            "evaluation": {"resamples": 10} if options.quick else {},
        }
        config_file = root / "config.yaml"
        config_file.write_text(json.dumps(settings))  # JSON is YAML
        versions = {"0.1.0": Version(before, config_file), "today": Version(HERE, config_file)}
        versions["0.1.0"].run("train")
        seconds: dict[str, float] = {}
        for command in ("evaluate", "profile"):
            for turn in range(options.rounds + 1):  # the first warms up
                for name, version in versions.items():
                    took, key = version.run(command), f"{command}, {name}"
                    seconds[key] = min(took, seconds.get(key, took)) if turn else float("inf")
        for version in versions.values():
            version.end()
    checks = [
        Check(f"{command}: today / 0.1.0", seconds[f"{command}, today"] / seconds[f"{command}, 0.1.0"], BOUND)
        for command in ("evaluate", "profile")
    ]
    return finish("against 0.1.0", options, measured=milliseconds(seconds), checks=checks, seconds=seconds)


def extract(folder: Path) -> Path:
    """Version 0.1.0 out of git's history."""
    found = subprocess.run(["git", "-C", HERE, "archive", COMMIT], capture_output=True)
    if found.returncode:
        sys.exit(f"error: git has no commit {COMMIT} here; name a folder with 0.1.0 with --checkout")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


if __name__ == "__main__":
    own = {"checkout": "folder with version 0.1.0", "data": "prepared images"}
    sys.exit(main(parse_options(__doc__, rounds=3, image_size=256, paths=own)))
