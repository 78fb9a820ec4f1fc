"""Folders of images and of masks: each is listed once, and what is passed over in it is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onehead_cli.data.layout import IMAGE_SUFFIXES
from onehead_cli.data.passed_over import BESIDE_CLASSES, DEAD_LINK, NO_IMAGE, NOT_LISTED, in_words, passed_over
from onehead_cli.errors import DataError
from onehead_cli.wording import how_many


@dataclass(frozen=True)
class PassedOver:
    """What is passed over in one folder.

    counts: by kind. taken: how many files are used.
    """

    folder: Path
    counts: Counter[str]
    taken: int

    @property
    def is_most(self) -> bool:
        """Whether more is passed over than is taken, which is hardly meant."""
        return self.counts.total() > self.taken

    def __str__(self) -> str:
        return f"{self.folder}: {how_many(self.taken, 'file')} used, {in_words(self.counts)} ignored"


def images_in(folder: Path) -> tuple[list[Path], PassedOver]:
    """The images right in a folder, sorted, and what is passed over beside them.

    What has the suffix of an image is taken for one: the scan lists those that are none.

    Raises:
        DataError: the folder cannot be listed.
    """
    images: list[Path] = []
    rest: list[Path] = []
    for path in entries(folder):
        (images if path.suffix.lower() in IMAGE_SUFFIXES else rest).append(path)
    return sorted(images), PassedOver(folder, count(map(_kind, rest)), len(images))


def unused_masks(folder: Path, there: Sequence[Path], masks: Collection[Path]) -> PassedOver:
    """What of a folder of masks belongs to no image. Args: there: all that is in it. masks: PNGs."""
    wanted = set(masks)
    rest = [path for path in there if path not in wanted]
    kinds = (NO_IMAGE if path.suffix.lower() == ".png" and path.is_file() else _kind(path) for path in rest)
    return PassedOver(folder, count(kinds), len(there) - len(rest))


def unlisted(folder: Path, listed: Collection[Path], labels: Path, *, is_shared: bool) -> PassedOver:
    """What lies right in a folder of images and is not listed.

    Args:
        listed: images, in the folder or below it.
        labels: the file that lists them, which may lie in the folder too.
        is_shared: images that are not listed may be those of another split, and do not count.
    """
    folders = {path.parent for path in (labels, *listed)}
    used = {labels, *listed, *(parent for path in folders for parent in (path, *path.parents))}
    rest = [path for path in entries(folder) if path not in used]
    kinds = (NOT_LISTED if (kind := passed_over(path)) is None else kind for path in rest)
    return PassedOver(folder, count(kind for kind in kinds if not (is_shared and kind == NOT_LISTED)), len(listed))


def class_folders_in(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The folders in a folder, sorted by name, and what is passed over beside them, by kind.

    Raises:
        DataError: the folder cannot be listed.
    """
    folders: list[Path] = []
    rest: list[Path] = []
    for path in entries(folder):
        (folders if path.is_dir() else rest).append(path)
    kinds = (kind if (kind := passed_over(path)) == DEAD_LINK else BESIDE_CLASSES for path in rest)
    return sorted(folders, key=lambda path: path.name), count(kinds)


def entries(folder: Path) -> list[Path]:
    """What is in a folder but hidden files.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from None


def count(kinds: Iterable[str]) -> Counter[str]:
    """Of each kind, the kinds sorted."""
    return Counter(sorted(kinds))


def _kind(path: Path) -> str:
    """As `passed_over`, and of an image its suffix."""
    return passed_over(path) or path.suffix.lower()


def total(parts: Iterable[PassedOver]) -> Counter[str]:
    """What is passed over in several folders, by kind."""
    return count(kind for part in parts for kind in part.counts.elements())
