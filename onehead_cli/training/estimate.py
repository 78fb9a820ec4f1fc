"""How long a training will take and how much memory, found by running one mini-batch of it on a copy."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import torch

from onehead_cli.network.batch_norm import set_training
from onehead_cli.runtime.memory import peak_resident_bytes
from onehead_cli.training.loop import TrainingLoop


@dataclass(frozen=True)
class Estimate:
    """seconds: of all remaining steps, each at the side of its input, without evaluation.

    memory_bytes: peak of the process (of the GPU, where there is one) with the optimizer and the training images;
    too high where the process has trained another network before.
    """

    seconds: float
    memory_bytes: int


def estimate_training(loop: TrainingLoop) -> Estimate:
    """Time one mini-batch of each coming size forward and backward, and see how much memory the process takes for it.

    The run itself is left as it was: a copy of the model is used, and no random state is drawn from.
    """
    objective = loop.objective.trial_copy()
    set_training(objective.model, objective.model.backbone, loop.batch_norm)
    device = loop.loader.device
    size = loop.schedule.buffer_size
    sides = Counter(loop.loader.side(step * size) for step in range(loop.state.step, loop.total_steps))
    total = 0.0
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for side, steps in sides.items():
            seconds = 0.0
            for _ in range(2):  # the first run also builds the kernels
                began = time.perf_counter()
                loss, _ = objective(loop.loader.minibatch_of_side(loop.state.step * size, side))
                loss.backward()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds = time.perf_counter() - began
            total += seconds * size * steps
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
    moments = 2 * sum(p.numel() * p.element_size() for p in objective.learned())
    return Estimate(seconds=total, memory_bytes=peak + moments + _images(loop))


def _images(loop: TrainingLoop) -> int:
    """Bytes of the training images and masks that will be kept in memory, the GPU's where there is one."""
    wanted = sum(split.bytes_in_training() for split in loop.loader.splits.values())
    return min(loop.loader.data.cache_mb * 1_000_000, wanted)
