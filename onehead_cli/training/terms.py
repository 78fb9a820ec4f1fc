"""The terms of the objective: what the labels say, what the teachers say, what the ImageNet classifier says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onehead_cli.data.batch import Batch
from onehead_cli.network.backbone import Backbone
from onehead_cli.network.closed_form import image_task
from onehead_cli.network.imagenet import ImageNetCells, imagenet_cells, imagenet_classifier
from onehead_cli.network.onehead import UPSAMPLED_CHANNELS, OneHead, TaskOutputs
from onehead_cli.runtime.compute import autocast
from onehead_cli.tasks.soft_targets import distil_cells
from onehead_cli.tasks.task import Setting, get_task
from onehead_cli.training.task_weights import TaskWeights


@dataclass
class Pass:
    """One forward pass of the network that learns over a mini-batch.

    images: of all tasks, one after the other, float [B, 3, S, S]. trunk: what the frozen layers made of them.
    features: what all tasks read. outputs: the maps. precision: of the pass.
    """

    model: OneHead
    batch: Batch
    images: Tensor
    trunk: Tensor
    features: Tensor
    outputs: TaskOutputs
    precision: torch.dtype

    @property
    def rows(self) -> dict[str, slice]:
        """Where each task's images stand."""
        rows, start = {}, 0
        for task, part in self.batch.items():
            rows[task] = slice(start, start + len(part.images))
            start = rows[task].stop
        return rows

    @property
    def total(self) -> int:
        """Images of the mini-batch in all processes."""
        return sum(part.total for part in self.batch.values())

    def taught(self, task: str, images: Literal["own", "all"]) -> tuple[slice, int] | None:
        """Where the images stand that a teacher of a task is asked about, its own or all, and how many they are in all
        processes; None where they are its own and the mini-batch has none."""
        if images == "all":
            return slice(0, len(self.images)), self.total
        return (self.rows[task], self.batch[task].total) if task in self.batch else None


class Term(nn.Module, ABC):
    """A part of the objective. Its parameters are learned with the network's, saved and counted; frozen networks that
    it asks are kept out of its modules and given by `frozen`."""

    name: str

    @abstractmethod
    def forward(self, seen: Pass) -> dict[str, Tensor]:
        """This process's share of each of its losses by name: the sum over its images divided by the number of all."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor | float]:
        """How much each of its losses counts, by name."""

    def images_of(self, name: str) -> str:
        """The task whose images a loss is of, and whose loss it is, where it is one of them."""
        return name.removeprefix("kd_")

    def frozen(self) -> Iterable[nn.Module]:
        """The networks that it asks and that do not learn."""
        return ()


class Supervised(Term):
    """The loss of each task on its labels; on labels for it that other tasks' images carry too."""

    name = "supervised"

    def __init__(self, task_weights: TaskWeights, setting: Setting) -> None:
        super().__init__()
        self.task_weights = task_weights
        self.setting = setting

    def forward(self, seen: Pass) -> dict[str, Tensor]:
        losses, rows = {}, seen.rows
        for task, task_map in seen.outputs.items():
            total, images = task_map.new_zeros(()), 0.0
            for other, part in seen.batch.items():
                target = part.target if other == task else part.also.get(task)
                if target is None:
                    continue
                mine = task_map[rows[other]]
                if part.names:
                    mine = get_task(task).loss(mine, target, part.images.shape[-1], self.setting)
                total, images = total + target.weight * mine.sum(), images + target.weight * part.total
            if images:
                losses[task] = total / images
        return losses

    def weights(self) -> dict[str, Tensor | float]:
        return dict(zip(self.task_weights.tasks, self.task_weights().unbind(), strict=True))


class _Taught(Term):
    """A term of what a frozen network says."""

    def __init__(self) -> None:
        super().__init__()
        self._split: dict[str, bool] = {}

    def ask(
        self,
        name: str,
        seen: Pass,
        rows: slice,
        backbone: Backbone,
        *,
        whole: Callable[[Tensor], Any],
        rest: Callable[[Tensor], Any],
    ) -> Any:
        """What a frozen network says of some images; where it begins with the student's frozen layers, `rest` of it
        goes on from what they gave."""
        if self._shares_trunk(name, seen.model.backbone, backbone):
            return ask(rest, seen.trunk[rows], seen.precision)
        return ask(whole, seen.images[rows], seen.precision)

    def _shares_trunk(self, name: str, mine: Backbone, teacher: Backbone) -> bool:
        """Asked once all weights are loaded."""
        if name not in self._split:
            self._split[name] = teacher.has_trunk_of(mine)
            teacher.freeze(mine.frozen_stages if self._split[name] else 0)
        return self._split[name]


def ask(network: Callable[[Tensor], Any], images: Tensor, precision: torch.dtype) -> Any:
    """What a frozen network says. An inference tensor cannot be saved for backward; its clone can."""
    with torch.inference_mode(), autocast(images.device, precision):
        return network(images)


