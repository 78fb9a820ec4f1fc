"""Properties of readers that are tried on a few examples in `make test`, and in `make soak` for minutes on new ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

#: How long each reader is tried in `make soak`, in seconds.
LONG = 300
_SETTINGS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def fuzz(check: Callable[[Any], None], examples: SearchStrategy[Any], *, soak: bool, few: int = 60) -> int:
    """Check what holds of every example; the number of examples.

    Args:
        few: without `soak`, so many, always the same ones.

    Raises:
        AssertionError, or whatever `check` raises: with the smallest example that shows it.
    """
    tried = 0

    def counted(example: Any) -> None:
        nonlocal tried
        tried += 1
        check(example)

    if not soak:
        settings(_SETTINGS, max_examples=few, derandomize=True)(given(examples)(counted))()
        return tried
    ends = time.monotonic() + LONG
    start = time.time_ns()
    print(f"seeds from {start}")  # which pytest shows where something fails
    while time.monotonic() < ends:
        batch = settings(_SETTINGS, max_examples=200, phases=[Phase.generate, Phase.shrink])(given(examples)(counted))
        seed(start + tried)(batch)()
    return tried
