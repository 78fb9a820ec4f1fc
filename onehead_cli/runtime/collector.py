"""Python's collector of garbage, kept out of the way."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """While the context is open, cycles of dead objects are left alone; for work that makes few of them.

    The collector looks at all objects again and again while torch, timm and what they bring are imported, which takes a
    quarter of that time, and a timed pass that it falls into looks tenths of a second slower than it is.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
