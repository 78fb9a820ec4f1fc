"""Which images a command line names, or a list on stdin."""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from onehead_cli.config.paths import full_path
from onehead_cli.data.layout import IMAGE_SUFFIXES
from onehead_cli.data.passed_over import SUB_FOLDER, in_words, passed_over
from onehead_cli.errors import ConfigError
from onehead_cli.events import Reporter

#: Where `predict` writes, below the output folder.
FOLDER = "predictions"

#: Paths that are not there and are named in an error.
_NAMED = 5


@dataclass(frozen=True)
class FoundImages:
    """paths: in the order of the arguments, each once; those of a folder or pattern sorted.

    passed_over: how many of which kind lay among them, see `data.passed_over`.
    """

    paths: list[Path]
    passed_over: Mapping[str, int]


def find_images(arguments: Sequence[str | Path], *, skip: Path, reporter: Reporter) -> FoundImages:
    """The images that arguments name.

    Args:
        arguments: a file is taken whatever its name; of a folder, what is in it and below and of a pattern (`*`, `?`,
            `[..]`, `**`), what it matches, hidden files and other suffixes left out. A Path is no pattern, and `~` and
            `$` are letters of its name.
        skip: a folder whose images are left out, unless it or they are arguments themselves.
        reporter: is told what is passed over, an argument that has no image, and a folder that cannot be read.

    Raises:
        ConfigError: a file or folder that is named is not there, or there is no image at all.
    """
    named = [_meant(argument) for argument in arguments]
    gone = [str(each) for each in named if not (_is_there(each) or (isinstance(each, str) and has_magic(each)))]
    if gone:
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        raise ConfigError(f"no such file or folder: {', '.join(gone[:_NAMED])}{more}")
    found: dict[Path, Path] = {}
    passed: dict[Path, str] = {}
    empty, notes = [], []
    for argument in map(str, named):
        images, others = 0, Counter[str]()
        for path, kind in _expand(argument, skip.resolve(), reporter):
            place = path.parent.resolve() / path.name
            if kind is None:
                images += 1
                found.setdefault(place, path)
            else:
                others[kind] += 1
                passed[place] = kind
        if others:
            notes.append(f"ignored in {argument}: {_in_words(others)}")
        if not images:
            empty.append(argument)
    passed = {place: kind for place, kind in passed.items() if place not in found}
    if not found:
        what = f"; ignored: {_in_words(Counter(passed.values()))}" if passed else ""
        raise ConfigError(f"no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in: {', '.join(empty)}{what}")
    for note in notes:
        reporter.note(note)
    for argument in empty:
        reporter.warn(f"{argument}: no images in it")
    return FoundImages(list(found.values()), dict(sorted(Counter(passed.values()).items())))


def listed_paths(content: bytes) -> list[Path]:
    """The paths of a list: one per line, blank ones passed over; with a NUL after each, as `find -print0` gives them.

    Raises:
        ConfigError: it has none.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes it
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        paths = [path for path in content.split(b"\0") if path.strip()]
    else:
        paths = [line.removesuffix(b"\r") for line in content.split(b"\n") if line.strip()]
    if not paths:
        raise ConfigError("the list of paths on stdin is empty")
    return [Path(os.fsdecode(path)) for path in paths]


def _in_words(counts: Mapping[str, int]) -> str:
    return in_words(dict(sorted(counts.items())))


def _meant(argument: str | Path) -> str | Path:
    """`~` and variables are the shell's, but it leaves them alone in quotes."""
    if isinstance(argument, Path):
        return argument
    try:
        return full_path(argument)
    except ValueError as error:
        raise ConfigError(f"{argument}: {error}") from None


def _expand(argument: str, skip: Path, reporter: Reporter) -> Iterator[tuple[Path, str | None]]:
    """Each file of an argument, and its kind where it is passed over."""
    path = Path(argument)
    if not _is_there(argument):
        matches = sorted(glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        outside = (Path(match) for match in matches if Path(match).parent.resolve() != skip)
        yield from _images_among(each for each in outside if each.resolve() != skip)
    elif path.is_dir():
        yield from _below(argument, skip, reporter)
    else:
        yield path, None


def _is_there(argument: str | Path) -> bool:
    return os.path.exists(argument)  # noqa: PTH110 - Path.exists raises where a name is too long


def _below(folder: str, skip: Path, reporter: Reporter) -> Iterator[tuple[Path, str | None]]:
    def complain(error: OSError) -> None:
        reporter.warn(f"{error.filename}: cannot be read ({error.strerror})")

    for parent, folders, files in os.walk(folder, onerror=complain):
        folders[:] = sorted(name for name in folders if name[0] != "." and Path(parent, name).resolve() != skip)
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):  # noqa: PTH114, PTH118 - it is not walked into
                yield Path(parent, name), SUB_FOLDER
        yield from _images_among(Path(parent, name) for name in sorted(files))


def _images_among(paths: Iterable[Path]) -> Iterator[tuple[Path, str | None]]:
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):  # noqa: PTH113 - a folder may be locked
            yield path, None
        else:
            yield path, _kind(path)


def _kind(path: Path) -> str:
    try:
        return passed_over(path) or "special file"  # a pipe or a socket
    except OSError:
        return "unreadable file"
