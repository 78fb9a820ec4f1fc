"""The folder of official downloads: each archive and each single image is fetched once, ever."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from onehead_cli.data.prepare.addresses import COCO, COCO_PICTURE_BYTES, OFFICIAL_SOURCES, OfficialSource
from onehead_cli.data.prepare.download import Downloader
from onehead_cli.data.prepare.official_files import ImageSizes, image_problem, inside
from onehead_cli.errors import DataError, DownloadError
from onehead_cli.events import Reporter
from onehead_cli.files.checksum import sha256_of
from onehead_cli.files.lock import locked

_PARALLEL = 8
#: Beside the downloads: what is unpacked and copied of them, masks and images.
_UNPACKED_BYTES = 300_000_000


@dataclass(frozen=True)
class Planned:
    """What a draw needs from the network.

    what: "archive" or "pictures". bytes: of all of it, exact for archives. cached: files of it that are there already.
    cached_bytes: bytes of it that are there already, of a file that is not complete included.
    """

    dataset: str
    what: str
    url: str
    files: int
    bytes: int
    cached: int
    cached_bytes: int

    @property
    def missing_bytes(self) -> int:
        return max(self.bytes - self.cached_bytes, 0)


class DownloadCache:
    """{folder}/{dataset}/ followed by the file's path at its address.

    Args:
        base_urls: by dataset, an address that serves the same paths, instead of the official addresses.
    """

    def __init__(
        self, folder: Path, *, base_urls: Mapping[str, str], downloader: Downloader, reporter: Reporter
    ) -> None:
        self.folder = folder
        self._base_urls = base_urls
        self._downloader = downloader
        self._reporter = reporter
        self._verified: set[Path] = set()
        #: Bytes fetched in this run, by archive or image, and the bar over all of them.
        self._fetched: dict[str, int] = {}
        self._show: Callable[[int], None] = lambda fetched: None

    @contextmanager
    def filling(self, planned: Sequence[Planned]) -> Iterator[None]:
        """Keep other runs out of the folder, and show one bar over all that is planned.

        Raises:
            DownloadError: another run is at work in the folder, or the disk has no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self._check_room(planned)
            missing = sum(part.missing_bytes for part in planned)
            if not missing:
                yield
                return
            with self._reporter.track("all downloads", missing, unit="bytes") as advance:
                self._show = lambda fetched: advance(min(fetched, missing), "")
                yield

    def archive_path(self, source: OfficialSource) -> Path:
        return self.folder / source.name / source.archive

    def archive(self, source: OfficialSource) -> Path:
        """The archive, fetched unless it is there, in either case with the right checksum.

        Raises:
            DownloadError: it cannot be had.
        """
        path = self.archive_path(source)
        if path.is_file():
            if self._is_right(source):
                return path
            self._reporter.warn(f"{path}: not the expected file; downloading it again")
            path.unlink()
        size, sha256 = self._expected(source)
        urls = [base + source.archive for base in self._bases(source)]
        held = _part_bytes(path)
        gone_on = f", {decimal(held)} already there" if held else ""
        self._reporter.note(f"downloading {urls[0]} ({decimal(size) if size else 'unknown size'}{gone_on})")
        with self._reporter.track(path.name, size or source.bytes, unit="bytes") as advance:

            def show(received: int) -> None:
                advance(received, "")
                self._count(source.name, received - held)

            try:
                self._downloader.fetch(urls, path, size=size, sha256=sha256, advance=show)
            except DownloadError as error:
                other = f" ({source.other})" if source.other else ""
                raise DownloadError(f"{error}{other}") from None
        self._verified.add(path)
        return path

    def has_archive(self, source: OfficialSource) -> bool:
        return self.archive_path(source).is_file() and self._is_right(source)

    def images(self, names: Sequence[str], sizes: ImageSizes) -> dict[str, Path]:
        """COCO images, several at a time; each decodes and has its size, the ones that are there already too.

        Raises:
            DownloadError: one of them cannot be had.
        """
        paths = {name: self._image_path(name) for name in names}
        missing = [name for name in names if self._image_problem(name, sizes) is not None]
        if not missing:
            return paths
        pool = ThreadPoolExecutor(_PARALLEL)
        with self._reporter.track("COCO images", len(missing)) as advance:
            try:
                futures = [pool.submit(self._fetch_image, name, sizes[name]) for name in missing]
                for done, future in enumerate(as_completed(futures), start=1):
                    self._count(future.result(), COCO_PICTURE_BYTES)
                    advance(done, "")
            except BaseException:
                self._downloader.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        return paths

    def plan(self, images: Sequence[str] | int) -> list[Planned]:
        """What a draw needs; of the images their names, or how many there will be."""
        planned = []
        for source in OFFICIAL_SOURCES.values():
            path = self.archive_path(source)
            complete = self.has_archive(source)
            held = source.bytes if complete else _part_bytes(path)
            url = self._bases(source)[0] + source.archive
            planned.append(Planned(source.name, "archive", url, 1, source.bytes, int(complete), held))
        if isinstance(images, int):
            # Which ones they will be is not known yet: those in the folder are taken for them.
            count, there = images, min(images, len(list((self.folder / COCO.name).glob("*/*.jpg"))))
        else:
            count, there = len(images), sum(self._image_path(name).is_file() for name in images)
        each = COCO_PICTURE_BYTES
        base = self._bases(COCO)[0]
        planned.append(Planned(COCO.name, "pictures", base, count, count * each, there, there * each))
        return planned

    def _count(self, key: str, fetched: int) -> None:
        self._fetched[key] = max(fetched, 0)
        self._show(sum(self._fetched.values()))

    def _check_room(self, planned: Sequence[Planned]) -> None:
        missing = sum(part.missing_bytes for part in planned)
        if not missing:
            return
        needed = missing + _UNPACKED_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise DownloadError(
                f"{self.folder}: the disk has {free / 1e9:.1f} GB free and the downloads need {needed / 1e9:.1f} GB; "
                "make room, or choose a folder on another disk with --cache-dir"
            )

    def _bases(self, source: OfficialSource) -> Sequence[str]:
        redirected = self._base_urls.get(source.name)
        return source.bases if redirected is None else [redirected.rstrip("/") + "/"]

    def _image_path(self, name: str) -> Path:
        return self.folder / COCO.name / inside(name, self.folder)

    def _image_problem(self, name: str, sizes: ImageSizes) -> str | None:
        return image_problem(self._image_path(name), *sizes[name])

    def _fetch_image(self, name: str, size: tuple[int, int]) -> str:
        urls = [base + name for base in self._bases(COCO)]
        self._downloader.fetch(urls, self._image_path(name), check=lambda path: image_problem(path, *size))
        return name

    # The checksum of an archive is the official one. Where the source was redirected, a file {archive}.sha256 beside
    # the archive states another; it is kept in the cache as long as the archive is.

    def _stated_path(self, source: OfficialSource) -> Path:
        path = self.archive_path(source)
        return path.with_name(path.name + ".sha256")

    def _is_right(self, source: OfficialSource) -> bool:
        if self.archive_path(source) in self._verified:
            return True
        right = {source.sha256}
        if source.name in self._base_urls and self._stated_path(source).is_file():
            right.add(_read_checksum(self._stated_path(source), str(self._stated_path(source))))
        if sha256_of(self.archive_path(source)) not in right:
            return False
        self._verified.add(self.archive_path(source))
        return True

    def _expected(self, source: OfficialSource) -> tuple[int | None, str]:
        """Bytes and sha256 of the archive; bytes None where only a checksum is stated."""
        if source.name not in self._base_urls:
            return source.bytes, source.sha256
        url = self._bases(source)[0] + source.archive + ".sha256"
        path = self._stated_path(source)
        path.unlink(missing_ok=True)
        if not self._downloader.fetch_optional(url, path):
            return source.bytes, source.sha256
        stated = _read_checksum(path, url)
        return (source.bytes if stated == source.sha256 else None), stated


def _part_bytes(path: Path) -> int:
    part = path.with_name(path.name + ".part")
    return part.stat().st_size if part.is_file() else 0


def _read_checksum(path: Path, where: str) -> str:
    """The checksum in a file as `sha256sum` writes it."""
    found = re.match(r"\\?([0-9a-f]{64})\b", path.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise DataError(f"{where}: not a checksum as sha256sum writes it")
    return found[1]
