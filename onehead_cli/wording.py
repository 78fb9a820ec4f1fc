"""Words that notes, tables and errors share."""

from __future__ import annotations

import re
import unicodedata


def how_many(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, as "1 image" and "3 images"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def shown(text: str) -> str:
    """Text as it may reach a terminal, on one line: a control character of a name is written as \\n, \\t or \\x1b.

    So are a line separator, what turns the direction of writing, and a byte of a name that is not UTF-8 (\\xe9).
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_shown_character, text))


def is_one_line(text: str) -> bool:
    """Whether text can stand in a message, a table or a file's name: no control characters, no lone surrogates."""
    return not any(unicodedata.category(character) in _NEVER for character in text)


def first_line(error: Exception) -> str:
    """Of what an error of a library says, which may go on for many lines."""
    return next(iter(_COLOURS.sub("", str(error)).strip().splitlines()), type(error).__name__)


def escaped(character: str) -> str:
    """A character as \\n, \\xe9, \\u2013 or \\U0001f600; half of one that stands for a byte of a name as that byte."""
    if "\udc80" <= character <= "\udcff":  # how Python writes a byte of a name that is not UTF-8
        character = chr(ord(character) - 0xDC00)
    return _SHORT.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


#: What turns colours of a terminal on and off; torch's exporter writes it into its messages.
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_SHORT = {chr(code): f"\\x{code:02x}" for code in (*range(32), 127)} | {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: Of Unicode's classes: control characters, halves of characters, separators of lines and of paragraphs.
_NEVER = ("Cc", "Cs", "Zl", "Zp")
#: They turn the direction of writing, so that a name shows what it is not.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _shown_character(character: str) -> str:
    unseen = unicodedata.category(character) in _NEVER or character in _TURNING
    return escaped(character) if unseen else character


#: Class folder -> readable name.
IMAGENETTE_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def readable(name: str) -> str:
    """The class name as a person would say it; ImageNet's folder names have one."""
    return IMAGENETTE_NAMES.get(name, name)
