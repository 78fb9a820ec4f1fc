"""What is done about the problems that a scan finds: list all of them and stop, or leave the images out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from onehead_cli.config.sections import Config
from onehead_cli.data.format import get_format
from onehead_cli.data.layout import DATASET_FOLDERS, SPLITS
from onehead_cli.data.listings import Listings
from onehead_cli.data.scan.scan import Part, Problem, Scan, scan_data
from onehead_cli.errors import DataError
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import write_atomically
from onehead_cli.registry import TASKS
from onehead_cli.wording import how_many

#: Inside the output folder, or the folder that is checked.
CACHE_FILE = ".scan.json"
SKIPPED_FILE = "skipped.txt"
BAD_FILE = "bad_files.txt"

#: Lines about single files on the terminal.
_SHOWN = 20


def scan_for_run(listings: Listings, tasks: Sequence[str], splits: Sequence[str], reporter: Reporter) -> Scan:
    """Scan what a training or evaluation will read, and no other split; see `settle`.

    Raises:
        DataError: a split cannot be listed, or something is wrong that `data.skip_bad` does not allow to leave out.
    """
    config = listings.config
    parts = {(task, split): listings.get(task, split) for task in tasks for split in splits}
    scan = scan_data(parts, cache=config.output / CACHE_FILE, reporter=reporter)
    settle(scan, skip_bad=config.data.skip_bad, folder=config.output, reporter=reporter)
    return scan


def scan_for_check(config: Config, *, folder: Path | None, deep: bool, reporter: Reporter) -> Scan:
    """Scan the splits of a folder that are there, or those that a config names, and test.

    Args:
        config: `data.tasks`, `data.train_split` and `data.val_split` must be there; the split "test" may be missing.
        folder: a prepared folder, instead of what the config names; whichever of its tasks and splits are there.
        deep: decode every image, however many there are.

    Raises:
        DataError: the folder holds none of the datasets.
    """
    if folder is None:
        wanted = (config.data.train_split, config.data.val_split)
        splits = dict.fromkeys((*wanted, "test"))
        parts = [(t, s) for t in config.data.tasks for s in splits if s in wanted or get_format(t).is_there(config, s)]
        return _scan_what_can_be_listed(config, parts, config.output, deep, reporter)
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": folder})})
    parts = [(task, split) for task in TASKS for split in SPLITS if get_format(task).is_there(config, split)]
    if not parts:
        raise DataError(f"{folder}: contains none of {', '.join(DATASET_FOLDERS.values())} with a split")
    scan = _scan_what_can_be_listed(config, parts, folder, deep, reporter)
    missing = [name for task, name in DATASET_FOLDERS.items() if task not in {task for task, _ in parts}]
    scan.notes += [f"{folder / name} is not there" for name in missing]
    return scan


def _scan_what_can_be_listed(
    config: Config, parts: Sequence[Part], folder: Path, deep: bool, reporter: Reporter
) -> Scan:
    listings, found, unusable = Listings(config), {}, []
    for task, split in parts:
        try:
            found[task, split] = listings.get(task, split)
        except DataError as error:
            unusable.append(Problem(task, split, "unusable_split", str(error)))
    scan = scan_data(found, cache=folder / CACHE_FILE, deep=deep, reporter=reporter)
    scan.problems[:0] = unusable
    # A test split may well be without labels.
    learned = (config.data.train_split, config.data.val_split)
    scan.problems += [doubt for doubt in scan.doubts if doubt.split in learned]
    scan.doubts = [doubt for doubt in scan.doubts if doubt.split not in learned]
    return scan


def settle(scan: Scan, *, skip_bad: bool, folder: Path | None, reporter: Reporter) -> None:
    """Say what a scan found: a note where all is well, a warning where images are left out, else an error.

    Args:
        folder: for the list of what is left out (skipped.txt) or, where it is long, of what is wrong (bad_files.txt);
            None names the first of them in warnings.

    Raises:
        DataError: something is wrong, and it cannot be left out or `skip_bad` is not set.
    """
    total = sum(sum(splits.values()) for splits in scan.images.values())
    how = "headers only, " if scan.headers_only else ""
    fatal = [problem for problem in scan.problems if problem.image is None]
    if fatal or (scan.problems and not skip_bad):
        _refuse(scan.problems, bool(fatal), folder, reporter)
    for task, splits in scan.bad_counts().items():
        for split, count in splits.items():
            if count and count == scan.images[task][split]:
                raise DataError(f"{task} {split}: none of its images can be used ({count})")
    if folder is not None:
        _record_skipped(scan, folder / SKIPPED_FILE)
    else:
        _name(scan.problems, reporter)
    if scan.bad:
        where = f", listed in {folder / SKIPPED_FILE}" if folder is not None else ""
        reporter.warn(f"{len(scan.bad)} of {total} images left out{where}")
    for doubt in scan.doubts:
        reporter.warn(str(doubt))
    for note in scan.notes:
        reporter.note(note)
    reporter.note(f"scan: {how_many(total, 'image')}, {how}{scan.seconds:.1f} s")


def _refuse(problems: Sequence[Problem], fatal: bool, folder: Path | None, reporter: Reporter) -> None:
    advice = "" if fatal else "; fix it, or skip it with --skip-bad"
    if len(problems) == 1:
        raise DataError(f"{problems[0]}{advice}")
    _name(problems, reporter)
    listed = ""
    if len(problems) > _SHOWN and folder is not None and _write(folder / BAD_FILE, map(_line, problems)):
        listed = f", all in {folder / BAD_FILE}"
    raise DataError(f"{len(problems)} problems in the data{listed}{advice.replace(' it', ' them')}")


def _name(problems: Sequence[Problem], reporter: Reporter) -> None:
    for problem in problems[:_SHOWN]:
        reporter.warn(str(problem))
    if len(problems) > _SHOWN:
        reporter.warn(f"and {len(problems) - _SHOWN} more")


def _record_skipped(scan: Scan, path: Path) -> None:
    """Bring the list up to date for the tasks and splits of this scan; those of other commands stay in it."""
    scanned = tuple(f"{task}\t{split}\t" for task, splits in scan.images.items() for split in splits)
    lines = [_line(problem) for problem in scan.problems]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        old = path.read_text(encoding="utf-8").splitlines()
        lines += [line for line in old if not line.startswith(scanned)]
    if lines and not _write(path, lines):
        raise DataError(f"{path}: cannot be written, and what is left out must be listed there")
    if not lines:
        with contextlib.suppress(OSError):
            path.unlink()


def _line(problem: Problem) -> str:
    return f"{problem.task}\t{problem.split}\t{problem.path or ''}\t{problem.reason}"


def _write(path: Path, lines: Iterable[str]) -> bool:
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(text))
    except OSError:
        return False
    return True
