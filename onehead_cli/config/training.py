"""The sections of the config that say how networks learn: teachers, student, and what one tells the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, create_model

from onehead_cli.config.fields import Section, field
from onehead_cli.registry import TASKS


class ScheduleConfig(Section):
    """How long and how fast a network learns."""

    epochs: int = field(15, "Passes over the training images.", unit="epochs", ge=1)
    batch_size: int = field(8, "Images of a task in one mini-batch.", unit="images", ge=1, le=1024)
    buffer_size: int = field(1, "Mini-batches per optimizer step (gradient accumulation).", unit="mini-batches", ge=1)
    lr: float = field(1e-3, "Peak learning rate of the new layers.", unit="per step", gt=0)
    backbone_lr_factor: float = field(0.1, "The backbone's share of the learning rate.", unit="factor", ge=0)
    weight_decay: float = field(0.02, "Decoupled weight decay; not on norms and biases.", unit="1", ge=0)
    warmup: float = field(0.1, "Share of the steps in which the learning rate warms up.", unit="fraction", ge=0, lt=1)
    clip_norm: float = field(5.0, "Gradient norm above which gradients are clipped.", unit="norm", gt=0)
    ema_decay: float = field(
        0.998, "Decay of the moving average of the weights, which is evaluated and kept.", ge=0, lt=1
    )
    label_smoothing: float = field(
        0.1, "Share of a class label that is spread over all classes.", unit="fraction", ge=0, lt=1
    )
    eval_every: int = field(1, "Epochs between two evaluations on val.", unit="epochs", ge=1)
    keep: Literal["best", "last"] = field("best", "Which averaged weights are kept: the best on val, or the last.")
    best_mean: int = field(1, "Evaluations that are averaged to choose the best weights.", unit="evaluations", ge=1)
    small_until: float = field(
        0.0, "Share of the steps, at the start, that use only the first of data.sizes.", unit="fraction", ge=0, le=1
    )
    save_every: int = field(0, "Steps between two saves within an epoch; 0 saves after each epoch only.", ge=0)
    patience: int = field(0, "Stop early after this many evaluations without a new best; 0: never.", ge=0)
    boxes_from_masks: bool = field(
        False, "Train detection on the segmentation images too, with boxes derived from their masks."
    )
    imagenet_teacher: bool = field(
        False,
        "Distil the backbone's own ImageNet classifier into classification too, with distill.lambda and "
        "distill.temperature; class folders must be named by WordNet ids or ImageNet's class names.",
    )


class TaskSchedule(Section):
    """What is different for the teacher of one task; what is unset is as for all."""

    epochs: int | None = field(None, "teacher.epochs for this task alone.", unit="epochs", ge=1)
    lr: float | None = field(None, "teacher.lr for this task alone.", unit="per step", gt=0)
    backbone_lr_factor: float | None = field(
        None, "teacher.backbone_lr_factor for this task alone.", unit="factor", ge=0
    )


class _Teachers(ScheduleConfig):
    def of(self, task: str) -> Self:
        """The schedule of one task's teacher."""
        own: TaskSchedule = getattr(self, task)
        return self.model_copy(update=own.model_dump(exclude_none=True))


if TYPE_CHECKING:

    class TeacherConfig(_Teachers):
        """The single-task networks: baselines of the drop check and teachers of the student."""

    class FixedWeights(Section):
        """The task weights of `student.task_weights: fixed`, a field per task; scaled to add up to 1."""
else:
    TeacherConfig = create_model(
        "TeacherConfig",
        __base__=_Teachers,
        __doc__="The single-task networks: baselines of the drop check and teachers of the student.",
        **{name: (TaskSchedule, TaskSchedule()) for name in TASKS},
    )
    FixedWeights = create_model(
        "FixedWeights",
        __base__=Section,
        **{name: (float, field(1.0, f"Weight of the loss of {name}.", ge=0)) for name in TASKS},
    )


class StudentConfig(ScheduleConfig):
    """The one network for all three tasks."""

    epochs: int = field(20, "Passes over the training images.", unit="epochs", ge=1)
    batch_size: int = field(4, "Images of each task in one mini-batch.", unit="images", ge=1, le=1024)
    buffer_size: int = field(2, "Mini-batches per optimizer step (gradient accumulation).", unit="mini-batches", ge=1)
    from_teachers: bool = field(
        False, "Start from the mean of the teachers' weights and each task's own layers, not from ImageNet weights."
    )
    task_weights: Literal["learned", "equal", "fixed"] = field("learned", "How the three losses are weighted.")
    fixed_weights: FixedWeights = FixedWeights()
    normalise_losses: bool = field(
        True, "Divide each loss by its own running mean before it is weighted; in training teachers too."
    )
    normaliser_floor: float = field(
        0.05, "A loss is never divided by less than this share of its mean over the first epoch.", unit="fraction", ge=0
    )
    renew_norms: bool = field(
        False,
        "After from_teachers, measure the new layers' batch-norm statistics again on mixed, unaugmented mini-batches.",
    )
    weights_lr: float = field(1e-3, "Learning rate of the learned task weights.", unit="per step", gt=0)
    weights_decay: float = field(1.0, "Decoupled decay that pulls the learned task weights together.", ge=0)
    weights_floor: float = field(0.05, "Warn about a task weight below this.", ge=0, lt=1)
    log_conflict: int = field(
        0,
        "Optimizer steps between two measurements of the conflict between tasks, for the log: the cosine of their "
        "gradients on the layers that they share; 0: none.",
        unit="steps",
        ge=0,
    )


class DistillConfig(Section):
    """What the student learns from the teachers."""

    lambda_: float = Field(
        2.0,
        alias="lambda",
        ge=0,
        description="Weight of the distillation loss; 0: none.",
        json_schema_extra={"unit": "-"},
    )
    teachers: Path | None = field(
        None, "Folder of the teachers' checkpoints; unset: the output folder.", unit="path", metavar="DIR"
    )
    temperature: float = field(2.0, "Temperature that softens the class and pixel logits.", gt=0)
    box_confidence: float = field(
        0.0, "Boxes of the detection teacher with a lower confidence are not distilled.", ge=0, lt=1
    )
    images: Literal["own", "all"] = field(
        "own", "Images that a teacher is distilled on: its own task's, or those of all tasks."
    )
    imagenet_images: Literal["own", "all"] = field(
        "own", "Images that student.imagenet_teacher is asked about: those of classification, or those of all tasks."
    )
