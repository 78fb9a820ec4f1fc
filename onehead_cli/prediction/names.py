"""What images and their outputs are called: in the folder of predictions, in its records, and in a table."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outputs:
    """The files that an image has in the folder. name: what theirs begin with, "" where no record says."""

    name: str
    files: frozenset[str]


class Places:
    """Where images are, so that two runs know the same file as one; a link is not the file that it leads to."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: of the predictions."""
        self._folder = os.path.realpath(folder)
        self._parents: dict[str, str] = {}

    def of(self, path: str | Path) -> str:
        parent, name = os.path.split(path)
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        return os.path.join(self._parents[parent], name)  # noqa: PTH118 - a Path takes longer, of a million records

    def of_record(self, record: Mapping[str, Any]) -> str:
        """Raises: KeyError, TypeError or ValueError: it names no file."""
        base = os.path.join(self._folder, of_json(record["relative_to"])) if "relative_to" in record else ""  # noqa: PTH118
        return self.of(os.path.join(base, of_json(record["file"])))  # noqa: PTH118

    def for_record(self, path: Path) -> dict[str, str]:
        """The keys of a record that say which file it is of. A relative path is so from the folder `relative_to`, which
        itself is from the folder of the predictions: both may be moved together."""
        file = {"file": in_json(path)}
        if path.is_absolute():
            return file
        here = Path.cwd()
        try:
            return {**file, "relative_to": in_json(os.path.relpath(here, self._folder))}
        except ValueError:  # on another drive of Windows
            return {**file, "relative_to": in_json(here)}


def in_json(name: str | Path) -> str:
    """A name as it stands in records: its bytes read as UTF-8, whatever the locale, and a byte that is not as a lone
    surrogate. `.encode("utf-8", "surrogateescape")` gives the bytes."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def of_json(name: str) -> str:
    """The name that `in_json` wrote. Raises: TypeError or ValueError: it wrote none."""
    if not isinstance(name, str):
        raise TypeError
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def output_names(
    paths: Sequence[Path], folder: Path, kinds: Sequence[str], earlier: Mapping[str, Outputs] | None = None
) -> list[str]:
    """A name for the outputs of each image in `folder`: its stem, with -2, -3, ... where that is taken, and shortened
    where the file system takes no name as long.

    Taken is what another image has, in this run or by an earlier record, and every file in the folder that is not the
    image's own. Names that differ only in case or in the form of their accents count as equal.

    Args:
        kinds: of the images that are written beside the overlay, as {name}_{kind}.png.
        earlier: the outputs of images that have some, by `Places.of`; such an image keeps its name.
    """
    earlier, places = earlier or {}, Places(folder)
    taken = {_same(path.name) for path in paths if path.parent.resolve() == folder.resolve()}
    taken |= {_same(there.name) for there in folder.iterdir()} if folder.is_dir() else set()
    taken |= {_same(file) for outputs in earlier.values() for file in outputs.files}
    given: set[str] = set()
    room = _longest_name(folder) - max(len(os.fsencode(file)) for file in _files("", kinds))
    counts: dict[str, int] = {}
    names = []
    for path in paths:
        own = earlier.get(places.of(path), Outputs("", frozenset()))
        mine = {_same(file) for file in own.files}
        for name in _candidates(path.stem, own.name, room, counts):
            files = {_same(file) for file in _files(name, kinds)}
            if not files & given and not (files - mine) & taken:
                break
        given |= files
        names.append(name)
    return names


def _candidates(stem: str, own: str, room: int, counts: dict[str, int]) -> Iterator[str]:
    """Names for an image, the best first. Args: counts: where to go on counting, by stem."""
    if own:
        yield own
    first = _cut(stem, room)
    yield first
    same = _same(first)
    while True:
        counts[same] = counts.get(same, 1) + 1
        ending = f"-{counts[same]}"
        yield _cut(stem, room - len(ending)) + ending


def _files(name: str, kinds: Sequence[str]) -> list[str]:
    return [f"{name}.png", *(f"{name}_{kind}.png" for kind in kinds)]


def _cut(name: str, room: int) -> str:
    """The beginning of a name that has at most `room` bytes."""
    encoded = os.fsencode(name)
    if len(encoded) <= room:
        return name
    cut = encoded[:room]
    while cut and encoded[len(cut)] & 0xC0 == 0x80:  # not within a character of UTF-8
        cut = cut[:-1]
    return os.fsdecode(cut)


def _longest_name(folder: Path) -> int:
    """In bytes; 255 where the system does not say."""
    if sys.platform != "win32":  # which is not to be asked
        with suppress(OSError, ValueError):
            return os.pathconf(folder, "PC_NAME_MAX")
    return 255


def _same(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def short_names(paths: Sequence[Path]) -> list[str]:
    """The name of each file, with as many of its folders as tell it from those of the same name."""
    names = [path.name for path in paths]
    parts = [path.parts for path in paths]
    left = list(range(len(paths)))
    depth = 1
    while left:
        for index in left:
            names[index] = "/".join(parts[index][-depth:])
        often = Counter(names[index] for index in left)
        left = [index for index in left if often[names[index]] > 1 and depth < len(parts[index])]
        depth += 1
    return names
