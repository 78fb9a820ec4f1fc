"""What the writers of the three datasets share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from onehead_cli.data.layout import CLASSES_FILE, IMAGE_FOLDER, MASK_FOLDER
from onehead_cli.data.prepare.settings import Written
from onehead_cli.events import Reporter
from onehead_cli.registry import OWN_TASKS

#: Called with a label, the images done and the images in all.
Progress = Callable[[str, int, int], None]

T = TypeVar("T")


def make_segmentation_folders(folder: Path, split: str, classes: Sequence[str]) -> tuple[Path, Path]:
    """The folders of a split's images and masks, and the names of the classes beside the splits."""
    image_folder, mask_folder = folder / split / IMAGE_FOLDER, folder / split / MASK_FOLDER
    image_folder.mkdir(parents=True)
    mask_folder.mkdir()
    names = "".join(f"- {name}\n" for name in classes)
    (folder / CLASSES_FILE).write_text(names, encoding="utf-8", newline="\n")
    return image_folder, mask_folder


def counted(items: Sequence[T], label: str, progress: Progress | None) -> Iterator[T]:
    """Hand out the items and report each once its user comes back for the next."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress:
            progress(label, done, len(items))


@contextmanager
def one_bar(settings: Written, reporter: Reporter) -> Iterator[Progress]:
    """One bar over the images of all tasks and splits."""
    with reporter.track("prepare-data", len(OWN_TASKS) * sum(settings.sizes)) as advance:
        count = itertools.count(1)
        yield lambda label, done, total: advance(next(count), label)
