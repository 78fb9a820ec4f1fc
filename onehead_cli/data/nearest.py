"""A hint, never a guess: where a file or folder is missing, the one that is nearly of its name."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from onehead_cli.data.layout import IMAGE_FOLDER, IMAGE_SUFFIXES, MASK_FOLDER

#: Hints per scan: each looks into folders, and nobody reads thousands.
_MOST_HINTS = 1000
#: Sub-folders that a file is looked for in.
_MOST_FOLDERS = 100

#: Of images that are not opened, and yet are what was meant.
_PICTURES = IMAGE_SUFFIXES | {".tif", ".tiff", ".gif", ".jp2", ".heic", ".avif", ".npy"}
#: What tools add to the name of an image for that of its mask.
_MASK_WORDS = "(?:masks?|gt|labels?|lbl|seg|segmentation|annotations?)"
#: Names that stand for one another.
_ALIKE = (
    {"images", "image", "imgs", "img", "pictures", "photos", IMAGE_FOLDER.lower()},
    {"masks", "mask", "labels", "label", "annotations", "annotation", "gt", MASK_FOLDER.lower()},
    {"train", "training"},
    {"val", "valid", "validation"},
    {"test", "testing"},
)


class Nearest:
    """Looks for what is near in the folders of one scan, each of which is listed once."""

    def __init__(self) -> None:
        self._left = _MOST_HINTS
        self._folders: dict[Path, _Folder] = {}

    def hint(self, path: Path, home: Path) -> str:
        """As "; found b.png", or nothing where no file or more than one is near.

        Args: home: the folder that the missing file's name is relative to.
        """
        if self._left == 0:
            return ""
        self._left -= 1
        found = self._near(path, home)
        if found is None:
            return ""
        shown = found.name if found.parent == path.parent else found
        return f"; found {shown}{_unlike(found.name, path.name)}"

    def _near(self, path: Path, home: Path) -> Path | None:
        try:
            name = path.relative_to(home).as_posix()
        except ValueError:  # an absolute name
            name = path.as_posix()
        for wanted in _spellings(name):
            found = self._folder(home / wanted.parent).near(wanted.name)
            if found is not None:
                return None if found == path else found  # a link that leads out is there itself
        below = [folder / path.name for folder in self._folder(home).folders[:_MOST_FOLDERS]]
        inside = [found for found in below if os.path.isfile(found)]  # noqa: PTH113 - a name may be too long
        return inside[0] if len(inside) == 1 else None

    def _folder(self, folder: Path) -> _Folder:
        if folder not in self._folders:
            self._folders[folder] = _Folder(folder)
        return self._folders[folder]


class _Folder:
    """The names in a folder. folders: in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folders: list[Path] = []
        self._by_key: dict[Callable[[str], str], defaultdict[str, list[str]]] = {
            key: defaultdict(list) for key in (str, _folded, _stem, _bare_stem)
        }
        for entry in _entries(folder):
            if os.path.isdir(entry.path):  # noqa: PTH112 - a link to itself is none, and no error
                self.folders.append(Path(entry.path))
            elif os.path.isfile(entry.path) and Path(entry.name).suffix.lower() in _PICTURES:  # noqa: PTH113
                for key, names in self._by_key.items():
                    names[key(entry.name)].append(entry.name)

    def near(self, name: str) -> Path | None:
        """The one file that is nearest, by the first of: its name, its name in another case or form, its stem, its
        stem without the words of masks."""
        for key, names in self._by_key.items():
            found = names.get(key(name), [])
            if found:
                return self.folder / found[0] if len(found) == 1 else None
        return None


def near_folder(path: Path) -> Path | None:
    """The folder or file beside a missing one, or beside the first missing folder above it, that is nearly of its name;
    None where there is none, or more than one."""
    path = path.absolute()
    while not os.path.isdir(path.parent) and path.parent != path:  # noqa: PTH112
        path = path.parent
    names = [entry.name for entry in _entries(path.parent) if os.path.isdir(entry.path) == (path.suffix == "")]  # noqa: PTH112
    alike = next((group for group in _ALIKE if path.name.lower() in group), set[str]())
    for near in (
        [name for name in names if _folded(name) == _folded(path.name)],
        [name for name in names if name.lower() in alike],
        [name for name in names if _is_misspelt(name, path.name)],
    ):
        if near:
            return path.with_name(near[0]) if len(near) == 1 else None
    return None


def _is_misspelt(name: str, wanted: str) -> bool:
    """Whether letters differ, and few: fold_1 and fold_2 are no misspellings of each other."""
    digits = re.findall(r"\d+", name) == re.findall(r"\d+", wanted)
    return digits and "." not in wanted and bool(difflib.get_close_matches(wanted, [name], cutoff=0.8))


def _spellings(name: str) -> Iterator[PurePosixPath]:
    """What a file's name may mean, the nearest first: as it is, with slashes, unquoted, with less in front of it."""
    meant = PurePosixPath(unquote(name.replace("\\", "/")))
    for spelling in (PurePosixPath(name), meant):
        if not spelling.is_absolute() and ".." not in spelling.parts:
            yield spelling
    if ".." not in meant.parts:
        for start in range(1, len(meant.parts)):
            yield PurePosixPath(*meant.parts[start:])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _stem(name: str) -> str:
    return PurePosixPath(_folded(name)).stem


def _bare_stem(name: str) -> str:
    """The stem without a second suffix and the words of masks."""
    stem = PurePosixPath(_stem(name))
    while stem.suffix in _PICTURES:
        stem = stem.with_suffix("")
    return re.sub(f"^({_MASK_WORDS}[-_. ])+(?=.)|(?<=.)([-_. ]{_MASK_WORDS})+$", "", stem.name)


def _unlike(name: str, wanted: str) -> str:
    """Said where two names look the same."""
    same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", wanted) and name != wanted
    return " (its accents are stored in another form of Unicode)" if same else ""


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []
