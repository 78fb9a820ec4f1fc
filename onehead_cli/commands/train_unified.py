"""onehead train-unified"""

from __future__ import annotations

from onehead_cli.commands import options as o
from onehead_cli.commands.training_result import show_training


@o.configured(
    "data.root",
    "output",
    "student.epochs",
    "student.batch_size",
    "student.lr",
    "data.image_size",
    "distill.lambda",
    "distill.teachers",
    "model.backbone",
    "model.backbone_weights",
    "model.pretrained",
    "model.start_from",
    "data.skip_bad",
    "device",
    "seed",
    "deterministic",
)
def train_unified(call: o.Call, *, resume: o.Resume = False) -> None:
    """Train the one network for all tasks, taught by teachers.

    It has one head; without teachers, --lambda-distill 0 trains it on the labels alone.
    """
    from onehead_cli import engine

    result = engine.train_unified(call.config, resume=resume, reporter=call.console)
    show_training("train-unified", [result], call.console)
