"""A sha256 inside a zip file: as the archive's comment, which readers of zip files (torch.load too) pass over.

The comment reads `sha256:<hex digest>`; the digest covers every byte of the file before it.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

from onehead_cli.errors import DataError

_PREFIX = b"sha256:"
_LENGTH = len(_PREFIX) + 2 * hashlib.sha256().digest_size
_CHUNK = 1 << 20


def add_checksum(archive: io.BytesIO) -> None:
    """Append the checksum to a zip file that has no comment yet."""
    # A zip file ends with the length of its comment and the comment.
    archive.seek(-2, os.SEEK_END)
    archive.write(struct.pack("<H", _LENGTH))
    with archive.getbuffer() as content:
        digest = hashlib.sha256(content).hexdigest()
    archive.write(_PREFIX + digest.encode())


def has_valid_checksum(file: BinaryIO) -> bool:
    """Whether the file ends with the checksum of its own bytes; leaves the file at its beginning."""
    left = file.seek(0, os.SEEK_END) - _LENGTH
    if left < 0:
        return False
    file.seek(left)
    comment = file.read(_LENGTH)
    file.seek(0)
    digest = hashlib.sha256()
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            return False
        digest.update(chunk)
        left -= len(chunk)
    file.seek(0)
    return comment == _PREFIX + digest.hexdigest().encode()


def sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