class Distilled(_Taught):
    """What the teachers say, each on its own task's images or on all, of the very views that the student sees."""

    name = "distilled"

    def __init__(self, teachers: Mapping[str, OneHead], setting: Setting, *, share: float) -> None:
        """Args:
        teachers: frozen networks in eval mode, by task.
        share: the weight of each.
        """
        super().__init__()
        self._teachers = dict(teachers)
        self.setting = setting
        self.share = share

    def forward(self, seen: Pass) -> dict[str, Tensor]:
        losses = {}
        for task, teacher in self._teachers.items():
            if (found := seen.taught(task, self.setting.config.distill.images)) is None:
                continue
            mine, total = found
            loss = seen.outputs[task][mine]
            if len(loss):
                maps = self.ask(task, seen, mine, teacher.backbone, whole=teacher, rest=teacher.read)
                loss = get_task(task).distil(loss, maps[task].float().clone(), self.setting)
            losses[f"kd_{task}"] = loss.sum() / total
        return losses

    def weights(self) -> dict[str, Tensor | float]:
        return {f"kd_{task}": self.share for task in self._teachers}

    def frozen(self) -> Iterable[nn.Module]:
        return self._teachers.values()


class ImageNetTeacher(Term):
    """What the backbone's own ImageNet classifier says, as the teacher of one task; it counts as one more of them."""

    name = "imagenet"

    def __init__(self, classifier: nn.Module, task: str, setting: Setting, *, share: float) -> None:
        """Args:
        classifier: [B, 3, S, S] -> logits of the task's classes, [B, classes].
        share: its weight.
        """
        super().__init__()
        self._classifier = [classifier]  # in a list, so that it is no module of this one
        self.task = task
        self.setting = setting
        self.share = share

    def forward(self, seen: Pass) -> dict[str, Tensor]:
        if (found := seen.taught(self.task, self.setting.config.distill.imagenet_images)) is None:
            return {}
        mine, total = found
        loss = seen.outputs[self.task][mine]
        if len(loss):
            said = ask(self._classifier[0], seen.images[mine], seen.precision).float().clone()[..., None, None]
            loss = get_task(self.task).distil(loss, said, self.setting)
        return {"kd_imagenet": loss.sum() / total}

    def weights(self) -> dict[str, Tensor | float]:
        return {"kd_imagenet": self.share}

    def images_of(self, name: str) -> str:
        return self.task

    def frozen(self) -> Iterable[nn.Module]:
        return self._classifier


class CellTeacher(_Taught):
    """What the ImageNet classifier says of each cell of stride 32, learned by a 1x1 layer from the mean of the four
    cells there. The layer is of the training alone."""

    name = "cells"

    def __init__(self, cells: ImageNetCells, setting: Setting, *, weight: float) -> None:
        super().__init__()
        self._cells = [cells]
        self.layer = nn.Conv2d(UPSAMPLED_CHANNELS, cells.classifier.out_channels, 1)
        self.setting = setting
        self.weight = weight

    def forward(self, seen: Pass) -> dict[str, Tensor]:
        [cells] = self._cells
        with autocast(seen.images.device, seen.precision):
            loss: Tensor = self.layer(F.avg_pool2d(seen.features, 2))
        if len(seen.images):
            said = self.ask("cells", seen, slice(None), cells.backbone, whole=cells, rest=cells.read)
            loss = distil_cells(loss, said.float().clone(), temperature=self.setting.config.distill.temperature)
        return {"kd_cells": loss.sum() / seen.total}

    def weights(self) -> dict[str, Tensor | float]:
        return {"kd_cells": self.weight}

    def frozen(self) -> Iterable[nn.Module]:
        return self._cells


def build_terms(setting: Setting, teachers: Mapping[str, OneHead], device: torch.device) -> list[Term]:
    """The terms of a training beside the labels.

    Args: teachers: frozen networks in eval mode, by task; empty without distillation.

    Raises:
        ConfigError: the classes are not ImageNet's, or the backbone has no linear classifier.
        CheckpointError: there are no weights for the backbone's ImageNet classifier.
    """
    config, architecture, schedule = setting.config, setting.architecture, setting.schedule
    weights_file = config.model.backbone_weights
    task = image_task(architecture.tasks) if schedule.imagenet_teacher else None
    share = config.distill.lambda_ / max(len(teachers) + (task is not None), 1)
    cells_weight = max(get_task(each).cells_weight(config) for each in architecture.tasks)
    cells = imagenet_cells(architecture.backbone, weights_file) if cells_weight else None
    terms: list[Term] = []
    if teachers:
        terms.append(Distilled(teachers, setting, share=share))
    if task is not None:
        classifier = imagenet_classifier(architecture.backbone, architecture.classes[task], weights_file)
        classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        terms.append(ImageNetTeacher(classifier, task, setting, share=share))
    if cells is not None:
        cells.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        terms.append(CellTeacher(cells, setting, weight=cells_weight))
    return terms
