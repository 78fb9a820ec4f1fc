"""The training loop: a generator of facts. Its caller decides what to save, log and draw.

In several processes every decision (the end, a new best, patience) is made from numbers that are the same in all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from onehead_cli.config.training import ScheduleConfig
from onehead_cli.data.batch import Batch
from onehead_cli.data.loader import TrainLoader
from onehead_cli.errors import NonFiniteLossError
from onehead_cli.evaluation.validation import Validation
from onehead_cli.events import EpochInfo, StepInfo
from onehead_cli.network.batch_norm import set_training
from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.launch import world_size
from onehead_cli.runtime.processes import average_, sum_gradients, sum_number
from onehead_cli.training.ema import WeightAverage
from onehead_cli.training.objective import Objective
from onehead_cli.training.optim import build_optimizer, clip_gradients, lr_factor, set_lr
from onehead_cli.training.task_gradients import TaskGradients


@dataclass
class LoopState:
    """Where a run is.

    step: optimizer steps done. best: the best mean criterion so far. recent: the last criteria, `best_mean` of them at
    most, which that is the mean of. since_best: evaluations since then. warned: tasks whose weight was warned about,
    and "val " with the tasks that could not be measured.
    """

    step: int = 0
    best: float = float("-inf")
    recent: list[float] = field(default_factory=list)
    since_best: int = 0
    warned: list[str] = field(default_factory=list)


class TrainingLoop:
    """One run of one network, from any step to the end."""

    def __init__(
        self,
        objective: Objective,
        loader: TrainLoader,
        *,
        batch_norm: Literal["train", "slow", "frozen"],
        validate: Callable[[OneHead], Validation],
        weights_floor: float,
        log_conflict: int = 0,
    ) -> None:
        """Args: log_conflict: steps between two measurements of the tasks' gradients; 0 for none."""
        self.objective = objective
        self.loader = loader
        self.schedule: ScheduleConfig = objective.schedule
        self.batch_norm = batch_norm
        self.validate = validate
        self.validation: Validation | None = None
        self.weights_floor = weights_floor
        self.log_conflict = log_conflict
        self.state = LoopState()
        self.average = WeightAverage(objective.model, self.schedule.ema_decay)
        self.optimizer = build_optimizer(objective, self.schedule)
        self.steps_per_epoch = -(-loader.batches_per_epoch() // self.schedule.buffer_size)
        self.total_steps = self.schedule.epochs * self.steps_per_epoch

    def run(self) -> Iterator[StepInfo | EpochInfo]:
        """Yield a StepInfo after each optimizer step and an EpochInfo after each epoch.

        Raises:
            NonFiniteLossError: before the step; weights and state are those of the step before.
        """
        epoch_began = time.perf_counter()
        while not self.finished():
            info = self._step()
            yield info
            if not self.at_end_of_epoch():
                continue
            validation, best = None, False
            if info.epoch % self.schedule.eval_every == 0 or info.epoch == self.schedule.epochs:
                validation = self.validation = self.validate(self.average.model)
                best = validation.criterion is not None and self._take_in(validation.criterion)
            below = {name for name, w in info.weights.items() if w < self.weights_floor} - set(self.state.warned)
            self.state.warned += sorted(below)
            yield EpochInfo(
                epoch=info.epoch,
                total_epochs=self.schedule.epochs,
                step=self.state.step,
                scores=validation.scores if validation else {},
                criterion=validation.criterion if validation else None,
                best=best,
                seconds=time.perf_counter() - epoch_began,
                warnings=[
                    f"weight of task {name} is {info.weights[name]:.3f}, below {self.weights_floor}: "
                    "this task is hardly learned any more"
                    for name in sorted(below)
                ]
                + (self._unmeasured(validation) if validation else []),
                diagnostics=validation.diagnostics if validation else {},
            )
            epoch_began = time.perf_counter()

    def _take_in(self, criterion: float) -> bool:
        """Whether the mean of the last `best_mean` evaluations, of fewer where there are fewer, is the best so far."""
        state = self.state
        state.recent = [*state.recent, criterion][-self.schedule.best_mean :]
        mean = sum(state.recent) / len(state.recent)
        best = mean > state.best
        state.best = max(mean, state.best)
        state.since_best = 0 if best else state.since_best + 1
        return best

    def _unmeasured(self, validation: Validation) -> list[str]:
        """A warning at the first evaluation that could not measure something."""
        tasks = ", ".join(validation.unmeasured)
        if not tasks or (subject := f"val {tasks}") in self.state.warned:
            return []
        self.state.warned.append(subject)
        if validation.criterion is None:
            return [f"nothing in val is labelled for {tasks}, so no epoch is the best: the last one's weights are kept"]
        return [f"nothing in val is labelled for {tasks}, which does not count in choosing the best epoch"]

    def finished(self) -> bool:
        """Whether all steps are done, or `patience` evaluations brought no new best."""
        patience = self.schedule.patience
        return self.state.step >= self.total_steps or (0 < patience <= self.state.since_best)

    def at_end_of_epoch(self) -> bool:
        return self.state.step % self.steps_per_epoch == 0

    def _step(self) -> StepInfo:
        """One buffer of mini-batches and one optimizer step."""
        began, step, size = time.perf_counter(), self.state.step, self.schedule.buffer_size
        objective = self.objective
        set_training(objective.model, objective.model.backbone, self.batch_norm)
        factor = lr_factor(step, self.total_steps, self.schedule.warmup)
        set_lr(self.optimizer, factor)
        # Set to 0, not freed: with freed gradients the first mini-batch of a buffer would meet another heap than the
        # rest, and the peak of memory would depend on the size of the buffer.
        self.optimizer.zero_grad(set_to_none=False)
        model, is_measured = objective.model, self.log_conflict and (step + 1) % self.log_conflict == 0
        gradients = TaskGradients(model.tasks, model.shared_stages()) if is_measured else None
        batches = (self.loader.minibatch(step * size + i) for i in range(size))
        total, losses = gather_buffer(objective, batches, size, gradients=gradients)
        weights = objective.task_weights.as_dict()
        norm = clip_gradients(objective.learned(), self.schedule.clip_norm)
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"gradient is {norm} at step {step + 1}: stopped before the step; "
                "try a lower --lr or model.precision=fp32"
            )
        cosines = gradients.cosines() if gradients is not None else {}
        self.optimizer.step()
        if self.batch_norm != "frozen":
            average_([b for b in objective.model.backbone.buffers() if b.is_floating_point()])
        epoch = step // self.steps_per_epoch + 1
        objective.normaliser.update(losses, first_epoch=epoch == 1)
        self.average.update(objective.model, step)
        self.state.step = step + 1
        return StepInfo(
            epoch=epoch,
            step=self.state.step,
            total_steps=self.total_steps,
            loss=total,
            losses=losses,
            weights=weights,
            lr=self.schedule.lr * factor,
            grad_norm=norm,
            seconds=time.perf_counter() - began,
            gradient_cosine=cosines,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that `run` goes on from, as tensors and plain values; the averaged weights are kept apart."""
        return {
            "step": self.state.step,
            "processes": world_size(),
            "pictures": {task: len(split) for task, split in self.loader.splits.items()},
            "best": self.state.best,
            "recent": list(self.state.recent),
            "since_best": self.state.since_best,
            "warned": list(self.state.warned),
            "optimizer": self.optimizer.state_dict(),
            **self.objective.saved(),
        }

    def load_state_dict(self, state: dict[str, Any], averaged: dict[str, torch.Tensor]) -> None:
        self.state = LoopState(
            step=int(state["step"]),
            best=float(state["best"]),
            recent=list(state.get("recent", [])),  # 0.1.0 kept none, and compared single evaluations
            since_best=int(state["since_best"]),
            warned=list(state["warned"]),
        )
        self.objective.restore(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.model.load_state_dict(averaged)


def gather_buffer(
    objective: Objective, batches: Iterable[Batch], size: int, *, gradients: TaskGradients | None = None
) -> tuple[float, dict[str, float]]:
    """Add up the gradients of a buffer of mini-batches; returns the mean total and the mean of each part.

    Each mini-batch runs backward at once, so that only one graph is held whatever the size. The gradient equals that
    of the mean over the buffer in one graph: the normalisers and the task weights stay as they are within it. (Only
    in a run's very first buffer, when there is no running mean yet, each loss is divided by itself.) Of several
    processes, each ends with the gradients of all.

    Args: gradients: takes in each task's own, where they are measured.

    Raises:
        NonFiniteLossError: see `Objective`.
    """
    total, sums = 0.0, dict[str, torch.Tensor]()
    for batch in batches:
        loss, parts = _add_gradient(objective, batch, size, gradients)
        total += loss / size
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part
    sum_gradients([*objective.learned(), *objective.task_weights.parameters()])
    return sum_number(total), {name: float(value) / size for name, value in sums.items()}


def _add_gradient(
    objective: Objective, batch: Batch, size: int, gradients: TaskGradients | None
) -> tuple[float, dict[str, torch.Tensor]]:
    """One mini-batch's part of `gather_buffer`. A function of its own, so that nothing of its graph is held while the
    next one's is made: 100 MB at 320 px."""
    if gradients is None:
        loss, parts = objective(batch)
    else:
        loss, parts, shares = objective.by_task(batch)
        gradients.add(shares)
    (loss / size).backward()
    return float(loss.detach()), parts
