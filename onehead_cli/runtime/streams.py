"""The standard streams, made ready at start-up: any text can be written to them, and none of them ends the work.

What a stream's encoding lacks is written as near as it goes, or escaped: `caf\\xe9.jpg`. A stream that is closed, or
that cannot be written to any more (its reader left, its disk is full), takes everything and drops it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO

from onehead_cli.wording import escaped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ESCAPING = "onehead.escaping"
#: What this program's own tables and notes have beyond ASCII.
_NEAR = {"–": "-", "…": "...", "·": "."}


def accept_any_text() -> None:
    """Let stdout and stderr take text of any characters; in place of a closed one comes one that drops it."""
    codecs.register_error(_ESCAPING, _escape)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - it stays open
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPING)


class Output:
    """stdout and stderr of this process, both of which never raise from now on."""

    def __init__(self) -> None:
        for descriptor in range(3):
            _open_if_closed(descriptor)
        self._stdout = _guard("stdout")
        _guard("stderr")

    def problem(self) -> str | None:
        """Why stdout lost something, in words; None where it did not, or where its reader wanted no more of it."""
        sys.stdout.flush()
        error = self._stdout.error if self._stdout is not None else None
        if error is None or error.errno in (errno.EPIPE, errno.ESHUTDOWN):
            return None
        return error.strerror or str(error)


class _Guarded(io.RawIOBase):
    """Passes bytes on until that fails, and drops them from then on. error: with which it failed."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream  # it would close the raw one with itself
        below: Any = stream.buffer
        self._raw: io.RawIOBase = getattr(below, "raw", below)  # with `python -u` there is no buffer in between
        self.error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        if self.error is not None:
            return size
        try:
            while (written := self._raw.write(data)) is None:  # a pipe that another process set not to block
                select.select([], [self._raw], [])
        except OSError as error:
            self.error = error
            return size
        return written

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()


def _guard(name: str) -> _Guarded | None:
    """Put the guard below a stream of `sys`; None where it is closed, or is no stream of bytes."""
    stream: TextIO | None = getattr(sys, name)
    if not isinstance(stream, io.TextIOWrapper):
        return None
    guarded = _Guarded(stream)
    over = io.TextIOWrapper(
        io.BufferedWriter(guarded),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    stream.flush()
    setattr(sys, name, over)
    return guarded


def _open_if_closed(descriptor: int) -> None:
    """Else the next file that is opened, a checkpoint perhaps, would get what libraries print."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_NEAR.get(character) or escaped(character) for character in lacking), error.end
