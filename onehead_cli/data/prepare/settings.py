"""What prepare-data can do: a model of settings for each of its modes, with type, default, unit and sentence of each.

The flags of the command are the fields of these models; without numpy and torch, for --help must not wait for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from onehead_cli.config.fields import Section, field, same_field
from onehead_cli.config.sections import DataConfig

_Count = Annotated[int, Field(ge=1)]


class _OfRoot(Section):
    root: Path = field(
        Path("data"), "Folder to write into; for --preview also a YAML config that names your own data.", metavar="ROOT"
    )


class _Seeded(_OfRoot):
    seed: int = field(0, "Seed of the draw.", ge=0)


class Written(_Seeded):
    """What all that write datasets have in common."""

    sizes: tuple[_Count, _Count, _Count] = field(
        (240, 60, 60), "Images per task in each split, at least 10.", unit="images", metavar="TRAIN,VAL,TEST"
    )
    overwrite: bool = field(False, "Replace datasets that are already there.")

    def arguments(self) -> dict[str, Any]:
        """What the datasets depend on, as it stands in the manifest."""
        return {"seed": self.seed, "sizes": list(self.sizes)}


class Synthetic(Written):
    """Draw three datasets of synthetic images."""

    image_size: int = field(256, "Approximate side length of synthetic images.", unit="px", ge=64, le=1024)

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"image_size": self.image_size}


class OfOfficial(Written):
    """A draw of the official datasets: train from the official train, val and test from the official val."""

    categories: tuple[str, ...] | None = field(
        None, "COCO categories by name; unset: the first ten by id.", metavar="NAME,NAME"
    )

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"categories": None if self.categories is None else list(self.categories)}


class Local(OfOfficial):
    """Copy a draw of the official datasets on disk."""

    coco: Path = field(..., "COCO 2017, for --source local.", metavar="DIR")
    voc: Path = field(..., "VOC 2012, for --source local.", metavar="DIR")
    imagenette: Path = field(..., "Imagenette, for --source local.", metavar="DIR")


class _Fetched(OfOfficial):
    cache_folder: Path | None = field(None, "Where downloads are kept; unset: .cache in ROOT.", metavar="DIR")
    base_urls: dict[str, str] = field(
        {},
        "Mirror of coco, voc or imagenette to use instead of the official servers; repeatable.",
        metavar="NAME=URL",
    )

    @property
    def cache(self) -> Path:
        return self.cache_folder or self.root / ".cache"


class Official(_Fetched):
    """Fetch the official datasets, of COCO only the drawn images, and copy the draw."""


class Plan(_Fetched):
    """Say what `Official` would fetch, and from where; write nothing."""


class Verify(_OfRoot):
    """Check the files of a prepared folder against their manifest."""


class Check(Section):
    """Look for bad files."""

    path: Path = field(
        ...,
        "Only look for bad files, in a prepared folder or in the data that a YAML config names. Results are cached "
        "there, or in the config's output folder.",
        metavar="PATH",
    )
    deep: bool = field(False, "With --check: decode all images, even if there are more than 20,000.")
    skip_bad: bool = same_field(DataConfig, "skip_bad")


class Preview(_Seeded):
    """Draw labelled samples and label histograms of a prepared folder, or of the data that a YAML config names."""

    folder: Path | None = field(
        None, "Folder for --preview; unset: preview in ROOT or in the config's output folder.", metavar="DIR"
    )


PrepareSettings = Synthetic | Local | Official | Plan | Verify | Check | Preview
