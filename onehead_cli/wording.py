"""Words that notes, tables and errors share."""

from __future__ import annotations


def how_many(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, as "1 picture" and "3 pictures"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
