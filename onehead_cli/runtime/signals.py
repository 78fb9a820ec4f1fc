"""SIGINT and SIGTERM end a training after the step it is in; a second one, or one elsewhere, ends the process then."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from onehead_cli.runtime.launch import speaks

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_on_signals() -> None:
    """Let a signal end the process with exit code 128 + its number and one line."""
    for number in SIGNALS:
        signal.signal(number, _leave)


class StopRequest:
    """While the context is open, the first signal is only remembered in `signal_number`.

    One that nobody has acted upon by the end, because it came within the last save, ends the process then. Outside the
    main thread, where Python takes no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.signal_number is not None:
            _leave(self.signal_number, None)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            _leave(number, frame)
        self.signal_number = number


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave through every `finally`, so that nothing half-written stays; `app.run` says which signal it was."""
    if _in_import(frame):
        # Whoever imports may swallow an exception and go on with half a module: numpy and torch do.
        show_cursor = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
        line = f"error: stopped by {signal.Signals(number).name}\n" if speaks() else ""
        with contextlib.suppress(OSError):  # stderr is closed, or its reader left
            os.write(2, f"{show_cursor}{line}".encode())
        os._exit(128 + number)
    raise SystemExit(128 + number)


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
