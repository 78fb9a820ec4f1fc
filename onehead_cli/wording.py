"""Words that notes, tables and errors share."""

from __future__ import annotations


def how_many(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, as "1 image" and "3 images"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


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
