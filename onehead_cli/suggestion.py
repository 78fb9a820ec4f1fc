"""What was meant by a word that is not known, where it is near."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

#: Words named in a suggestion.
_MOST = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: "; did you mean 'a' or 'b'?", or nothing where no known word is near."""
    return suggestion(nearest(word, known))


def suggestion(words: Sequence[str]) -> str:
    """The end of a message that names these words, at most three."""
    named = " or ".join(f"'{word}'" for word in words[:_MOST])
    return f"; did you mean {named}?" if named else ""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that are nearest to one that is not known; none where none is near.

    Near are one edit (a letter too many, too few, another, or two swapped), two where both words have five letters or
    more, the same letters or parts in another order, a name of which a part is left out, as `train` of `train-teacher`,
    and one that the word begins with, as `val` of `validation`.
    """
    far = 3
    distances = {name: _distance(_plain(word), _plain(name), far) for name in known}
    least = min(distances.values(), default=far)
    return [name for name, distance in distances.items() if distance == least < far]


def _plain(word: str) -> str:
    return re.sub(r"[-_. ]+", "-", word.casefold()).strip("-")


def _distance(word: str, name: str, far: int) -> int:
    """0 to 2, or `far`."""
    if word == name:
        return 0
    if len(word) < 3:
        return far
    if sorted(word.split("-")) == sorted(name.split("-")) or name.startswith(f"{word}-") or name.endswith(f"-{word}"):
        return 1
    limit = 2 if min(len(word), len(name)) >= 5 else 1
    edits = _edits(word, name, limit)
    if edits <= limit:
        return edits
    begins = len(name) >= 3 and word.startswith(name) and "-" not in word
    return 2 if begins or sorted(word) == sorted(name) else far


def _edits(a: str, b: str, limit: int) -> int:
    """Letters to insert, delete, replace or swap with the next; some number above the limit where it is above."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            edits = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                edits = min(edits, before[j - 2] + 1)
            row.append(edits)
        before, last = last, row
    return last[-1]
