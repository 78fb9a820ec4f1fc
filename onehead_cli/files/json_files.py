"""Reading and writing JSON, whatever a file holds; what is written has the same bytes on every system."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onehead_cli.errors import DataError
from onehead_cli.wording import is_one_line

#: Of the JSON documents that commands give and write; a key that changes its meaning is another number.
SCHEMA = 1


def read_json(path: Path) -> dict[str, Any]:
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json(
    text: bytes, where: Path | str, *, keep: Callable[[dict[str, Any]], bool] | None = None
) -> dict[str, Any]:
    """The object that a JSON text holds.

    Args:
        keep: objects that it refuses, at any depth, become None while the text is read, which saves their memory.

    Raises:
        DataError: it holds none; `where` is named.
    """
    hook = None if keep is None else lambda found: found if keep(found) else None
    collecting = gc.isenabled()
    gc.disable()  # it would walk through millions of new objects again and again, none of them garbage
    try:
        decoded = text.decode("utf-8")
        del text  # half a gigabyte of COCO
        content = json.loads(decoded, object_hook=hook)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not valid JSON") from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise DataError(f"{where}: expected a JSON object")
    return content


def entries_of(content: dict[str, Any], key: str, fields: Mapping[str, type], path: Path | str) -> list[dict[str, Any]]:
    """A list of a JSON file, each entry an object with at least these fields, of these types.

    Raises:
        DataError: it is not; in one line, with the index of the first bad entry.
    """
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: has no list '{key}'")
    for index, entry in enumerate(entries):
        for field, kind in fields.items():
            value: Any = entry.get(field) if isinstance(entry, dict) else None
            if type(value) is not kind or (kind is int and not is_float(value)):
                raise DataError(f"{path}: {key}[{index}] needs '{field}' ({kind.__name__})")
            if isinstance(value, str) and not is_one_line(value):
                raise DataError(
                    f"{path}: {key}[{index}].{field} {value!a} holds a control character or half a character"
                )
    return entries


def is_float(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; NaN and infinity are, an integer of 400 digits is not."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def write_json(content: Mapping[str, Any], path: Path, *, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8", newline="\n")
