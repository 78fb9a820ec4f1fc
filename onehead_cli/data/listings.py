"""The splits of a run, each listed once: what the scan, the network's classes and the loaders share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from onehead_cli.config.sections import Config
from onehead_cli.data.format import Listing, get_format


class Listings:
    """The splits that a config names, listed when they are first asked for.

    classes: names by task, in the order that labels are numbered in. For a task without, those of its first split.
    """

    def __init__(self, config: Config, *, classes: Mapping[str, Sequence[str]] | None = None) -> None:
        self.config = config
        self._wanted = {task: list(names) for task, names in (classes or {}).items()}
        self._found: dict[tuple[str, str], Listing] = {}
        self._classes: dict[tuple[str, str], list[str]] = {}
        self._skipped: Collection[Path] = ()

    def get(self, task: str, split: str) -> Listing:
        """One split of one task, without the images that are left out.

        Raises:
            DataError: a folder or file is missing or cannot be used.
        """
        key = (task, split)
        if key not in self._found:
            listing = get_format(task).list(self.config, split)
            wanted = self._wanted.setdefault(task, listing.classes)
            # Files may number the same classes differently; only their names are the same in all splits.
            if listing.classes != wanted and set(listing.classes) <= set(wanted):
                listing = listing.with_classes(wanted)
            self._found[key] = listing.without(self._skipped) if self._skipped else listing
        return self._found[key]

    def classes(self, task: str, split: str) -> list[str]:
        """The class names of a split; where it was not listed yet, its images are not looked for.

        Raises:
            DataError: a folder or file is missing or cannot be used.
        """
        key = (task, split)
        if key in self._found:
            return self._found[key].classes
        if key not in self._classes:
            self._classes[key] = list(get_format(task).classes(self.config, split))
        return self._classes[key]

    def leave_out(self, images: Collection[Path]) -> None:
        """Leave images and their labels out of all splits from now on."""
        if images:
            self._skipped = images
            self._found = {key: listing.without(images) for key, listing in self._found.items()}
