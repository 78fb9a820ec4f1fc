"""How long a training will take and how much memory, found by running one mini-batch of it on a copy."""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from onehead_cli.model.batch_norm import set_training
from onehead_cli.training.loop import TrainingLoop


@dataclass(frozen=True)
class Estimate:
    """seconds: of all remaining steps, without evaluation. memory_bytes: weights, optimizer, one graph, pictures."""

    seconds: float
    memory_bytes: int


def estimate_training(loop: TrainingLoop) -> Estimate:
    """Time one mini-batch forward and backward, and count what it saves for backward.

    The run itself is left as it was: a copy of the model is used, and no random state is drawn from.
    """
    objective = dataclasses.replace(loop.objective, model=copy.deepcopy(loop.objective.model))
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    set_training(objective.model, objective.model.backbone, loop.batch_norm)
    seconds = 0.0
    for attempt in range(2):  # the first run also builds the kernels
        began = time.perf_counter()
        batch = loop.loader.minibatch(loop.state.step * loop.schedule.buffer_size)
        with torch.autograd.graph.saved_tensors_hooks(count if attempt == 0 else lambda t: t, lambda t: t):
            loss, _ = objective(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - began
    objective.task_weights.zero_grad()
    left = loop.total_steps - loop.state.step
    weights = sum(p.numel() * p.element_size() for p in objective.model.parameters())
    teachers = sum(p.numel() * p.element_size() for t in objective.teachers.values() for p in t.parameters())
    # Weights, gradients, AdamW's two moments, and the average.
    memory = 5 * weights + teachers + sum(saved.values()) + _cache_bytes(loop)
    return Estimate(seconds=seconds * loop.schedule.buffer_size * left, memory_bytes=memory)


def _cache_bytes(loop: TrainingLoop) -> int:
    budget = loop.loader.data.cache_mb * 1_000_000
    side = loop.loader.data.image_size
    return min(budget, sum(len(split) for split in loop.loader.splits.values()) * side * side * 3)
