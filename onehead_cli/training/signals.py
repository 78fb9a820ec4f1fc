"""SIGINT and SIGTERM end a training after the step it is in; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopRequest:
    """While the context is open, the first signal is only remembered in `signal_number`."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise SystemExit(128 + number)
        self.signal_number = number
