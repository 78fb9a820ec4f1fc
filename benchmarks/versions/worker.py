"""What benchmarks/against_0_1_0.py runs in a process of each version: commands of the shell, timed without its start.

Whichever checkout PYTHONPATH names is imported, so nothing here may need what 0.1.0 has not: only the command line is
the same in both. Each line of stdin is a command, each line of the answer the seconds that it took; the first line
says where the version lies.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import onehead_cli
from onehead_cli.app import run


def main(config_file: Path) -> None:
    student = Path(json.loads(config_file.read_text())["output"]) / "all_best.pth"
    # 0.1.0 wrote none, and what it costs is not what is compared.
    no_report = [] if onehead_cli.__version__ == "0.1.0" else ["--no-report"]
    shared = ["--config", str(config_file), "--quiet"]
    commands = {
        "train": [["train-teacher", "--task", "all"], ["train-unified"]],
        "evaluate": [["evaluate", "--checkpoint", str(student), "--split", "val,test", *no_report]],
        "profile": [["profile", "--checkpoint", str(student)]],
    }
    print(Path(onehead_cli.__file__).parent.parent, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for args in commands[line.strip()]:
            with contextlib.redirect_stdout(io.StringIO()):
                code = run([*args, *shared])
            if code:
                sys.exit(code)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
