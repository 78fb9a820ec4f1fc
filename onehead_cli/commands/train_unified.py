"""onehead train-unified"""

from __future__ import annotations

from onehead_cli.commands import options as o
from onehead_cli.commands.seeds import Seeds, configs_of
from onehead_cli.commands.training_result import show_training, train_seeds


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
def train_unified(call: o.Call, *, resume: o.Resume = False, seeds: Seeds = None) -> None:
    """Train the one network for all tasks, taught by teachers.

    It has one head; --lambda-distill 0 trains it on the labels alone.
    """
    from onehead_cli import engine

    if seeds is None:
        result = engine.train_unified(call.config, resume=resume, reporter=call.console)
        show_training("train-unified", [result], call.console)
        return
    from onehead_cli.checkpoint.networks import STUDENT

    train_seeds(
        "train-unified",
        configs_of(seeds, call),
        lambda config, resume: [engine.train_unified(config, resume=resume, reporter=call.console)],
        names=[STUDENT],
        resume=resume,
        console=call.console,
    )
