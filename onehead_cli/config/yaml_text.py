"""Reading YAML from users, whatever it holds."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """The document as plain Python objects; None where it is empty.

    Raises:
        ValueError: not YAML, with the line where it is known; the message fits behind a file name.
    """
    try:
        found = yaml.safe_load(text)
    # PyYAML lets pass whatever its parts stumble over: KeyError for `!!bool maybe`, AttributeError for `!!timestamp x`,
    # ValueError for 2001-99-99, RecursionError for deep nesting.
    except Exception as error:
        where = getattr(error, "problem_mark", None)
        raise ValueError("not valid YAML" + (f" at line {where.line + 1}" if where else "")) from None
    return found
