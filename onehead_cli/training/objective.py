"""What is minimised: task losses, their weights, and what the teachers say; one place, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onehead_cli.config.sections import Config, ScheduleConfig
from onehead_cli.errors import NonFiniteLossError
from onehead_cli.network.backbone import Backbone
from onehead_cli.network.imagenet import ImageNetCells
from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.compute import autocast
from onehead_cli.runtime.processes import gather, sum_parts
from onehead_cli.tasks.classification import classification_loss, distil_classes
from onehead_cli.tasks.detection.loss import Teaching, detection_loss, distil_boxes
from onehead_cli.tasks.detection.yolov1 import yolov1_loss
from onehead_cli.tasks.segmentation.loss import distil_masks, segmentation_loss
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights
from onehead_cli.types import Batch, DetectionTarget, Task, TaskBatch, TaskOutputs


@dataclass
class Objective:
    """The loss of one mini-batch, for a teacher (one task) as for the student (all of them).

    total = sum_i w_i L_i / m_i + lambda / (number of teachers) * sum_t KD_t / m'_t + c KD_cells / m'_cells

    m are the running means of `LossNormaliser`. A task without pictures in the batch adds exactly 0. The backbone's
    ImageNet classifier counts as one more teacher; asked in each cell it is none of them, and its weight is
    c = `segmentation.imagenet_cells`. Of several processes, each computes its pictures' share of the total: the sum
    over its pictures divided by the number of all.

    model: the network that learns.
    teachers: frozen networks in eval mode, one a task; empty without distillation.
    imagenet: the backbone's own classifier, [B, 3, S, S] -> [B, classes], or None.
    shared: mask label -> detection class, of the classes that both datasets know.
    precision: of the forward pass; losses are float32.
    cells: the backbone's own classifier in each cell of all pictures, or None.
    auxiliary: the 1x1 layer that answers it from the network's features; it learns, and is of the training alone.
    """

    model: OneHead
    task_weights: TaskWeights
    normaliser: LossNormaliser
    teachers: Mapping[Task, OneHead]
    imagenet: nn.Module | None
    shared: Mapping[int, int]
    config: Config
    schedule: ScheduleConfig
    num_detection_classes: int
    precision: torch.dtype
    cells: ImageNetCells | None = None
    auxiliary: nn.Module | None = None
    _split: dict[str, bool] = field(default_factory=dict, init=False)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's share of the total to run backward on, and the detached mean of each part by name ("cls",
        "kd_cls", ...) over the pictures of all processes.

        Raises:
            NonFiniteLossError: a mean is NaN or infinite.
        """
        images = torch.cat([part.images for part in batch.values()])
        with autocast(images.device, self.precision):
            trunk = self.model.trunk(images)
            features = self.model.features(trunk)
            outputs = self.model.maps(features)
        parts = self._task_losses(outputs, batch)
        parts |= self._distillation(outputs, batch, images, trunk)
        parts |= self._cell_term(features, batch, images, trunk)
        means = sum_parts(parts)
        for name, mean in means.items():
            _check_finite(name, mean, batch)

        weights = self.task_weights()
        total = images.new_zeros(())
        for index, task in enumerate(self.task_weights.tasks):
            if task.value in parts:
                total = total + weights[index] * parts[task.value] / self.normaliser.scale(
                    task.value, means[task.value]
                )
        for name in [name for name in parts if name.startswith("kd_")]:
            total = total + self._share(name) * parts[name] / self.normaliser.scale(name, means[name])
        return total, means

    def _share(self, name: str) -> float:
        """The weight of a distillation term."""
        if name == "kd_cells":
            return self.config.segmentation.imagenet_cells
        return self.config.distill.lambda_ / (len(self.teachers) + (self.imagenet is not None))

    def _task_losses(self, outputs: TaskOutputs, batch: Batch) -> dict[str, Tensor]:
        losses, rows = {}, _rows(batch)
        for task, task_map in outputs.items():
            total, pictures = task_map.new_zeros(()), 0.0
            for other, part in batch.items():
                mine, weight = task_map[rows[other]], 1.0
                if other is task:
                    loss = self._task_loss(task, mine, part) if part.names else mine
                elif task is Task.DET and part.mask_boxes is not None:
                    size, labelled = part.images.shape[-1], sorted(self.shared.values())
                    loss = self._detection_loss(mine, part.mask_boxes, size, labelled) if part.names else mine
                    weight = self.config.detection.mask_box_weight
                else:
                    continue
                total, pictures = total + weight * loss.sum(), pictures + weight * part.total
            if pictures:
                losses[task.value] = total / pictures
        return losses

    def _task_loss(self, task: Task, task_map: Tensor, part: TaskBatch) -> Tensor:
        """Loss a picture, float [B]."""
        if isinstance(part.target, DetectionTarget):
            return self._detection_loss(task_map, part.target, part.images.shape[-1], None)
        if task is Task.SEG:
            return segmentation_loss(task_map, part.target, lovasz=self.config.segmentation.lovasz)
        return classification_loss(
            task_map,
            part.target,
            cell_threshold=self.config.model.cell_threshold,
            pooling=self.config.model.pooling,
            label_smoothing=self.schedule.label_smoothing,
        )

    def _detection_loss(
        self, task_map: Tensor, target: DetectionTarget, size: int, labelled: Sequence[int] | None
    ) -> Tensor:
        classes, taught = self.num_detection_classes, self.config.detection
        if self.config.model.detection_loss == "yolov1":
            return yolov1_loss(task_map, target, num_classes=classes, image_size=size, size_unit=taught.size_unit)
        return detection_loss(
            task_map,
            target,
            num_classes=classes,
            image_size=size,
            labelled=labelled,
            teaching=Teaching(
                confidence=taught.confidence,
                confidence_cost=taught.confidence_cost,
                ignore_iou=taught.ignore_iou,
                every_box=taught.every_box,
                smallest=taught.smallest,
                size_unit=taught.size_unit,
            ),
        )

    def _distillation(self, outputs: TaskOutputs, batch: Batch, images: Tensor, trunk: Tensor) -> dict[str, Tensor]:
        """A term a teacher, on the same augmented views that the student sees.

        A teacher that begins with the student's frozen layers goes on from what they gave.
        """
        losses, rows = {}, _rows(batch)
        own = self.config.distill.images == "own"
        for task, teacher in self.teachers.items():
            if own and task not in rows:
                continue
            seen = rows[task] if own else slice(0, len(images))
            total = batch[task].total if own else sum(part.total for part in batch.values())
            loss = outputs[task][seen]
            if len(loss):
                shares = self._shares_trunk(task, teacher.backbone)
                maps = self._ask(teacher.read, trunk[seen]) if shares else self._ask(teacher, images[seen])
                said = maps[task].float().clone()
                loss = self._distil(task, loss, said)
            losses[f"kd_{task.value}"] = loss.sum() / total
        if self.imagenet is not None and Task.CLS in rows:
            loss = outputs[Task.CLS][rows[Task.CLS]]
            if len(loss):
                said = self._ask(self.imagenet, images[rows[Task.CLS]]).float().clone()[..., None, None]
                loss = self._distil(Task.CLS, loss, said)
            losses["kd_imagenet"] = loss.sum() / batch[Task.CLS].total
        return losses

    def _cell_term(self, features: Tensor, batch: Batch, images: Tensor, trunk: Tensor) -> dict[str, Tensor]:
        """What the ImageNet classifier says of each cell of stride 32, learned by the auxiliary layer from the mean of
        the four cells there."""
        if self.cells is None or self.auxiliary is None:
            return {}
        with autocast(images.device, self.precision):
            loss: Tensor = self.auxiliary(F.avg_pool2d(features, 2))
        if len(images):
            shares = self._shares_trunk("cells", self.cells.backbone)
            said = self._ask(self.cells.read, trunk) if shares else self._ask(self.cells, images)
            loss = distil_masks(loss, said.float().clone(), temperature=self.config.distill.temperature)
        return {"kd_cells": loss.sum() / sum(part.total for part in batch.values())}

    def _shares_trunk(self, name: str, teacher: Backbone) -> bool:
        """Whether a teacher begins with the student's frozen layers; asked once all weights are loaded."""
        if name not in self._split:
            mine = self.model.backbone
            self._split[name] = teacher.has_trunk_of(mine)
            teacher.freeze(mine.frozen_stages if self._split[name] else 0)
        return self._split[name]

    def _ask(self, teacher: Callable[[Tensor], Any], images: Tensor) -> Any:
        """What a frozen network says. An inference tensor cannot be saved for backward; its clone can."""
        with torch.inference_mode(), autocast(images.device, self.precision):
            return teacher(images)

    def _distil(self, task: Task, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        temperature = self.config.distill.temperature
        if task is Task.CLS:
            return distil_classes(
                student_map,
                teacher_map,
                cell_threshold=self.config.model.cell_threshold,
                temperature=temperature,
                pooling=self.config.model.pooling,
            )
        if task is Task.SEG:
            return distil_masks(student_map, teacher_map, temperature=temperature)
        return distil_boxes(
            student_map,
            teacher_map,
            num_classes=self.num_detection_classes,
            temperature=temperature,
            size_unit=self.config.detection.size_unit,
            sure=self.config.distill.box_confidence,
        )


def _rows(batch: Batch) -> dict[Task, slice]:
    """Where each task's pictures stand in the concatenated batch."""
    rows, start = {}, 0
    for task, part in batch.items():
        rows[task] = slice(start, start + len(part.images))
        start = rows[task].stop
    return rows


def _check_finite(name: str, loss: Tensor, batch: Batch) -> None:
    if torch.isfinite(loss):
        return
    task = Task.CLS.value if name == "kd_imagenet" else name.removeprefix("kd_")
    mine = batch[Task(task)].names if task in batch else [n for part in batch.values() for n in part.names]
    pictures = [picture for names in gather(mine) for picture in names]
    raise NonFiniteLossError(
        f"loss '{name}' is {float(loss)} on the batch {', '.join(pictures)}: stopped before the step; "
        "try a lower --lr, or look at these pictures and their labels"
    )
