"""What is minimised: the terms, their weights and their running means; one place, one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from onehead_cli.config.training import ScheduleConfig
from onehead_cli.data.batch import Batch
from onehead_cli.errors import CheckpointError, NonFiniteLossError
from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.compute import autocast
from onehead_cli.runtime.processes import gather, sum_parts
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights
from onehead_cli.training.terms import Pass, Supervised, Term


class Objective(nn.Module):
    """The loss of one mini-batch, for a teacher (one task) as for the student (all of them).

    total = sum over the losses L_i of all terms of w_i L_i / m_i

    w are what the terms say, m the running means of `LossNormaliser`. A task without images in the batch adds exactly
    0. Of several processes, each computes its images' share of the total: the sum over its images divided by the
    number of all. It owns all that is learned and all that is saved of it: the network, the task weights, what the
    terms learn.

    supervised: what the labels say. terms: what else there is to learn from.
    precision: of the forward pass; losses are float32.
    """

    def __init__(
        self,
        model: OneHead,
        supervised: Supervised,
        terms: Sequence[Term],
        normaliser: LossNormaliser,
        *,
        schedule: ScheduleConfig,
        precision: torch.dtype,
    ) -> None:
        super().__init__()
        self.model = model
        self.supervised = supervised
        self.terms = nn.ModuleDict({term.name: term for term in terms})
        self.normaliser = normaliser
        self.schedule = schedule
        self.precision = precision

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's share of the total to run backward on, and the detached mean of each loss by name ("cls",
        "kd_cls", ...) over the images of all processes.

        Raises:
            NonFiniteLossError: a mean is NaN or infinite.
        """
        total, means, _ = self.by_task(batch)
        return total, means

    def by_task(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """What `forward` gives and, of each task that has a loss, its share of the total: the weighed losses on its
        labels and of its teachers. A loss that is of no one task ("kd_cells") is in no share.

        Raises:
            NonFiniteLossError: a mean is NaN or infinite.
        """
        images = torch.cat([part.images for part in batch.values()])
        with autocast(images.device, self.precision):
            trunk = self.model.trunk(images)
            features = self.model.features(trunk)
            outputs = self.model.maps(features)
        seen = Pass(self.model, batch, images, trunk, features, outputs, self.precision)
        found = [(term, term(seen)) for term in self._terms()]
        means = sum_parts({name: part for _, parts in found for name, part in parts.items()})
        total, shares = images.new_zeros(()), dict[str, Tensor]()
        for term, parts in found:
            for name in parts:
                _check_finite(name, means[name], batch, term.images_of(name))
        for term, parts in found:
            weights = term.weights()
            for name, part in parts.items():
                weighed = weights[name] * part / self.normaliser.scale(name, means[name])
                total, task = total + weighed, term.images_of(name)
                if task in self.model.tasks:
                    shares[task] = shares[task] + weighed if task in shares else weighed
        return total, means, shares

    @property
    def task_weights(self) -> TaskWeights:
        return self.supervised.task_weights

    def learned(self) -> list[nn.Parameter]:
        """What is learned but the task weights: of the network and, after it, of the terms."""
        return [*self.model.parameters(), *self.terms.parameters()]

    def saved(self) -> dict[str, Any]:
        """All that it goes on from, as tensors and plain values; its keys are those of 0.1.0's saves."""
        return {
            "model": self.model.state_dict(),
            "auxiliary": self.terms.state_dict(),
            "task_weights": self.task_weights.state_dict(),
            "normaliser": self.normaliser.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave.

        Raises:
            CheckpointError: its terms are not those of today.
        """
        self.model.load_state_dict(state["model"])
        learned = state.get("auxiliary", {})  # 0.1.0 had no terms that learn
        try:
            self.terms.load_state_dict(learned)
        except RuntimeError as error:
            raise CheckpointError(f"its terms learned something else: {str(error).splitlines()[0]}") from None
        self.task_weights.load_state_dict(state["task_weights"])
        self.normaliser.load_state_dict(state["normaliser"])

    def trial_copy(self) -> Objective:
        """A copy whose weights may be spoilt; frozen networks are shared."""
        shared = {id(network): network for term in self._terms() for network in term.frozen()}
        return copy.deepcopy(self, shared)

    def _terms(self) -> list[Term]:
        """In the order in which they are added up."""
        return [self.supervised, *cast(Iterable[Term], self.terms.values())]


def _check_finite(name: str, loss: Tensor, batch: Batch, task: str) -> None:
    if torch.isfinite(loss):
        return
    mine = batch[task].names if task in batch else [n for part in batch.values() for n in part.names]
    images = [image for names in gather(mine) for image in names]
    raise NonFiniteLossError(
        f"loss '{name}' is {float(loss)} on the batch {', '.join(images)}: stopped before the step; "
        "try a lower --lr, or look at these images and their labels"
    )
