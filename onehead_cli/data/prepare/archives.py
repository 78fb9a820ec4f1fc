"""Reading tar and zip archives that may have been made to do harm."""

from __future__ import annotations

import errno
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from onehead_cli.errors import DataError

#: An archive with more than this is refused before anything of it is written.
MAX_BYTES = 8_000_000_000
MAX_ENTRIES = 200_000
#: Longest single read: tarfile takes an entry's extended header into memory whole, however long it says it is.
_MAX_READ = 64 << 20
#: All that tarfile, zipfile and gzip raise for bytes that make no sense.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    struct.error,
    IndexError,
    NotImplementedError,
    ValueError,
)


class Archive:
    """A .zip, .tar or .tgz file, whose every entry is checked before the first is read.

    Refused as a whole: one with an entry that leaves its folder, is a link, a device or sparse, is stored twice or
    under names that differ only in case; with more than MAX_ENTRIES entries or MAX_BYTES bytes; encrypted; damaged.
    Each method raises DataError for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, str] | None = None

    def names(self) -> Collection[str]:
        """The files in it, folders separated by slashes."""
        return self._checked().keys()

    def read(self, name: str) -> bytes:
        """Raises: DataError: there is no such file in it."""
        found: list[bytes] = []
        self._visit([name], lambda _, file: found.append(file.read()), None)
        return found[0]

    def extract(self, names: Collection[str], folder: Path) -> dict[str, Path]:
        """Write these files under a folder that nobody else writes into; where each of them lies.

        Raises: DataError: one of them is not in it.
        """
        self._visit(names, None, folder)
        return {name: folder / PurePosixPath(name) for name in names}

    def _visit(
        self, names: Collection[str], use: Callable[[str, IO[bytes]], object] | None, folder: Path | None
    ) -> None:
        """Extract into the folder, or hand over the open files; in the order in which they lie in the archive."""
        files = self._checked()
        for name in names:
            if name not in files:
                raise DataError(f"{self.path}: contains no {name}")
        wanted = {files[name]: name for name in names}
        with self._open() as archive:
            if isinstance(archive, zipfile.ZipFile):
                for info in archive.infolist():
                    if info.filename in wanted and folder is not None:
                        archive.extract(info, folder)
                    elif info.filename in wanted and use is not None:
                        with archive.open(info) as file:
                            use(wanted[info.filename], file)
                return
            for member in archive:
                if member.name in wanted and folder is not None:
                    archive.extract(member, folder, filter="data")
                elif member.name in wanted and use is not None:
                    use(wanted[member.name], cast(IO[bytes], archive.extractfile(member)))

    def _checked(self) -> dict[str, str]:
        """The plain name of each file -> its name as stored."""
        if self._files is None:
            checks = _Checks(self.path)
            with self._open() as archive:
                if isinstance(archive, zipfile.ZipFile):
                    for info in archive.infolist():
                        checks.zip_entry(info)
                else:
                    for member in archive:
                        checks.tar_entry(member)
            self._files = checks.files
        return self._files

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
        try:
            if self.path.suffix == ".zip":
                with zipfile.ZipFile(self.path) as archive:
                    yield archive
                return
            opener = gzip.open if self.path.suffix in (".tgz", ".gz") else open
            with opener(self.path, "rb") as file:
                bounded = cast(BinaryIO, _Bounded(cast(BinaryIO, file)))
                with tarfile.open(fileobj=bounded, mode="r:") as tar:
                    yield tar
        except FileNotFoundError:
            raise DataError(f"{self.path}: not found") from None
        except tarfile.FilterError as error:
            raise DataError(f"{self.path}: unsafe archive: {error}") from None
        except _DAMAGED as error:
            raise DataError(f"{self.path}: damaged archive ({error})") from None
        except OSError as error:
            if error.errno != errno.EINVAL:  # zipfile: a place before the beginning of the file
                raise
            raise DataError(f"{self.path}: damaged archive ({error.strerror})") from None


class _Checks:
    """What makes an archive unsafe, entry by entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, str] = {}
        self._entries = 0
        self._bytes = 0
        self._spelling: dict[str, str] = {}

    def zip_entry(self, info: zipfile.ZipInfo) -> None:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            raise self._unsafe(info.filename, "is encrypted")
        regular = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        self._entry(info.filename, info.file_size, regular=regular, folder=info.is_dir())

    def tar_entry(self, member: tarfile.TarInfo) -> None:
        regular = (member.isreg() and not member.issparse()) or member.isdir()
        self._entry(member.name, member.size, regular=regular, folder=member.isdir())

    def _entry(self, name: str, size: int, *, regular: bool, folder: bool) -> None:
        self._entries += 1
        self._bytes += size
        if self._entries > MAX_ENTRIES:
            raise DataError(f"{self.path}: unsafe archive: more than {MAX_ENTRIES:,} entries")
        if self._bytes > MAX_BYTES:
            raise DataError(f"{self.path}: unsafe archive: unpacks to more than {MAX_BYTES:,} bytes")
        if not regular:
            raise self._unsafe(name, "is a link, a device or a sparse file")
        plain = PurePosixPath(name)
        if plain.is_absolute() or ".." in plain.parts or any(sign in name for sign in "\\:\0"):
            raise self._unsafe(name, "leaves its folder")
        # The folders above count as well: "A/1" and "a/2" would lie in one folder on some disks and in two on others.
        for path in (plain, *plain.parents):
            before = self._spelling.setdefault(str(path).casefold(), str(path))
            if before != str(path):
                raise self._unsafe(name, f"differs only in case from '{before}'")
        if not folder:
            if str(plain) in self.files:
                raise self._unsafe(name, "is stored twice")
            self.files[str(plain)] = name

    def _unsafe(self, name: str, why: str) -> DataError:
        return DataError(f"{self.path}: unsafe archive: entry {name!r} {why}")


class _Bounded:
    """A file that refuses to be read in one huge piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)
