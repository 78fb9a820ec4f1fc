"""The weights of the task losses: learned, equal or fixed.

Learned: w_i = sigmoid(r_i) / sum_j sigmoid(r_j). Minimised together with the losses this has no inner optimum:
dL/dr_i = sigmoid'(r_i) / S * (L_i - sum_j w_j L_j), so the weight drifts to the smallest loss. Two things keep it
useful: `LossNormaliser` divides each loss by its own running mean, and a decoupled weight decay bounds |r|.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

_MOMENTUM = 0.1


class TaskWeights(nn.Module):
    """Weights of the tasks' losses, adding up to 1; `forward` gives float [tasks]."""

    fixed: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        mode: Literal["learned", "equal", "fixed"] = "learned",
        fixed: Sequence[float] | None = None,
    ) -> None:
        """Args: fixed: the weights of mode `fixed`, one per task, not all 0; scaled to add up to 1."""
        super().__init__()
        self.tasks = tuple(tasks)
        self.r = nn.Parameter(torch.zeros(len(self.tasks)), requires_grad=mode == "learned")
        values = torch.tensor(fixed if mode == "fixed" and fixed is not None else [1.0] * len(self.tasks))
        self.register_buffer("fixed", values / values.sum(), persistent=False)

    def forward(self) -> Tensor:
        if not self.r.requires_grad:
            return self.fixed
        share = self.r.sigmoid()
        return share / share.sum()

    def as_dict(self) -> dict[str, float]:
        return {task: float(w) for task, w in zip(self.tasks, self().detach(), strict=True)}


class LossNormaliser:
    """A running mean of each loss by name, updated once per buffer, that the loss is divided by.

    The mean is never taken for less than `floor` of its first-epoch value, so that a loss near 0 is not blown up.
    """

    def __init__(self, enabled: bool = True, *, floor: float = 0.05) -> None:
        self.enabled = enabled
        self.floor = floor
        self.mean: dict[str, float] = {}
        self.first_epoch: dict[str, list[float]] = {}  # name -> [sum, count]

    def scale(self, name: str, loss: Tensor) -> float:
        """What to divide the loss by; on its very first use, its own value."""
        if not self.enabled:
            return 1.0
        mean = self.mean[name] if name in self.mean else float(loss.detach())
        total, count = self.first_epoch.get(name, [mean, 1])
        return max(mean, self.floor * total / count, 1e-12)

    def update(self, losses: dict[str, float], *, first_epoch: bool) -> None:
        """Take in the mean of each loss over one buffer."""
        for name, value in losses.items():
            if not value and name not in self.mean:
                continue  # images without a label, before there is a mean: the next loss would be divided by 0
            if first_epoch:
                total, count = self.first_epoch.get(name, [0.0, 0])
                self.first_epoch[name] = [total + value, count + 1]
            self.mean[name] = self.mean[name] + _MOMENTUM * (value - self.mean[name]) if name in self.mean else value

    def state_dict(self) -> dict[str, object]:
        return {"mean": dict(self.mean), "first_epoch": {k: list(v) for k, v in self.first_epoch.items()}}

    def load_state_dict(self, state: dict[str, dict[str, float] | dict[str, list[float]]]) -> None:
        self.mean = {k: float(v) for k, v in state["mean"].items()}  # type: ignore[arg-type]
        self.first_epoch = {k: list(v) for k, v in state["first_epoch"].items()}  # type: ignore[arg-type]
