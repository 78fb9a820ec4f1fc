"""What benchmarks/against_0_1_0.py runs in a process of each version: engine functions, timed after the imports.

Whichever checkout PYTHONPATH names is imported, so nothing here may need what 0.1.0 has not. Each line of stdin is a
command, each line of the answer the seconds that it took; the first line says where the version lies.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import onehead_cli
import onehead_cli.evaluation.compare
import onehead_cli.profiling.profile
import onehead_cli.training.run
from onehead_cli import engine
from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config
from onehead_cli.registry import TASKS


def main(config_file: Path) -> None:
    config, console = load_config(config_file), Console(quiet=True)
    student = config.output / "all_best.pth"

    def train() -> None:
        engine.train_teacher(config, tasks=TASKS, resume=False, reporter=console)
        engine.train_unified(config, resume=False, reporter=console)

    def evaluate() -> None:
        splits = ["val", "test"]
        engine.evaluate(config, checkpoint=student, tasks=None, splits=splits, relative=False, reporter=console)

    def profile() -> None:
        engine.profile(
            config,
            checkpoint=student,
            of_config=False,
            image_size=None,
            batch_size=1,
            runs=30,
            threads=None,
            reporter=console,
        )

    commands = {"train": train, "evaluate": evaluate, "profile": profile}
    print(Path(onehead_cli.__file__).parent.parent, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        commands[line.strip()]()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
