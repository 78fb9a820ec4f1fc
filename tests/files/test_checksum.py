"""The checksum in a zip file's comment."""

import hashlib
import io
import random
import zipfile

import torch

from onehead_cli.files.checksum import add_checksum, has_valid_checksum


def sealed():
    archive = io.BytesIO()
    torch.save({"weights": torch.arange(6.0), "plain": [1, None, "x"]}, archive)
    add_checksum(archive)
    return archive.getvalue()


def test_the_file_stays_a_zip_that_torch_reads():
    content = sealed()
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    assert torch.equal(loaded["weights"], torch.arange(6.0)) and loaded["plain"] == [1, None, "x"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        comment = archive.comment.decode()
    assert comment == "sha256:" + hashlib.sha256(content[: -len(comment)]).hexdigest()


def test_every_flipped_bit_and_every_cut_is_noticed():
    content, draw = sealed(), random.Random(0)
    file = io.BytesIO(content)
    file.seek(5)
    assert has_valid_checksum(file) and file.tell() == 0
    # All of the end, where the checksum and its length stand, and some of the rest.
    for at in [*range(len(content) - 100, len(content)), *draw.sample(range(len(content)), 100)]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << draw.randrange(8)
        assert not has_valid_checksum(io.BytesIO(flipped)), at
    for length in [0, 1, 70, 71, 72, len(content) - 1, *draw.sample(range(len(content)), 20)]:
        assert not has_valid_checksum(io.BytesIO(content[:length])), length
    assert not has_valid_checksum(io.BytesIO(content + b"\0"))
