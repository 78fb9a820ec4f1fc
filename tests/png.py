"""PNG files written by hand, of any bit depth: their pixels are known without the library that reads them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

#: Colour types of the PNG standard, and their channels.
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(
    path: Path, rows: Sequence[Sequence[int]], *, depth: int, colour: int = GREY, more: Iterable[bytes] = ()
) -> None:
    """Args:
    rows: of values, the channels of a pixel one after another.
    depth: bits per value.
    more: chunks in front of the pixels.
    """
    header = struct.pack(">IIBBBBB", len(rows[0]) // CHANNELS[colour], len(rows), depth, colour, 0, 0, 0)
    packed = b""
    for row in rows:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        packed += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    palette = [chunk(b"PLTE", bytes(i * 7 % 256 for i in range(3 << depth)))] if colour == PALETTE else []
    chunks = [chunk(b"IHDR", header), *palette, *more, chunk(b"IDAT", zlib.compress(packed)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
