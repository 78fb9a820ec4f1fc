"""What a run tells while it goes on, and whom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


@dataclass
class StepInfo:
    """What one optimizer step did; the log, the progress bar and the tests read the same keys.

    losses: the mean over the buffer of each task loss and distillation term ("cls", "kd_cls", ...), not normalised.
    weights: the task weights in use, adding up to 1.
    gradient_cosine: see `TaskGradients.cosines`; empty after a step in which it was not measured.
    """

    epoch: int
    step: int
    total_steps: int
    loss: float
    losses: dict[str, float]
    weights: dict[str, float]
    lr: float
    grad_norm: float
    seconds: float
    gradient_cosine: dict[str, dict[str, float | None]] = field(default_factory=dict)


@dataclass
class EpochInfo:
    """What one epoch ended with.

    scores: on val, of the averaged (EMA) weights; empty after an epoch that was not evaluated.
    criterion: None after an epoch that was not evaluated, and where val has nothing labelled.
    best: whether the criterion, or the mean of the last ones (`best_mean`), is the largest so far.
    diagnostics: see `Validation.diagnostics`.
    """

    epoch: int
    total_epochs: int
    step: int
    scores: dict[str, float | None]
    criterion: float | None
    best: bool
    seconds: float
    warnings: list[str] = field(default_factory=list)
    diagnostics: dict[str, float | None] = field(default_factory=dict)


class Reporter(Protocol):
    """How engine code speaks: it never prints; `console.py` is the one that does."""

    def note(self, message: str) -> None: ...

    def say(self, message: str) -> None:
        """What is no warning and yet to be seen with --quiet too."""
        ...

    def warn(self, message: str) -> None: ...

    def track(self, label: str, total: int, *, unit: str = "") -> AbstractContextManager[Callable[[int, str], None]]:
        """A progress bar while the context is open; call the value with (done so far, a short detail).

        A bar that is opened while another is open stands below it. unit: "bytes" where that is what is counted.
        """
        ...


class Silent:
    """Says nothing; the reporter of a program that wants the results alone."""

    def note(self, message: str) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass

    @contextlib.contextmanager
    def track(self, label: str, total: int, *, unit: str = "") -> Iterator[Callable[[int, str], None]]:
        yield lambda done, detail: None


SILENT: Reporter = Silent()
