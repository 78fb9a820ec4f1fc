"""The student that comes with the installation (MODEL_CARD.md says what it is), and when it is the one that is used."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from onehead_cli.checkpoint import STUDENT, best_path
from onehead_cli.errors import CheckpointError
from onehead_cli.types import Reporter

FILE = "student.safetensors"
CARD = "MODEL_CARD.md"


def shipped_student() -> Path:
    """Where the packaged student is, if it is there; `benchmarks/ship.py` writes it."""
    return Path(str(resources.files(__name__))) / FILE


def find_student(output: Path, reporter: Reporter) -> Path:
    """The network of a command that names none: the output folder's own student, else the packaged one.

    Raises:
        CheckpointError: there is neither.
    """
    own, shipped = best_path(output, STUDENT), shipped_student()
    # A broken link is no reason to use another network than the one that was meant.
    if os.path.lexists(own):
        reporter.note(f"network: {own}")
        return own
    if shipped.is_file():
        reporter.note(f"network: the student that comes with onehead, for there is no {own}")
        return shipped
    raise CheckpointError(
        f"{own}: no such checkpoint, and no student comes with this installation; train one with "
        "`onehead train-unified`, name its folder with --output, or name a file with --checkpoint"
    )
