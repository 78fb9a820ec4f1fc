"""Look at all files of the data before they are used, and list everything that is wrong at once. Without torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from onehead_cli.data.checks import MASK_MODES
from onehead_cli.data.folders import total
from onehead_cli.data.format import Listing, describe_difference
from onehead_cli.data.images import DARK
from onehead_cli.data.nearest import Nearest
from onehead_cli.data.passed_over import in_words
from onehead_cli.data.scan.probe import Facts, ProbeCache, probe
from onehead_cli.events import Reporter
from onehead_cli.files.checksum import sha256_of
from onehead_cli.wording import how_many

#: With more images than this only headers are read, but for a sample, unless `deep`.
MANY = 20_000
#: Of so many images per split, evenly spread, the pixels are read all the same, and those of their masks.
SAMPLE = 500
#: Files to look at that are worth a progress bar.
_WORTH_A_BAR = 2_000

Part = tuple[str, str]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    kind: in one or two words, for scripts.
    path: the file; None for a whole split, which `reason` then names.
    image: what `--skip-bad` leaves out; None where that is no help.
    """

    task: str
    split: str
    kind: str
    reason: str
    path: Path | None = None
    image: Path | None = None

    def __str__(self) -> str:
        return f"{self.task} {self.split}: {self.reason}" if self.path is None else f"{self.path}: {self.reason}"


@dataclass
class Scan:
    """What was found.

    images: listed, by task and split. headers_only: nothing was decoded but what looked wrong.
    passed_over: what else lies in their folders, by task, split and kind.
    turned: images that EXIF shows otherwise than their pixels lie, by task and split.
    warnings: boxes that were dropped or clipped; folders of which most is passed over.
    notes: classes without an example; what is passed over; turned images.
    doubts: what can be used and is hardly meant; see `Listing.doubts`.
    """

    images: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    passed_over: dict[str, dict[str, dict[str, int]]] = field(default_factory=lambda: defaultdict(dict))
    turned: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    problems: list[Problem] = field(default_factory=list)
    doubts: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    headers_only: bool = False
    seconds: float = 0.0

    @property
    def bad(self) -> set[Path]:
        """The images that can be left out."""
        return {problem.image for problem in self.problems if problem.image is not None}

    def bad_counts(self) -> dict[str, dict[str, int]]:
        """How many they are, by task and split."""
        found = defaultdict[Part, set[Path]](set)
        for problem in self.problems:
            if problem.image is not None:
                found[problem.task, problem.split].add(problem.image)
        return {task: {split: len(found[task, split]) for split in splits} for task, splits in self.images.items()}


def scan_data(
    listings: Mapping[Part, Listing], *, cache: Path | None = None, deep: bool = False, reporter: Reporter
) -> Scan:
    """Scan splits of tasks. Every image and mask is decoded, unless there are more than MANY images.

    Args:
        listings: in the order of the report; only splits of one task are compared with each other.
        cache: file that remembers what was found, so that unchanged files are not read again; None for no such file.
        deep: decode however many there are.
    """
    began = time.perf_counter()
    scan = Scan()
    for (task, split), listing in listings.items():
        scan.images[task][split] = len(listing.images)
        scan.passed_over[task][split] = total(listing.passed_over)
    scan.problems += _other_classes(listings)
    decode = deep or sum(len(listing.images) for listing in listings.values()) <= MANY
    scan.headers_only = not decode
    files = _Files(ProbeCache(cache), decode, reporter)
    files.read(listings)
    for part, listing in listings.items():
        scan.problems += _bad_files(part, listing, files)
    scan.problems += _twins(listings, files, scan.bad)
    files.cache.save()
    for part, listing in listings.items():
        kept = listing.without(scan.bad) if scan.bad else listing
        scan.warnings += kept.warnings
        scan.notes += _absent_classes(part, kept, files)
        facts = [files.facts[path] for path in kept.images]
        scan.turned[part[0]][part[1]] = sum(each.turned for each in facts)
        for doubt in kept.doubts(files.facts.__getitem__) if kept.images else ():
            scan.doubts.append(Problem(*part, doubt.kind, doubt.reason, doubt.path))
        scan.doubts += _dark_images(part, facts)
    scan.notes += _counted(scan)
    scan.seconds = time.perf_counter() - began
    return scan


