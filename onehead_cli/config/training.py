"""The sections of the config that say how networks learn: teachers, student, and what one tells the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, create_model

from onehead_cli.config.fields import Section, field
from onehead_cli.registry import TASKS


class ScheduleConfig(Section):
    """How long and how fast a network learns."""

    epochs: int = field(15, "Passes over the training images.", unit="epochs", ge=1)
    batch_size: int = field(8, "Images of a task in one mini-batch.", unit="images", ge=1, le=1024)
    buffer_size: int = field(1, "Mini-batches gathered before one optimizer step.", unit="mini-batches", ge=1)
    lr: float = field(1e-3, "Peak learning rate of the new layers.", unit="per step", gt=0)
    backbone_lr_factor: float = field(0.1, "The backbone's share of the learning rate.", unit="factor", ge=0)
    weight_decay: float = field(0.02, "Decoupled weight decay; not on norms and biases.", unit="1", ge=0)
    warmup: float = field(0.1, "Share of the steps in which the rate rises.", unit="fraction", ge=0, lt=1)
    clip_norm: float = field(5.0, "Largest norm of a step's gradient.", unit="norm", gt=0)
    ema_decay: float = field(0.998, "Decay of the averaged weights that are evaluated and kept.", ge=0, lt=1)
    label_smoothing: float = field(0.1, "Share of a class label spread over the classes.", unit="fraction", ge=0, lt=1)
    eval_every: int = field(1, "Epochs between two evaluations on val.", unit="epochs", ge=1)
    keep: Literal["best", "last"] = field(
        "best", "The weights that are kept: the best on val, or the last; averaged ones both."
    )
    best_mean: int = field(1, "Evaluations whose mean says which are the best.", unit="evaluations", ge=1)
    small_until: float = field(
        0.0, "Share of the steps that see the first of data.sizes alone.", unit="fraction", ge=0, le=1
    )
    save_every: int = field(0, "Steps between two saves within an epoch; 0 saves after each epoch only.", ge=0)
    patience: int = field(0, "Evaluations without a new best that end the training; 0 never does.", ge=0)
    boxes_from_masks: bool = field(
        False, "Detection learns from the segmentation images too, by boxes read out of their masks."
    )
    imagenet_teacher: bool = field(
        False,
        "Classification learns from the backbone's own ImageNet classifier too, by distill.lambda and "
        "distill.temperature; class folders are WordNet ids or ImageNet's names.",
    )


class TeacherConfig(ScheduleConfig):
    """The single-task networks: baselines of the drop check and teachers of the student."""


if TYPE_CHECKING:

    class FixedWeights(Section):
        """The task weights of `student.task_weights: fixed`, a field per task; scaled to add up to 1."""
else:
    FixedWeights = create_model(
        "FixedWeights",
        __base__=Section,
        **{name: (float, field(1.0, f"Weight of the loss of {name}.", ge=0)) for name in TASKS},
    )


class StudentConfig(ScheduleConfig):
    """The one network for all three tasks."""

    epochs: int = field(20, "Passes over the training images.", unit="epochs", ge=1)
    batch_size: int = field(4, "Images of each task in one mini-batch.", unit="images", ge=1, le=1024)
    buffer_size: int = field(2, "Mini-batches gathered before one optimizer step.", unit="mini-batches", ge=1)
    from_teachers: bool = field(
        False, "Start from the mean of the teachers' weights and each task's own layers, not from ImageNet weights."
    )
    task_weights: Literal["learned", "equal", "fixed"] = field("learned", "How the three losses are weighed.")
    fixed_weights: FixedWeights = FixedWeights()
    normalise_losses: bool = field(
        True, "Divide each loss by its own running mean before it is weighed; a teacher's too."
    )
    normaliser_floor: float = field(
        0.05, "A loss is never divided by less than this share of its mean over the first epoch.", unit="fraction", ge=0
    )
    renew_norms: bool = field(
        False, "After from_teachers, measure the new layers' norms anew on clean mixed mini-batches."
    )
    weights_lr: float = field(1e-3, "Learning rate of the learned task weights.", unit="per step", gt=0)
    weights_decay: float = field(1.0, "Decoupled decay that pulls the learned task weights together.", ge=0)
    weights_floor: float = field(0.05, "A task weight below this is warned about.", ge=0, lt=1)
    log_conflict: int = field(
        0,
        "Optimizer steps from one measurement of the conflict between tasks to the next: the cosine of their gradients "
        "on the layers that they share, for the log; 0: none.",
        unit="steps",
        ge=0,
    )


class DistillConfig(Section):
    """What the student learns from the teachers."""

    lambda_: float = Field(
        2.0,
        alias="lambda",
        ge=0,
        description="Weight of the distillation loss; 0 needs no teachers.",
        json_schema_extra={"unit": "-"},
    )
    teachers: Path | None = field(
        None, "Folder of the teachers' checkpoints; unset: the output folder.", unit="path", metavar="DIR"
    )
    temperature: float = field(2.0, "Softening of the class and pixel scores.", gt=0)
    box_confidence: float = field(
        0.0, "Boxes that the detection teacher is less sure of than this are not distilled.", ge=0, lt=1
    )
    images: Literal["own", "all"] = field("own", "Images a teacher labels: its own task's, or those of all tasks.")
