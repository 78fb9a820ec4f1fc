"""Paths as people write them: with `~` and `$NAME`, which no shell fills in within a file or behind a `=`."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def full_path(text: str, folder: Path = Path()) -> str:
    """The path with the home folder and the variables filled in.

    Where something of this very name is there, with the signs, it is what is meant; so it is where its beginning is,
    unless the path that is filled in is there as a whole.

    Args:
        folder: what a relative path is taken from.

    Raises:
        ValueError: a variable is empty or not set; the message names it.
    """
    end = max((found.end() for found in _VARIABLE.finditer(text)), default=1 if text.startswith("~") else 0)
    # As far as it has signs: what is below may be a pattern, or still to be made.
    begun = text[:end] + text[end:].partition("/")[0]
    if not end or os.path.lexists(folder / text):
        return text
    is_begun = os.path.lexists(folder / begun)
    try:
        filled = _VARIABLE.sub(_value, text)
    except ValueError:
        if is_begun:
            return text
        raise
    with contextlib.suppress(RuntimeError):  # no user of that name, so that a folder of it is to be made
        filled = str(Path(filled).expanduser())
    return text if is_begun and not os.path.lexists(filled) else filled


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"the variable {name} is {'not set' if value is None else 'empty'}")
    return value
