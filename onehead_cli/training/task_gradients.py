"""Whether the tasks pull the layers that they share in one direction: the cosine of their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from onehead_cli.network.onehead import SharedRows
from onehead_cli.runtime.processes import sum_


class TaskGradients:
    """The gradient of each task's losses on shared layers over one optimizer step, stage by stage.

    It is the gradient that the step would be made of if the task were alone: of the task's weighed losses, on labels
    and of teachers, added up over the buffer's mini-batches and over all processes, before any clipping. The gradients
    are computed beside those that the step is made of, and leave these as they are.
    """

    def __init__(self, tasks: Sequence[str], stages: Mapping[str, Sequence[SharedRows]]) -> None:
        """Args: stages: by name, the layers that are compared as one; see `OneHead.shared_stages`."""
        self._stages = stages
        self._sums = {
            task: {
                stage: torch.cat([p.new_zeros(p[rows].numel()) for p, rows in shared])
                for stage, shared in stages.items()
            }
            for task in tasks
        }

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take in one mini-batch. Its graph is kept for the backward pass that is to come.

        Args: losses: this process's share of each task's, scalars; a task without one has no example in the mini-batch.
            Of several processes, all call this with the same tasks: batch-norm's backward pass waits for the others.
        """
        parameters = [p for shared in self._stages.values() for p, _ in shared]
        for task, sums in self._sums.items():
            if task not in losses:
                continue
            found = iter(torch.autograd.grad(losses[task], parameters, retain_graph=True, materialize_grads=True))
            for stage, shared in self._stages.items():
                sums[stage] += torch.cat([next(found)[rows].flatten() for _, rows in shared])

    def cosines(self) -> dict[str, dict[str, float | None]]:
        """By pair of tasks ("cls-seg") and stage, the cosine of their gradients g, g_i . g_j / (|g_i| |g_j|): 1 where
        both pull in one direction, below 0 where what helps one harms the other (Yu et al. 2020, arXiv 2001.06782).
        None where a gradient is zero, as that of a task without an example is. Once, after the last mini-batch.
        """
        # On the CPU, for not every GPU has float64, and in float32 the square of a small gradient may be 0.
        whole = {
            task: {stage: sum_(gradient).cpu().double() for stage, gradient in sums.items()}
            for task, sums in self._sums.items()
        }
        return {
            f"{one}-{other}": {stage: cosine(whole[one][stage], whole[other][stage]) for stage in self._stages}
            for one, other in combinations(self._sums, 2)
        }


def cosine(a: Tensor, b: Tensor) -> float | None:
    """The cosine of two vectors, float [N] each; None where one is zero."""
    norms = float(a.norm() * b.norm())
    return min(max(float(a @ b) / norms, -1.0), 1.0) if norms else None
