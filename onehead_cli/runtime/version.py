"""Which code a network was trained with."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of the clone that onehead runs from, with `-dirty` where files were changed since; else None."""
    clone = Path(__file__).parents[2]
    # Only the folder's own: an environment within somebody's project would give that project's commit.
    if not (clone / ".git").exists():
        return None
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