class _Files:
    """Facts of the files of all listings, from the cache or the disk."""

    def __init__(self, cache: ProbeCache, decode: bool, reporter: Reporter) -> None:
        self.cache = cache
        self.decode = decode
        self.reporter = reporter
        self.stats: dict[Path, os.stat_result] = {}
        self.facts: dict[Path, Facts] = {}
        self.nearest = Nearest()

    def read(self, listings: Mapping[Part, Listing]) -> None:
        unread: dict[Path, tuple[bool, bool]] = {}  # is a mask, is to be decoded
        for listing in listings.values():
            step = 1 if self.decode else max(1, -(-len(listing.images) // SAMPLE))
            for index, path in enumerate(listing.images):
                decode, home = index % step == 0, listing.home(index)
                if path not in listing.outside and not self._remembered(path, home, is_mask=False, decode=decode):
                    unread.setdefault(path, (False, decode))
                label = listing.label_file(index)
                if label is not None and not self._remembered(label, label.parent, is_mask=True, decode=decode):
                    unread[label] = (True, decode)

        def look(path: Path) -> Facts:
            is_mask, decode = unread[path]
            return probe(path, decode=decode, is_mask=is_mask)

        for path, facts in _in_threads(look, list(unread), self.reporter):
            self.facts[path] = facts
            self.cache.put(path, self.stats[path], facts)

    def hash(self, paths: Iterable[Path]) -> None:
        """Fill in the checksums of files that could be read.

        Raises:
            DataError: one no longer can.
        """
        unknown = [path for path in dict.fromkeys(paths) if self.facts[path].sha256 is None]
        for path, digest in _in_threads(sha256_of, unknown, self.reporter):
            self.facts[path].sha256 = digest
            self.cache.put(path, self.stats[path], self.facts[path])

    def _remembered(self, path: Path, home: Path, *, is_mask: bool, decode: bool) -> bool:
        """Whether the file need not be read. Args: home: the folder that its name is relative to."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            what = "a broken link" if path.is_symlink() else f"no such file{self.nearest.hint(path, home)}"
            self.facts[path] = Facts("missing", what)
            return True
        except (OSError, ValueError) as error:
            self.facts[path] = Facts("damaged", f"cannot be opened ({error})")
            return True
        if not S_ISREG(stat.st_mode):  # reading a pipe or a device may never end
            self.facts[path] = Facts("not_a_picture", "not a file")
            return True
        self.stats[path] = stat
        known = self.cache.get(path, stat)
        if known is None or (decode and not known.decoded):
            return False
        if is_mask and decode and known.mode in MASK_MODES and known.labels is None:
            return False  # known as an image
        self.facts[path] = known
        return True


def _in_threads(work: Callable[[T], R], items: Sequence[T], reporter: Reporter) -> Iterator[tuple[T, R]]:
    """Each item with its result. Pillow lets go of the interpreter while it decodes, so threads are enough."""
    if not items:
        return
    bar = reporter.track("scan", len(items)) if len(items) >= _WORTH_A_BAR else contextlib.nullcontext(_no_bar)
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool, bar as advance:
        for done, (item, result) in enumerate(zip(items, pool.map(work, items), strict=True), start=1):
            yield item, result
            advance(done, "")


def _no_bar(done: int, detail: str) -> None:
    pass


def _bad_files(part: Part, listing: Listing, files: _Files) -> Iterator[Problem]:
    for index, image in enumerate(listing.images):
        if image in listing.outside:
            hint = files.nearest.hint(image, listing.home(index))
            yield Problem(*part, "outside_folder", f"file_name points outside the image folder{hint}", image, image)
            continue
        facts = files.facts[image]
        if facts.kind is not None:
            yield Problem(*part, facts.kind, str(facts.reason), image, image)
        size = None if facts.kind else (facts.width, facts.height)
        for fault in listing.faults(index, size, files.facts.__getitem__):
            yield Problem(*part, fault.kind, fault.reason, fault.path, image)


def _other_classes(listings: Mapping[Part, Listing]) -> Iterator[Problem]:
    """Splits whose class names are not those of the first split of their task."""
    first: dict[str, Listing] = {}
    for (task, split), listing in listings.items():
        wanted = first.setdefault(task, listing).classes
        if listing.classes != wanted:
            reason = describe_difference(task, f"split {split}", listing.classes, wanted)
            yield Problem(task, split, "other_classes", reason)


def _twins(listings: Mapping[Part, Listing], files: _Files, bad: set[Path]) -> Iterator[Problem]:
    """Images whose bytes are in two splits of a task; only files of the same size are read."""
    for task in dict.fromkeys(task for task, _ in listings):
        by_size = defaultdict[int, list[tuple[str, Path]]](list)
        for (other, split), listing in listings.items():
            for path in listing.images if other == task else ():
                if path not in bad:
                    by_size[files.stats[path].st_size].append((split, path))
        suspects = [group for group in by_size.values() if len({split for split, _ in group}) > 1]
        files.hash(path for group in suspects for _, path in group)
        for group in suspects:
            seen: dict[str | None, tuple[str, Path]] = {}
            for split, path in group:
                before, first = seen.setdefault(files.facts[path].sha256, (split, path))
                if before != split:
                    reason = f"the same image is in the split {before}: {first}; remove one of them"
                    yield Problem(task, split, "in_two_splits", reason, path)


def _absent_classes(part: Part, listing: Listing, files: _Files) -> list[str]:
    """A note where classes have no example."""
    present = listing.present(files.facts.__getitem__)
    absent = [name for index, name in enumerate(listing.classes) if present is not None and index not in present]
    if not absent:
        return []
    names = ", ".join(absent)
    return [f"{part[0]} {part[1]}: no example of {names}; a class without one is left out of the mean score"]


def _dark_images(part: Part, facts: Sequence[Facts]) -> Iterator[Problem]:
    """Where all images of 16 bits stay in the lowest sixteenth, as those of a camera or scanner of 12 bits do."""
    deepest = [each.deepest for each in facts if each.deepest is not None]
    if deepest and max(deepest) < DARK << 8:
        reason = (
            f"{how_many(len(deepest), '16-bit image')} with no value above {max(deepest)} of 65535, "
            "so nearly black; stretch the values to 16 bits, or save them in 8"
        )
        yield Problem(*part, "nearly_black", reason)


def _counted(scan: Scan) -> Iterator[str]:
    """Notes of what is passed over and of what EXIF turns."""
    for task, splits in scan.images.items():
        for split, images in splits.items():
            if words := in_words(scan.passed_over[task][split]):
                yield f"{task} {split}: {words} ignored"
            if turned := scan.turned[task][split]:
                yield f"{task} {split}: {turned} of {how_many(images, 'image')} turned by EXIF"
