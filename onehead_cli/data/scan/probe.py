"""What single files are, whatever a dataset wants of them; remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onehead_cli.data.checks import MASK_MODES
from onehead_cli.data.images import ImageError, grey_step, is_deep, is_turned, opened, turned_size
from onehead_cli.files.atomic import write_atomically

#: Of the cache file; another number and it is made anew.
_FORMAT = 2

#: The last bytes of a whole JPEG and a whole PNG.
_ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")


@dataclass
class Facts:
    """What one image or mask is.

    kind, reason: what is wrong with the file itself; None where it can be read.
    width, height: turned as the EXIF orientation says.
    turned: whether that shows it otherwise than its pixels lie.
    format, mode: Pillow's.
    decoded: all of it was read; else the header and the file's end only.
    labels: of a decoded mask: how many pixels have each value.
    deepest: of a decoded image of 16 bits per channel: the largest value of a colour.
    sha256: of the file, once it was asked for.
    """

    kind: str | None = None
    reason: str | None = None
    width: int = 0
    height: int = 0
    turned: bool = False
    format: str = ""
    mode: str = ""
    decoded: bool = False
    labels: dict[int, int] | None = None
    deepest: int | None = None
    sha256: str | None = None


def probe(path: Path, *, decode: bool, is_mask: bool) -> Facts:
    """Look at one file; without `decode`, one whose end is not that of a whole JPEG or PNG is decoded all the same."""
    try:
        decode = decode or not _ends_whole(path)
        with opened(path) as image:
            coarse = image.format in ("JPEG", "MPO") and not is_mask
            step, deep = grey_step(image), is_deep(image)
            if decode and not coarse:
                # First of all: what goes wrong in a PNG is lost where Pillow decodes it in search of its orientation.
                image.load()
            # Without its pixels, a PNG shows no more than the orientation in front of them. Masks are not turned.
            upright = is_mask or (not decode and image.format == "PNG" and "exif" not in image.info)
            size = image.size if upright else turned_size(image)
            turned = not upright and is_turned(image)
            facts = Facts(None, None, *size, turned, str(image.format), image.mode, decode)
            if decode and coarse:
                # An eighth of the side reads every byte of a JPEG too, in half the time.
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
            if decode and is_mask and image.mode in MASK_MODES:
                facts.labels = {value // step: count for value, count in enumerate(image.histogram()[:256]) if count}
            if decode and deep and not is_mask:
                facts.deepest = _deepest(image)
            return facts
    except ImageError as error:
        return Facts(error.kind, str(error).removeprefix(f"{path}: "), decoded=decode)
    except (OSError, ValueError) as error:
        return Facts("missing" if isinstance(error, FileNotFoundError) else "damaged", str(error), decoded=decode)


def _deepest(image: Image.Image) -> int:
    """The largest value of a colour in an image of 16 bits per channel; of several channels Pillow keeps the high
    bytes."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    colours = [band for band in image.getbands() if band != "A"]
    return int(max(np.asarray(image.getchannel(band)).max() for band in colours)) << 8


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 16))
        return file.read().endswith(_ENDS)


class ProbeCache:
    """The facts of unchanged files, kept in a file; one that cannot be read or written is passed over in silence."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._entries: dict[str, tuple[int, int, Facts]] = {}
        self._changed = False
        if path is None:
            return
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] == _FORMAT:
                self._entries = {
                    name: (int(size), int(time), _facts(facts))
                    for name, (size, time, facts) in document["files"].items()
                }

    def get(self, path: Path, stat: os.stat_result) -> Facts | None:
        """The facts of the file, if it is as it was."""
        size, time, facts = self._entries.get(os.path.abspath(path), (0, 0, None))  # noqa: PTH100 - resolve() is slow
        return facts if (size, time) == (stat.st_size, stat.st_mtime_ns) else None

    def put(self, path: Path, stat: os.stat_result, facts: Facts) -> None:
        self._entries[os.path.abspath(path)] = (stat.st_size, stat.st_mtime_ns, facts)  # noqa: PTH100
        self._changed = True

    def save(self) -> None:
        """Write the file where anything is new."""
        path = self.path
        if path is None or not self._changed:
            return
        files = {
            name: (size, time, {k: v for k, v in dataclasses.asdict(facts).items() if v is not None})
            for name, (size, time, facts) in self._entries.items()
        }
        text = json.dumps({"format": _FORMAT, "files": files}).encode()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(text))
        self._changed = False


def _facts(stored: dict[str, Any]) -> Facts:
    """As they were before JSON made text of the labels."""
    facts = Facts(**stored)
    if facts.labels is not None:
        facts.labels = {int(value): int(count) for value, count in facts.labels.items()}
    return facts
