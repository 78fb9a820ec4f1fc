"""The files of an official dataset, wherever they are: unpacked on disk, in an archive, or single ones to fetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol

from onehead_cli.data.images import open_image
from onehead_cli.data.prepare.archives import Archive
from onehead_cli.errors import DataError

#: Width and height in pixels that an image must have, by its name.
ImageSizes = dict[str, tuple[int, int]]


class OfficialFiles(Protocol):
    """Files by their path in the dataset, such as "train2017/000000000009.jpg"; all methods raise DataError."""

    #: "coco", "voc" or "imagenette".
    dataset: str

    def names(self, folder: str) -> list[str]:
        """The files under a folder of the dataset, at any depth."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        ...

    def get(self, names: Sequence[str], sizes: ImageSizes | None = None) -> dict[str, Path]:
        """Bring files to disk; where each of them lies. With `sizes` they are images, and checked."""
        ...

    def url(self, name: str) -> str | None:
        """The official address of the file or of the archive that holds it; None where that is not known."""
        ...


class FolderFiles:
    """A dataset that lies unpacked in a folder."""

    def __init__(self, dataset: str, root: Path) -> None:
        self.dataset = dataset
        self.root = root

    def names(self, folder: str) -> list[str]:
        path = self.path(folder)
        return [found.relative_to(self.root).as_posix() for found in path.rglob("*") if found.is_file()]

    def read(self, name: str) -> bytes:
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.root / name}: cannot be read ({error.strerror})") from None

    def get(self, names: Sequence[str], sizes: ImageSizes | None = None) -> dict[str, Path]:
        paths = {name: self.path(name) for name in names}
        for name, (width, height) in (sizes or {}).items():
            if name in paths and (problem := image_problem(paths[name], width, height)):
                raise DataError(f"{paths[name]}: {problem}")
        return paths

    def url(self, name: str) -> str | None:
        return None

    def path(self, name: str) -> Path:
        """Raises: DataError: the name leaves the folder, or there is nothing."""
        path = self.root / inside(name, self.root)
        if not path.exists():
            raise DataError(f"{path}: not found; is {self.root} the folder of {self.dataset}?")
        return path


class ArchiveFiles:
    """A dataset in an archive, of which only what is needed is unpacked.

    Args:
        inner: the folder in the archive that holds the dataset.
        unpacked: a folder of this object's own.
    """

    def __init__(self, dataset: str, archive: Path, *, inner: str, unpacked: Path, url: str) -> None:
        self.dataset = dataset
        self._archive = Archive(archive)
        self._inner = PurePosixPath(inner)
        self._unpacked = unpacked
        self._url = url

    def names(self, folder: str) -> list[str]:
        under = self._inner / folder
        paths = [PurePosixPath(name) for name in self._archive.names()]
        found = [str(path.relative_to(self._inner)) for path in paths if path.is_relative_to(under)]
        if not found:
            raise DataError(f"{self._archive.path}: contains no {under}")
        return found

    def read(self, name: str) -> bytes:
        return self._archive.read(str(self._inner / name))

    def get(self, names: Sequence[str], sizes: ImageSizes | None = None) -> dict[str, Path]:
        stored = {name: str(self._inner / name) for name in names}
        paths = self._archive.extract(stored.values(), self._unpacked)
        return {name: paths[stored[name]] for name in names}

    def url(self, name: str) -> str | None:
        return self._url


class CocoFiles(ArchiveFiles):
    """COCO: the annotations from their archive, each image from its own address.

    Args:
        images: brings images of the given sizes to disk.
        base: what an official image's address begins with.
    """

    def __init__(
        self,
        archive: Path,
        *,
        unpacked: Path,
        url: str,
        base: str,
        images: Callable[[Sequence[str], ImageSizes], dict[str, Path]],
    ) -> None:
        super().__init__("coco", archive, inner="", unpacked=unpacked, url=url)
        self._base = base
        self._images = images

    def get(self, names: Sequence[str], sizes: ImageSizes | None = None) -> dict[str, Path]:
        if sizes is None:
            return super().get(names)
        return self._images([str(inside(name, self._archive.path)) for name in names], sizes)

    def url(self, name: str) -> str | None:
        return self._base + name


def inside(name: str, where: Path) -> PurePosixPath:
    """A file's name as a path that stays in its folder. Raises: DataError: it does not; `where` is who says it."""
    path, here = PurePosixPath(name), PurePath(name)  # here: on Windows, where backslashes and drives count as well
    if path.is_absolute() or here.anchor or ".." in {*path.parts, *here.parts} or "\0" in name:
        raise DataError(f"{where}: the name {name!r} leaves its folder")
    return path


def image_problem(path: Path, width: int, height: int) -> str | None:
    """What is wrong with an image, turned upright: it cannot be decoded, or has another size in pixels."""
    try:
        image = open_image(path)
    except DataError:
        return "not a readable image"
    if image.size != (width, height):
        return f"{image.width} x {image.height} pixels instead of {width} x {height}"
    return None
