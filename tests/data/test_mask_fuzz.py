"""Whatever a mask's file holds, it is refused in one line, or read exactly as it was written."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from fuzz import fuzz
from hypothesis import strategies as st
from PIL import Image
from png import CHANNELS, GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, write_png

from onehead_cli.data.mask_folders import MaskFoldersListing
from onehead_cli.data.scan.probe import probe
from onehead_cli.errors import DataError
from onehead_cli.wording import is_one_line

CLASSES = 200
DEPTHS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8), RGB: (8, 16), GREY_ALPHA: (8, 16), RGBA: (8, 16)}


@st.composite
def masks(draw):
    """(colour type, bits per value, rows of values, chunks in front of the pixels)"""
    colour = draw(st.sampled_from([GREY, GREY, GREY, PALETTE, PALETTE, PALETTE, RGB, GREY_ALPHA, RGBA]))
    depth = draw(st.sampled_from(DEPTHS[colour]))
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    highest = min(draw(st.sampled_from([1, 3, 65535])), 2**depth - 1)
    per_row = width * CHANNELS[colour]
    row = st.lists(st.integers(0, highest), min_size=per_row, max_size=per_row)
    more = []
    if colour in (GREY, PALETTE) and draw(st.booleans()):
        more.append(chunk(b"tRNS", b"\0\1" if colour == GREY else b"\0"))
    if draw(st.booleans()):
        more.append(chunk(b"gAMA", struct.pack(">I", draw(st.sampled_from([45455, 1, 100000])))))
    return colour, depth, draw(st.lists(row, min_size=height, max_size=height)), more


#: (place, how many bytes go, what comes)
damages = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4)


def read(path: Path, size):
    """The labels, and None where it is refused; whether the scan finds the same fault as the reading."""
    listing = MaskFoldersListing([str(i) for i in range(CLASSES)], [path], [path], ignore_index=CLASSES)
    try:
        labels = listing.mask(0, size)
    except DataError as error:
        assert str(path) in str(error) and is_one_line(str(error)), repr(str(error))
        labels = None
    facts = probe(path, decode=True, is_mask=True)
    found = [fault.kind for fault in listing.faults(0, size, lambda _: facts)]
    assert bool(found) == (labels is None), (found, labels)
    return labels


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_any_mask_is_read_as_it_was_written_or_refused(tmp_path, soak, record_property):
    path = tmp_path / "mask.png"

    def holds(example):
        (colour, depth, rows, more), kind, damage = example
        width, height = len(rows[0]) // CHANNELS[colour], len(rows)
        if kind in ("PNG", "damaged"):
            write_png(path, rows, depth=depth, colour=colour, more=more)
        else:
            Image.fromarray(np.array(rows).astype(np.uint8)[:, :width]).save(path, kind)
        if kind == "damaged":
            content = path.read_bytes()
            for place, gone, come in damage:
                content = content[:place] + come + content[place + gone :]
            path.write_bytes(content)
        labels = read(path, (width, height))
        if kind == "damaged":
            return
        is_labels = kind == "PNG" and colour in (GREY, PALETTE) and depth <= 8
        # One past the last class is the label to ignore, which every mask has as 255.
        assert (labels is not None) == (is_labels and max(map(max, rows)) <= CLASSES)
        if labels is not None:
            written = [[255 if value == CLASSES else value for value in row] for row in rows]
            assert labels.dtype == np.uint8 and labels.tolist() == written

    kinds = st.sampled_from(["PNG", "PNG", "PNG", "damaged", "JPEG", "BMP", "WEBP"])
    record_property("examples", fuzz(holds, st.tuples(masks(), kinds, damages), soak=soak, few=200))
