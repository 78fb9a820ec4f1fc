"""Whatever a checkpoint file holds, it is read or refused in one line."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import fuzz
from hypothesis import strategies as st

from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.half_precision import to_half_precision
from onehead_cli.config.sections import Config
from onehead_cli.errors import OneheadError
from onehead_cli.files.checksum import add_checksum
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.wording import is_one_line

FILES = Path(__file__).parent / "files"
DROPPED = "(dropped)"

odd = st.sampled_from(
    [
        *[DROPPED, None, True, False, 0, 1, -1, 3, 10**30, 1 << 62, 0.0, 0.5, math.nan, math.inf, -1e300],
        *["", "cls", "det", "kmeans", "a\nb", "\ud800", "x" * 99],
        *[[], {}, [1], ["a"], {"a": 1}, [[1.0, 2.0]], {"cls": []}, {"boxes": ["a"]}],
    ]
)
odd_tensors = {
    "empty": torch.zeros(0),
    "short": torch.zeros(1),
    "nan": torch.full((2, 2), math.nan),
    "whole": torch.zeros(3, dtype=torch.int64),
}
places = st.integers(0, 10**6)
#: (place, what is put there), and (weight, what it becomes).
changes = st.tuples(
    st.lists(st.tuples(places, odd), max_size=3),
    st.lists(st.tuples(places, st.sampled_from(sorted(odd_tensors))), max_size=1),
)
#: (place, from the end where it is negative; how many bytes go; what comes), and how much is cut off. Headers and
#: directories lie at both ends.
damages = st.tuples(
    st.lists(
        st.tuples(st.integers(-4000, 400) | places, st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
    ),
    st.just(0) | st.integers(0, 400) | places,
)


def changed(document: dict[str, Any], change: Any) -> Any:
    """A document with some places replaced or dropped, and some weights that are others."""
    values, weights = change
    rest = {key: value for key, value in document.items() if key != "weights"}
    root = {"document": {**copy.deepcopy(rest), "weights": dict(document["weights"])}}
    names = sorted(document["weights"])
    for place, kind in weights:
        root["document"]["weights"][names[place % len(names)]] = odd_tensors[kind]
    for place, value in values:
        found = list(_places(root))
        holder, key = found[place % len(found)]
        if value == DROPPED and holder is not root:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(value)
    return root["document"]


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object or list, key) below a node; the tensors count as one."""
    entries = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in entries:
        yield node, key
        if not isinstance(value, dict) or not any(isinstance(each, torch.Tensor) for each in value.values()):
            yield from _places(value)


def damaged(raw: bytes, damage: tuple[Sequence[tuple[int, int, bytes]], int]) -> bytes:
    content = bytearray(raw)
    edits, cut = damage
    for place, gone, come in edits:
        place %= len(content)
        content[place : place + gone] = come
    return bytes(content[: len(content) - cut % len(content)])


def check(path: Path, content: bytes) -> None:
    """All that `predict` does with a checkpoint, up to the first image."""
    path.write_bytes(content)
    try:
        Predictor(load_checkpoint(path), Config(), score_threshold=None)
    except OneheadError as error:
        assert is_one_line(str(error)), repr(str(error))


def as_pth(document: Any) -> bytes:
    archive = io.BytesIO()
    torch.save(document, archive)
    add_checksum(archive)
    return archive.getvalue()


def with_checksum(content: bytes) -> bytes:
    """A damaged .pth as if it had been written so."""
    bare = content[: -len(b"sha256:") - 64]
    return bare + b"sha256:" + hashlib.sha256(bare).hexdigest().encode()


def as_safetensors(document: Any) -> bytes:
    """Nothing where it cannot be written."""
    try:
        weights = {key: value for key, value in document["weights"].items() if isinstance(value, torch.Tensor)}
        return to_half_precision({**document, "weights": weights})
    except (ValueError, TypeError, KeyError, AttributeError):
        return b""


def with_own_checksum(content: bytes) -> bytes:
    """A damaged .safetensors as if it had been written so."""
    mark = b'\\"sha256\\": \\"'
    start = content.find(mark) + len(mark)
    if start < len(mark):
        return content
    zeros = content[:start] + b"0" * 64 + content[start + 64 :]
    return content[:start] + hashlib.sha256(zeros).hexdigest().encode() + content[start + 64 :]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_any_pth_is_read_or_refused_in_one_line(tmp_path, soak, record_property):
    raw = (FILES / "format2.pth").read_bytes()
    document = torch.load(io.BytesIO(raw), weights_only=True)
    tried = fuzz_file(tmp_path / "fuzz.pth", raw, document, as_pth, with_checksum, soak)
    record_property("examples", tried)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_any_safetensors_is_read_or_refused_in_one_line(tmp_path, soak, record_property):
    raw = (FILES / "format3.safetensors").read_bytes()
    assert with_own_checksum(raw) == raw
    header = json.loads(raw[8 : 8 + struct.unpack_from("<Q", raw)[0]])
    document = json.loads(header["__metadata__"]["onehead"])
    document["weights"] = load_checkpoint(FILES / "format3.safetensors").weights
    tried = fuzz_file(tmp_path / "fuzz.safetensors", raw, document, as_safetensors, with_own_checksum, soak)
    record_property("examples", tried)


def fuzz_file(path, raw, document, written, checked, soak):
    """Args: written: the file of a document. checked: a damaged file with a checksum that fits."""

    def holds(example):
        kind, edit = example
        if kind == "document":
            content = written(changed(document, edit))
        else:
            content = checked(damaged(raw, edit)) if kind == "checksum" else damaged(raw, edit)
        check(path, content)

    examples = st.one_of(
        st.tuples(st.just("document"), changes),
        st.tuples(st.just("checksum"), damages),
        st.tuples(st.just("bytes"), damages),
    )
    return fuzz(holds, examples, soak=soak, few=25)
