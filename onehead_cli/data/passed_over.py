"""What lies among images and is none, counted by kind: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onehead_cli.data.layout import IMAGE_SUFFIXES

#: Kinds that are no suffix, and their plural.
SUB_FOLDER, DEAD_LINK, NO_SUFFIX = "sub-folder", "link to nothing", "file without a suffix"
BESIDE_CLASSES, NO_IMAGE = "file beside the class folders", "mask without an image"
NOT_LISTED = "image that the JSON does not list"
_PLURALS = {
    SUB_FOLDER: "sub-folders",
    DEAD_LINK: "links to nothing",
    NO_SUFFIX: "files without a suffix",
    BESIDE_CLASSES: "files beside the class folders",
    NO_IMAGE: "masks without an image",
    NOT_LISTED: "images that the JSON does not list",
}


def passed_over(path: Path) -> str | None:
    """What kind of thing in a folder of images is passed over: one of the kinds above, or a suffix as ".gif".

    None for what has the suffix of an image, and for hidden files, which nobody counts.
    """
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return SUB_FOLDER
    if path.is_symlink() and not path.exists():
        return DEAD_LINK
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return None
    return path.suffix.lower() or NO_SUFFIX


def in_words(counts: Mapping[str, int]) -> str:
    """As "3 .gif, 1 sub-folder, 2 links to nothing"; a kind of which there is none is left out."""
    said = [f"{count} {_PLURALS.get(kind, kind) if count > 1 else kind}" for kind, count in counts.items() if count]
    return ", ".join(said)
