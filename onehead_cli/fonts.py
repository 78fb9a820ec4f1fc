"""Letters for any text: those of the font that comes with Pillow, else of a font of the system that has them all."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import ImageDraw, ImageFont, features

#: Where Linux, macOS and Windows keep fonts, of all users and of one; what is not there is passed over.
_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "fonts"),
    Path("~/.fonts"),
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
    Path("~/Library/Fonts"),
    Path(os.environ.get("WINDIR") or "C:/Windows", "Fonts"),
    Path(os.environ.get("LOCALAPPDATA") or "~", "Microsoft/Windows/Fonts"),
)
_SUFFIXES = (".ttf", ".otf", ".ttc")
#: Taken only where there is no plainer font.
_SPECIAL = ("bold", "italic", "oblique", "light", "thin", "black", "medium", "mono", "condensed", "serif", "math")
#: For every letter at all it has a box that names the script.
_PLACEHOLDERS = "lastresort"
#: Stand beside names: scores, "(crowd)", the ellipsis.
_BESIDE = frozenset("09az.%(…")
#: Join or part the letters beside them, and are seen by that alone.
_JOINERS = "\u200c\u200d"
#: No font has a letter here, so that it shows what a missing one looks like.
_NO_LETTER = chr(0x10FFFF)

_Face = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Font:
    """Letters of one size in pixels, of whatever script; a "?" stands for one that no font has."""

    size: float

    def length(self, text: str) -> float:
        """The width of a text in pixels."""
        return sum(_face(file, self.size).getlength(run) for run, file in _runs(one_line(text)))

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        place: tuple[float, float],
        text: str,
        *,
        fill: tuple[int, int, int],
        align: Literal["left", "middle", "right"] = "left",
    ) -> None:
        """Put a text in one line.

        Args:
            place: x of what `align` says, y of the middle of the line.
        """
        x, y = place
        x -= self.length(text) * {"left": 0, "middle": 0.5, "right": 1}[align]
        ascent, descent = _face(None, self.size).getmetrics()
        for run, file in _runs(one_line(text)):
            face = _face(file, self.size)
            draw.text((x, y + (ascent - descent) / 2), run, font=face, fill=fill, anchor="ls")
            x += face.getlength(run)


def can_write(text: str) -> bool:
    """Whether fonts here have all letters of the text, and what is needed to join them."""
    shown = one_line(text)
    return not shown.isspace() and "".join(run for run, _ in _runs(shown)) == shown != ""


def one_line(text: str) -> str:
    """The text as it is written: composed, spaces for line breaks and their like, no marks that are not seen."""
    return "".join(map(_shown, unicodedata.normalize("NFC", text)))


def font_files() -> Sequence[Path]:
    """The font files of the system, plain ones first."""
    found = [
        Path(folder, name)
        for root in _FOLDERS
        for folder, _, names in os.walk(os.path.expanduser(root))  # noqa: PTH111 - who has no home has no fonts there
        for name in names
        if name.lower().endswith(_SUFFIXES) and _PLACEHOLDERS not in name.lower()
    ]
    return sorted(found, key=_plainness)


def _plainness(path: Path) -> tuple[int, bool, str]:
    name = path.stem.lower()
    return sum(word in name for word in _SPECIAL), "sans" not in name, str(path)


def _shown(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    if kind == "Cs":  # a byte of a file name that is not UTF-8
        return "\ufffd"
    return "" if kind == "Cf" and not (letter in _JOINERS and features.check("raqm")) else letter


def _runs(text: str) -> list[tuple[str, Path | None]]:
    """What is written of a text, in parts, each with its font; None: that of Pillow."""
    foreign = frozenset(letter for letter in text if not _is_own(letter))
    if not foreign:
        return [(text, None)]
    if file := _file_with(foreign | _BESIDE):
        return [(text, file)]
    # Some fonts have the letters of their script alone, so that a score beside a name needs another one.
    begin = next(place for place, letter in enumerate(text) if letter in foreign)
    end = len(text) - next(place for place, letter in enumerate(reversed(text)) if letter in foreign)
    if file := _file_with(frozenset(text[begin:end])):
        return [(text[:begin], None), (text[begin:end], file), (text[end:], None)]
    return [("".join("?" if letter in foreign else letter for letter in text), None)]


@functools.cache
def _is_own(letter: str) -> bool:
    return _has(_face(None, 24), letter)


@functools.cache
def _file_with(letters: frozenset[str]) -> Path | None:
    """The first font that has the letters; None where there is none, or nothing that could join them."""
    if any(map(_is_joined, letters)) and not features.check("raqm"):
        return None
    files = _files()
    found = next((file for file in files if _has_all(file, letters)), None)
    if found is not None:  # the next name is most likely in the same script
        files.remove(found)
        files.insert(0, found)
    return found


@functools.cache
def _files() -> list[Path]:
    return list(font_files())


def _is_joined(letter: str) -> bool:
    """Whether a letter is not simply put to the right of the one before: Arabic, Hebrew, vowel signs of Hindi."""
    return unicodedata.bidirectional(letter) in ("R", "AL", "AN") or unicodedata.category(letter).startswith("M")


def _has_all(file: Path, letters: frozenset[str]) -> bool:
    try:
        face = ImageFont.truetype(file, 24, layout_engine=ImageFont.Layout.BASIC)
        return all(_has(face, letter) for letter in letters)
    except (OSError, ValueError):  # damaged, or of bitmaps at other sizes alone, as emoji are
        return False


def _has(face: _Face, letter: str) -> bool:
    if letter.isspace() or letter in _JOINERS or unicodedata.name(letter, "").startswith("VARIATION SELECTOR"):
        return True
    drawn, missing = face.getmask(letter), face.getmask(_NO_LETTER)
    return drawn.getbbox() is not None and (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@functools.lru_cache(maxsize=64)
def _face(file: Path | None, size: float) -> _Face:
    """A font file at a size; None: the font of Pillow."""
    face = ImageFont.load_default(size=size) if file is None else ImageFont.truetype(file, size)
    assert isinstance(face, _Face)
    return face
