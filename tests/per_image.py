"""A result for tests of verdicts, which no network has to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PerImage:
    """A result whose score is the mean of a value per image."""

    values: NDArray[np.float64]
    task: ClassVar[str] = "cls"

    def __len__(self) -> int:
        return len(self.values)

    def scores(self) -> dict[str, float | None]:
        return {"top1": float(self.values.mean()) if len(self) else None}

    def resampled(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        return counts @ self.values / len(self)
