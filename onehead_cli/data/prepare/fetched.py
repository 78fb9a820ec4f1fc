"""prepare-data --source official: the official datasets are fetched and a draw of them copied; or only planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onehead_cli.data.manifest import Origins
from onehead_cli.data.prepare.addresses import COCO, OFFICIAL_SOURCES, OfficialSource
from onehead_cli.data.prepare.download import Downloader
from onehead_cli.data.prepare.download_cache import DownloadCache, Planned
from onehead_cli.data.prepare.draw import Draw
from onehead_cli.data.prepare.official import Copier, coco_images, copy_draw, kept_categories
from onehead_cli.data.prepare.official_files import ArchiveFiles, CocoFiles, OfficialFiles
from onehead_cli.data.prepare.settings import Official, Plan
from onehead_cli.data.prepare.staging import PrepareResult, write_datasets
from onehead_cli.data.prepare.writing import Progress
from onehead_cli.events import Reporter


@dataclass(frozen=True)
class DownloadPlan:
    """What would be fetched. pictures_known: whether the COCO images are, or only how many there are."""

    parts: list[Planned]
    pictures_known: bool

    @property
    def missing_bytes(self) -> int:
        return sum(part.missing_bytes for part in self.parts)


def prepare_official(settings: Official, *, reporter: Reporter, progress: Progress | None = None) -> PrepareResult:
    """Fetch the official datasets, of COCO only the drawn images, and copy the draw that `prepare_local` copies.

    What was fetched stays in the cache; what is there is not fetched.

    Raises:
        DownloadError: a file cannot be had, or the disk has no room.
        DataError, ConfigError: as for `prepare_local`.
    """
    cache = DownloadCache(
        settings.cache, base_urls=settings.base_urls, downloader=Downloader(notify=reporter.note), reporter=reporter
    )

    def write(staging: Path) -> Origins:
        with cache.filling(cache.plan(sum(settings.sizes))):
            unpacked = staging.with_name("unpacked")

            def fetched(name: str) -> OfficialFiles:
                return _fetched_files(cache, OFFICIAL_SOURCES[name], unpacked)

            return copy_draw(fetched, settings, Copier(staging, progress))

    return write_datasets(settings, source="official", repeatable=True, write=write)


def plan_official(settings: Plan, *, reporter: Reporter) -> DownloadPlan:
    """What `prepare_official` would fetch; writes and fetches nothing.

    The COCO images are known where the annotations are in the cache.

    Raises:
        DataError, ConfigError: as for `prepare_local`.
    """
    cache = DownloadCache(settings.cache, base_urls=settings.base_urls, downloader=Downloader(), reporter=reporter)
    if not cache.has_archive(COCO):
        return DownloadPlan(cache.plan(sum(settings.sizes)), pictures_known=False)
    files = _fetched_files(cache, COCO, settings.cache)
    categories = kept_categories(files, settings.categories)
    images = coco_images(files, Draw("det", settings.sizes, settings.seed, set()), categories)
    return DownloadPlan(cache.plan(images), pictures_known=True)


def _fetched_files(cache: DownloadCache, source: OfficialSource, unpacked: Path) -> OfficialFiles:
    archive, url = cache.archive(source), source.bases[0] + source.archive
    folder = unpacked / source.name
    if source is COCO:
        return CocoFiles(archive, unpacked=folder, url=url, base=source.bases[0], images=cache.images)
    return ArchiveFiles(source.name, archive, inner=source.inner, unpacked=folder, url=url)
