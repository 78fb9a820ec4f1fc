"""What `test_distributed.py` runs in one process and in two: the same training and evaluation in Python.

As a script: `agreement.py DATA FOLDER` writes what each process got into FOLDER/{rank}.pth.
"""

from __future__ import annotations

import copy
import sys
from contextlib import ExitStack
from math import nan
from pathlib import Path
from unittest import mock

import torch

from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.listings import Listings
from onehead_cli.data.split import Loading
from onehead_cli.errors import NonFiniteLossError
from onehead_cli.evaluation.evaluator import Evaluator
from onehead_cli.network.onehead import build_model
from onehead_cli.network.runner import TorchRunner
from onehead_cli.registry import TASKS
from onehead_cli.runtime.launch import rank, world_size
from onehead_cli.runtime.processes import session
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.segmentation import task as segmentation
from onehead_cli.tasks.task import Reading, get_task
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.setup import architecture_for, build_loop
from onehead_cli.training.terms import build_terms

BACKBONE = "mobilenetv3_small_050"


def everything(root: Path) -> dict[str, object]:
    config = Config.model_validate(
        {
            "device": "cpu",
            "data": {"root": root, "image_size": 64},
            "model": {"backbone": BACKBONE, "pretrained": False, "precision": "fp32"},
            # 3 over 2 processes is uneven; a teacher's 1 leaves a process with none.
            "student": {"batch_size": 3, "buffer_size": 1, "epochs": 100, "log_conflict": 20},
            "teacher": {"batch_size": 1, "epochs": 100},
            "distill": {"images": "all"},
            "evaluation": {"batch_size": 4, "score_min": 0.001},
        }
    )
    with session(config):
        return {
            "gradients": first_gradients(training(config, TASKS)),
            "student": weights_after(training(config, TASKS, distils=False), steps=20),
            "teacher": weights_after(training(config, ("det",)), steps=3),
            "evaluation": evaluation(config),
            "error": error_of_a_loss(training(config, TASKS, distils=False)),
        }


def training(config: Config, tasks: tuple[str, ...], *, distils: bool = True) -> TrainingLoop:
    listings = Listings(config)
    architecture = architecture_for(config, tasks, listings)
    loop = build_loop(architecture, config, teachers={}, listings=listings, reporter=Console(quiet=True))
    if distils and len(tasks) > 1:
        teachers = {
            task: build_model(Architecture(BACKBONE, architecture.classes, (task,), of_tasks={"boxes_per_cell": 2}))
            .eval()
            .requires_grad_(False)
            for task in tasks
        }
        terms = build_terms(loop.objective.supervised.setting, teachers, loop.loader.device)
        loop.objective.terms.update({term.name: term for term in terms})
    return loop


def first_gradients(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    next(loop.run())
    return {
        name: parameter.grad
        for module in (loop.objective.model, loop.objective.task_weights)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def weights_after(loop: TrainingLoop, *, steps: int) -> dict[str, object]:
    """Weights, statistics and log after some steps, all in float64."""
    batches = [loop.loader.minibatch(i) for i in range(steps * loop.schedule.buffer_size)]
    for batch in batches:
        for part in batch.values():
            part.images = part.images.double()
    for module in (loop.objective.model, loop.objective.task_weights, loop.average.model):
        module.double()
    loop.steps_per_epoch = steps + 1  # no evaluation
    with ExitStack() as patches:
        # Most losses are computed in float32 on purpose; here they follow the maps' type.
        patches.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        patches.enter_context(mock.patch.object(loop.loader, "minibatch", batches.__getitem__))
        run = loop.run()
        infos = [next(run) for _ in range(steps)]
    state = loop.state_dict()
    return {
        "model": state["model"],
        "averaged": loop.average.model.state_dict(),
        "weights": state["task_weights"],
        "means": state["normaliser"]["mean"],
        "log": [[info.loss, info.grad_norm, *info.losses.values(), *info.weights.values()] for info in infos],
        "gradient_cosine": infos[-1].gradient_cosine,
    }


def error_of_a_loss(loop: TrainingLoop) -> str:
    """What is raised when the segmentation loss is NaN in the last process alone."""
    before = copy.deepcopy(loop.objective.model.state_dict())
    last = rank() == world_size() - 1

    def broken(maps: torch.Tensor, masks: torch.Tensor, **settings: float) -> torch.Tensor:
        return maps.mean((1, 2, 3)) * (nan if last else 1)

    with mock.patch.object(segmentation, "segmentation_loss", broken):
        try:
            next(loop.run())
        except NonFiniteLossError as error:
            after = loop.objective.model.state_dict()
            assert all(torch.equal(before[name], p) for name, p in after.items() if name.endswith("weight"))
            return str(error)
    return ""


def evaluation(config: Config) -> dict[str, object]:
    """Scores of a network of random weights, and what they were made of."""
    torch.manual_seed(1)
    listings = Listings(config)
    architecture = architecture_for(config, TASKS, listings)
    model = build_model(architecture).eval()
    evaluator, runner = Evaluator(config.evaluation), TorchRunner(model, torch.device("cpu"), torch.float32)
    found: dict[str, object] = {}
    for task in TASKS:
        each = get_task(task)
        splits = [
            each.load(listings.get(task, name), config, Loading("bicubic", CacheBudget(10))) for name in ("val", "test")
        ]
        thresholds = {"cells": 0.3, "boxes": []}
        reader = each.reader(Reading(architecture, each.first_reading(config), thresholds, config.evaluation))
        result = evaluator.measure(runner, splits, reader)
        detail = {"cls": "logits", "seg": "matrices", "det": "precision"}[task]
        found[task] = {"scores": result.scores(), "detail": torch.from_numpy(getattr(result, detail))}
    return found


if __name__ == "__main__":
    torch.save(everything(Path(sys.argv[1])), Path(sys.argv[2]) / f"{rank()}.pth")
