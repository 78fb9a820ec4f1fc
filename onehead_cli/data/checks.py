"""What an image or mask must be for its dataset; the scan and the loaders ask here, and say it in the same words.

Each function returns what is wrong, or None. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: Pillow's modes of a PNG of class indices.
MASK_MODES = ("P", "L", "1")


def wrong_image_size(found: Sequence[int], annotated: Sequence[int]) -> str | None:
    """An image, turned as its EXIF orientation says, against the size in its JSON."""
    if tuple(found) == tuple(annotated):
        return None
    return (
        f"{found[0]} x {found[1]} pixels (turned by its EXIF orientation), "
        f"but its annotations are for {annotated[0]} x {annotated[1]}"
    )


def wrong_mask_size(found: Sequence[int], image: Sequence[int]) -> str | None:
    """A mask against its image."""
    if tuple(found) == tuple(image):
        return None
    return f"{found[0]} x {found[1]} pixels, but its image has {image[0]} x {image[1]}"


def wrong_mask(format_: str, mode: str) -> str | None:
    """A mask's format and mode, as Pillow names them: what is read must be what was saved."""
    if format_ == "PNG" and mode in MASK_MODES:
        return None
    wanted = "a mask must be a palette or 8-bit grey PNG of class indices"
    if format_ != "PNG":
        smears = "; JPEG compression changes them" if format_ in ("JPEG", "MPO") else ""
        return f"{wanted}, but this is a {format_}, despite its name{smears}"
    return f"{wanted}, not {mode}; if it has a colour per class, save class indices instead"


def unknown_label(labels: Iterable[int], num_classes: int, ignore_index: int) -> str | None:
    """The values of a mask's pixels; one above the last class must be the ignore index."""
    above = [label for label in labels if label >= num_classes and label != ignore_index]
    if not above:
        return None
    return f"label {above[0]}, but there are {num_classes} classes (0 to {num_classes - 1})"
