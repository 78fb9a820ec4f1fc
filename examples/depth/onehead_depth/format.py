"""Depth on disk: {root}/{split}/images/x.jpg and {root}/{split}/depth/x.png, 16-bit grey, in millimetres, 0 unknown.

Without torch, for `onehead prepare-data --check` and `--help` must not wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onehead_cli.config.fields import Section, field
from onehead_cli.config.sections import Config
from onehead_cli.data.checks import wrong_mask_size
from onehead_cli.data.folders import entries, images_in, unused_masks
from onehead_cli.data.format import Contents, Fault, Format, Listing, missing, of_split
from onehead_cli.data.images import opened
from onehead_cli.data.passed_over import in_words
from onehead_cli.errors import DataError

MILLIMETRES = 1000.0
#: Metres that 16 bits hold.
MOST = 65.535


class DepthConfig(Section):
    """Depth: where it is, and what it is measured by."""

    root: Path | None = field(
        None, "Folder of {split}/images and {split}/depth; unset: depth in data.root.", unit="path"
    )
    near: float = field(0.1, "Smaller depths count as this.", unit="m", gt=0, le=MOST)
    far: float = field(10.0, "Depths beyond this are unknown.", unit="m", gt=0, le=MOST)


@dataclass(frozen=True)
class DepthListing(Listing):
    """depths: a file per image, whether it is there or not. near, far: in metres; what lies beyond far is unknown."""

    depths: list[Path]
    near: float
    far: float

    def without(self, skip: Collection[Path]) -> DepthListing:
        kept = [pair for pair in zip(self.images, self.depths, strict=True) if pair[0] not in skip]
        return replace(self, images=[image for image, _ in kept], depths=[depth for _, depth in kept])

    def label_file(self, index: int) -> Path:
        return self.depths[index]

    def faults(self, index: int, size: tuple[int, int] | None, facts: Callable[[Path], Any]) -> Iterator[Fault]:
        found, path = facts(self.depths[index]), self.depths[index]
        if found.kind is not None:
            yield Fault(f"depth_{found.kind}", f"depth: {found.reason}", path)
        elif found.mode != "I;16":
            yield Fault("depth_wrong_mode", f"depth must be a 16-bit grey PNG, not {found.mode}", path)
        elif size and (reason := wrong_mask_size((found.width, found.height), size)):
            yield Fault("depth_wrong_size", reason, path)

    def present(self, facts: Callable[[Path], Any]) -> None:
        return None  # there are no classes

    def contents(self, index: int, size: tuple[int, int]) -> Contents:
        return Contents(Counter())

    def depth(self, index: int, size: tuple[int, int]) -> NDArray[np.float32]:
        """Metres, float32 [height, width]; 0 where unknown.

        Raises:
            DataError: the file cannot be read, or has another size than its image.
        """
        path = self.depths[index]
        with opened(path) as image:
            image.load()
            metres = np.asarray(image, dtype=np.float32) / np.float32(MILLIMETRES)
        if problem := wrong_mask_size(metres.shape[::-1], size):
            raise DataError(f"{path}: {problem}")
        known = (metres > 0) & (metres <= self.far)
        return np.where(known, np.maximum(metres, np.float32(self.near)), np.float32(0))


class DepthFolders(Format):
    """Images in one folder, depths of the same names in another."""

    section = DepthConfig
    locations = ("depth.root",)

    def places(self, config: Config, split: str) -> tuple[Path, Path]:
        root = of_split(settings(config).root or config.data.root / "depth", split)
        return root / "images", root / "depth"

    def is_there(self, config: Config, split: str) -> bool:
        return any(folder.is_dir() for folder in self.places(config, split))

    def list(self, config: Config, split: str) -> DepthListing:
        images, depths = self.places(config, split)
        for folder in (images, depths):
            if not folder.is_dir():
                raise DataError(missing(folder, "folder", "depth"))
        found, beside = images_in(images)
        if not found:
            counts = in_words(beside.counts)
            raise DataError(f"{images}: no image in it{f', only {counts}' if counts else ''}")
        files = [depths / f"{path.stem}.png" for path in found]
        passed = (beside, unused_masks(depths, entries(depths), files))
        return DepthListing([], found, files, *limits(config), passed_over=passed)


DEPTH_FOLDERS = DepthFolders()


def settings(config: Config) -> DepthConfig:
    """The section of a config that `load_config` gave."""
    found: DepthConfig = config.depth  # type: ignore[attr-defined]
    return found


def limits(config: Config) -> tuple[float, float]:
    """near, far"""
    return settings(config).near, settings(config).far
