"""Reading images and masks from disk, fitting them, and the cap on the memory for those that are kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from onehead_cli.data.checks import wrong_mask
from onehead_cli.data.geometry import Fit
from onehead_cli.data.layout import voc_palette
from onehead_cli.errors import DataError

#: A value per pixel, [height, width].
Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])

#: The formats that are opened; a file of another format is refused whatever its name says.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
#: Of 256 values; images of 16 bits that stay under it hold 12 bits or fewer, which are nearly black as 16.
DARK = 16
#: Larger images are refused before they are decoded.
MAX_PIXELS = 100_000_000
#: Of the bars that the letterbox fit adds, in each colour.
BAR_GREY = 128

# Pillow's own limit warns at a size of its choosing; MAX_PIXELS above is the one that counts.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about damaged metadata in many lines; the pixels are what counts. Not catch_warnings where they are read:
# it must not be entered in several threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

#: By how a grey PNG of 1, 2 and 4 bits is stored.
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}

_ORIENTATION = 0x0112
#: What turns an image upright, by EXIF orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ImageError(DataError):
    """An image or mask that cannot be used; kind: what is wrong with it, in one word or two."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def open_image(path: Path) -> Image.Image:
    """An image as RGB, turned as its EXIF orientation says; grey, palette, CMYK, alpha and 16-bit are converted.

    Raises:
        ImageError: the file is missing, empty, not an image of a known format, damaged, or over MAX_PIXELS.
    """
    return as_rgb(_decode(path))


def as_rgb(image: Image.Image) -> Image.Image:
    """The same of an image of Pillow's. One without a format was made in memory or changed since it was opened, and is
    taken as it lies."""
    is_as_opened = image.format is not None
    if is_as_opened:
        image = _turned(image)
    # 16-bit grey: Pillow's own conversion would clip at 255.
    if image.mode.startswith("I;16") or (is_as_opened and image.mode == "I"):
        deep = np.asarray(image).astype(np.float32) / 257.0
        image = Image.fromarray(np.clip(deep, 0, 255).astype(np.uint8))
    return image.convert("RGB")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as `open_image` gives them; a PNG is decoded for them, for its orientation may come last.

    Raises:
        ImageError: see `open_image`.
    """
    with opened(path) as image:
        return turned_size(image)


def _turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says."""
    # Not ImageOps.exif_transpose: it also writes the metadata anew, which fails where they are damaged.
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def is_turned(image: Image.Image) -> bool:
    """Whether the EXIF orientation shows the image otherwise than its pixels lie."""
    return _orientation(image) != 1


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the EXIF orientation shows the image."""
    # Orientations 5 to 8 lay the image on its side.
    return (image.height, image.width) if _orientation(image) >= 5 else image.size


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, which is upright, where the metadata cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata raises whatever the parser stumbles over
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def open_mask(path: Path) -> NDArray[np.uint8]:
    """A mask of class indices, uint8 [height, width], as they were saved: a palette or grey PNG of up to 8 bits.

    Raises:
        ImageError: as for `open_image`, or the file holds colours instead of class indices, or smears them.
    """
    with opened(path) as image:
        if problem := wrong_mask(str(image.format), image.mode):
            raise ImageError(f"{path}: {problem}", kind="wrong_mode")
        step = grey_step(image)
        image.load()
    return np.asarray(image if image.mode != "1" else image.convert("L"), dtype=np.uint8) // np.uint8(step)


def grey_step(image: Image.Image) -> int:
    """By how much Pillow multiplies the values of a mask: it stretches grey of under 8 bits to 0..255.

    To be asked before the pixels are loaded.
    """
    return _GREY_STEPS.get(_raw_mode(image), 1)


def is_deep(image: Image.Image) -> bool:
    """Whether it has 16 bits per channel; to be asked before the pixels are loaded."""
    return _raw_mode(image).endswith(";16B")


def is_nearly_black(path: Path, image: Image.Image) -> bool:
    """Whether a file of 16 bits per channel gave this image, and all its values stay under DARK, as those of a camera
    of 12 bits do."""
    with opened(path) as header:
        return is_deep(header) and bool(np.max(image.getextrema()) < DARK)


def _raw_mode(image: Image.Image) -> str:
    """How the pixels of a PNG are stored, in Pillow's words; "" of other formats."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if image.format == "PNG" and tiles else ""


def _decode(path: Path) -> Image.Image:
    with opened(path) as image:
        image.load()
        return image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow opens it, its header read and its pixels not; what goes wrong inside is a ImageError too.

    Raises:
        ImageError: see `open_image`.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: {image.width} x {image.height} pixels are over the limit of {MAX_PIXELS}",
                    kind="too_large",
                )
            yield image
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ImageError:
    formats = ", ".join(FORMATS)
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{path}: no such file", kind="missing")
    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return ImageError(f"{path}: the file is empty", kind="empty")
        return ImageError(f"{path}: not a {formats} image, despite its name", kind="not_a_picture")
    return ImageError(f"{path}: not a readable {formats} image ({type(error).__name__}: {error})", kind="damaged")


def fit_image(image: Image.Image, fit: Fit, interpolation: str) -> NDArray[np.uint8]:
    """The image in its place in the input, uint8 [S, S, 3]; letterbox bars are grey."""
    inner = resize_image(image, fit.inner, interpolation)
    if fit.inner == (fit.size, fit.size):
        return inner
    canvas = np.full((fit.size, fit.size, 3), BAR_GREY, dtype=np.uint8)
    width, height = fit.inner
    canvas[fit.offset_y : fit.offset_y + height, fit.offset_x : fit.offset_x + width] = inner
    return canvas


def resize_image(image: Image.Image, size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """The image at a width and height, uint8 [height, width, 3]."""
    return np.asarray(image.resize(size, _RESAMPLING.get(interpolation, Image.Resampling.BICUBIC)))


def fit_mask(mask: Pixels, fit: Fit, fill: int) -> Pixels:
    """The mask, or another value per pixel, in its place in the input, [S, S], by the nearest pixel; letterbox bars are
    `fill`."""
    inner = resize_mask(mask, fit.inner)
    canvas = np.full((fit.size, fit.size), fill, dtype=mask.dtype)
    width, height = fit.inner
    canvas[fit.offset_y : fit.offset_y + height, fit.offset_x : fit.offset_x + width] = inner
    return cast(Pixels, canvas)


def resize_mask(mask: Pixels, size: tuple[int, int]) -> Pixels:
    """The mask at a width and height by the nearest pixel, [height, width]; uint8 or float32."""
    return cast(Pixels, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))


def palette_image(labels: NDArray[np.uint8]) -> Image.Image:
    """A mask of class indices, uint8 [height, width], as a palette image in VOC's colours."""
    image = Image.fromarray(labels)
    image.putpalette(voc_palette())
    return image
