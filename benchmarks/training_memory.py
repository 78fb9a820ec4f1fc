"""Peak memory of `train-unified` with distillation at 320 px, batch 4 per task, on the CPU: at most 6 GB.

It must not grow with the buffer: 8 mini-batches take within 5 % of what 1 takes. Each training is a process of its own,
and the figure is its largest resident set, Python and libraries included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import BATCH_SIZE, QUICK_MODEL, Check, Options, draw_data, finish, parse_options

BOUND_GB = 6.0
GROWTH_BOUND = 1.05


def main(options: Options) -> int:
    if options.device != "cpu":
        sys.exit("this benchmark measures the CPU's memory")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        largest = 3 if options.quick else 8
        # As many mini-batches per epoch: one buffer of all.
        draw_data(root, train=largest * BATCH_SIZE, image_size=options.image_size)
        common = ["--data", root, "--image-size", options.image_size, "--batch-size", BATCH_SIZE, "--device", "cpu"]
        student = ["--teachers", root / "teachers", "--epochs", options.rounds, *common]
        if options.quick:
            network = ["--backbone", QUICK_MODEL["backbone"], "--no-pretrained"]
            student = ["--lambda-distill", 0, "--epochs", 1, *network, *common]
        else:
            _run("train-teacher", "--task", "all", "--epochs", 1, "--output", root / "teachers", *common)
        gigabytes = {
            size: _run(
                "train-unified",
                *("--output", root / f"student{size}", "--set", f"student.buffer_size={size}"),
                *student,
            )
            for size in (1, largest)
        }
    checks = [
        Check("GB, the larger of both", max(gigabytes.values()), BOUND_GB),
        Check(f"buffer {largest} / buffer 1", gigabytes[largest] / gigabytes[1], GROWTH_BOUND),
    ]
    measured = {f"train-unified, buffer of {size}": f"{value:.2f} GB" for size, value in gigabytes.items()}
    return finish("training memory", options, measured=measured, column="Peak", checks=checks, gigabytes=gigabytes)


def _run(*arguments: object) -> float:
    """Run a command of onehead and return its peak resident set in GB (1e9 bytes)."""
    child = subprocess.Popen(
        [sys.executable, "-m", "onehead_cli", *map(str, arguments), "--quiet"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{arguments[0]} failed")
    # Kilobytes on Linux, bytes on macOS.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=3)))
