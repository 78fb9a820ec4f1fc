"""Which images a command line names, and what their outputs are called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from onehead_cli.data.layout import IMAGE_SUFFIXES
from onehead_cli.errors import ConfigError

#: Where `predict` writes, below the output folder.
FOLDER = "predictions"


def find_images(arguments: Sequence[str], *, skip: Path, warn: Callable[[str], None]) -> list[Path]:
    """The images in the order of the arguments, each once; those of a folder or pattern sorted.

    Args:
        arguments: a file is taken whatever its name; of a folder, what is in it and below and of a pattern (`*`, `?`,
            `[..]`, `**`), what it matches, hidden files and other suffixes left out.
        skip: a folder whose images are left out, unless it or they are arguments themselves.
        warn: called for an argument that has no image and a folder that cannot be read.

    Raises:
        ConfigError: a file or folder that is named is not there, or there is no image at all.
    """
    gone = [argument for argument in arguments if not (_is_there(argument) or has_magic(argument))]
    if gone:
        raise ConfigError(f"no such file or folder: {', '.join(gone)}")
    found: dict[Path, Path] = {}
    empty = []
    for argument in arguments:
        paths = list(_expand(argument, skip.resolve(), warn))
        for path in paths:
            found.setdefault(path.parent.resolve() / path.name, path)
        if not paths:
            empty.append(argument)
    if not found:
        raise ConfigError(f"no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in: {', '.join(empty)}")
    for argument in empty:
        warn(f"{argument}: no images in it")
    return list(found.values())


def output_names(paths: Sequence[Path], folder: Path, kinds: Sequence[str]) -> list[str]:
    """A name for the outputs of each image in `folder`: its stem, with -2, -3, ... where another image has it.

    Names that differ only in case count as equal, and no output takes the place of an image that is read.

    Args: kinds: of the images that are written beside the overlay, as {name}_{kind}.png.
    """
    taken = {path.stem.lower() for path in paths if path.parent.resolve() == folder.resolve()}
    counts: dict[str, int] = {}
    names = []
    for path in paths:
        stem = path.stem
        name, count = stem, counts.get(stem.lower(), 1)
        while {name.lower(), *(f"{name}_{kind}".lower() for kind in kinds)} & taken:
            count += 1
            name = f"{stem}-{count}"
        counts[stem.lower()] = count
        taken |= {name.lower(), *(f"{name}_{kind}".lower() for kind in kinds)}
        names.append(name)
    return names


def _expand(argument: str, skip: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    path = Path(argument)
    if not _is_there(argument):
        for match in sorted(glob(argument, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
            if Path(match).is_file() and _is_image(match) and Path(match).parent.resolve() != skip:
                yield Path(match)
    elif path.is_dir():
        yield from _below(argument, skip, warn)
    else:
        yield path


def _is_there(argument: str) -> bool:
    return os.path.exists(argument)  # noqa: PTH110 - Path.exists raises where a name is too long


def _below(folder: str, skip: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    def complain(error: OSError) -> None:
        warn(f"{error.filename}: cannot be read ({error.strerror})")

    for parent, folders, files in os.walk(folder, onerror=complain):
        folders[:] = sorted(name for name in folders if name[0] != "." and Path(parent, name).resolve() != skip)
        for name in sorted(files):
            if name[0] != "." and _is_image(name) and Path(parent, name).is_file():
                yield Path(parent, name)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES
