"""Put a training together from its config: data, network, teachers, objective, loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.config.sections import Config
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.format import check_classes
from onehead_cli.data.listings import Listings
from onehead_cli.data.loader import TrainLoader
from onehead_cli.data.split import Loading, Split
from onehead_cli.errors import CheckpointError, ConfigError
from onehead_cli.evaluation.evaluator import Evaluator
from onehead_cli.evaluation.validation import Validation, first_thresholds, validate
from onehead_cli.events import Reporter
from onehead_cli.network.backbone import resolve_skip
from onehead_cli.network.onehead import OneHead, build_pretrained
from onehead_cli.network.runner import TorchRunner
from onehead_cli.runtime.compute import resolve_device, resolve_precision
from onehead_cli.runtime.launch import rank, world_size
from onehead_cli.runtime.memory import keep_freed_memory
from onehead_cli.runtime.processes import broadcast_, check_same
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import Setting, all_tasks, get_task
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.objective import Objective
from onehead_cli.training.start import give_first_weights
from onehead_cli.training.synchronised_norm import synchronise_new_layers
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights
from onehead_cli.training.terms import Supervised, build_terms
from onehead_cli.wording import how_many


def architecture_for(config: Config, tasks: tuple[str, ...], listings: Listings) -> Architecture:
    """The network for `tasks`, with the classes of the training split.

    Raises:
        DataError: a dataset is not there.
        ConfigError: the backbone cannot be used, or has not the map that `model.skip` asks for.
    """
    train, of_tasks = config.data.train_split, dict[str, Any]()
    for task in all_tasks(config.data.tasks):
        there = task.name in config.data.tasks
        of_tasks |= task.of_config(config, partial(listings.get, task.name, train) if there else None)
    return Architecture(
        backbone=config.model.backbone,
        classes={task: listings.classes(task, train) for task in config.data.tasks},
        tasks=tasks,
        skip=resolve_skip(config.model.backbone, config.model.skip),
        of_tasks=of_tasks,
    )


def reading_for(config: Config) -> dict[str, Any]:
    """How a network that is trained with this config is read; see `Checkpoint.reading`."""
    return {k: v for task in all_tasks(config.data.tasks) for k, v in task.first_reading(config).items()}


def build_loop(
    architecture: Architecture,
    config: Config,
    *,
    teachers: Mapping[str, Checkpoint],
    resumed: bool = False,
    listings: Listings,
    reporter: Reporter,
) -> TrainingLoop:
    """A loop at its first step: a student's for several tasks, a teacher's for one.

    Args:
        teachers: distilled from where `distill.lambda` is above 0, and the baseline of the choice on val.
        resumed: the weights will come from a checkpoint of the same run; none are loaded from elsewhere.
        listings: of the run.

    Raises:
        OneheadError: data, weights or teachers cannot be used.
    """
    device = resolve_device(config.device)
    if config.model.sync_batch_norm and device.type != "cuda":
        raise ConfigError(
            f"model.sync_batch_norm runs on NVIDIA GPUs only, not on {device.type}; leave it out: the new layers' "
            "batch-norm is always synchronised, and a frozen backbone has nothing to synchronise"
        )
    precision = resolve_precision(config.model.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    is_student = len(architecture.tasks) > 1
    schedule = config.student if is_student else config.teacher.of(architecture.tasks[0])
    if config.model.skip == "auto" and not architecture.skip:
        reporter.note(f"model.skip=auto: {architecture.backbone} has no map of stride 16 that fits; going without")
    torch.manual_seed(config.seed)
    pretrained = config.model.pretrained and not resumed and not config.model.start_from
    settings = config.model.model_copy(update={"pretrained": pretrained})
    model = build_pretrained(architecture, settings).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world_size() > 1:
        _share_out(model, config, schedule.batch_size * len(architecture.tasks), reporter)
    setting = Setting(architecture, config, schedule)
    open_split = _SplitOpener(setting, listings, model.preprocess.interpolation, CacheBudget(config.data.cache_mb))
    train = {task: open_split.train(task, device, reporter) for task in architecture.tasks}
    _borrow(train, setting, lambda task: open_split.train(task, device, None))
    val = {task: open_split(task, config.data.val_split, CPU, reporter) for task in architecture.tasks}
    merges, distils = is_student and config.student.from_teachers, config.distill.lambda_ > 0
    frozen = _frozen(teachers, architecture, device) if merges or distils else {}
    loader = TrainLoader(
        train,
        batch_size=schedule.batch_size,
        seed=config.seed,
        data=config.data,
        device=device,
        fill=model.mean.cpu(),
        buffer_size=schedule.buffer_size,
        epochs=schedule.epochs,
        small_until=schedule.small_until,
        rank=rank(),
        world_size=world_size(),
    )
    if not resumed:
        give_first_weights(
            model, architecture, config, teachers=frozen if merges else {}, loader=loader, reporter=reporter
        )
    objective = Objective(
        model,
        Supervised(_task_weights(architecture.tasks, config).to(device), setting),
        build_terms(setting, frozen if distils else {}, device),
        LossNormaliser(config.student.normalise_losses, floor=config.student.normaliser_floor),
        schedule=schedule,
        precision=precision,
    )
    objective.terms.to(device)
    broadcast_(objective.terms.state_dict().values())  # what they learn begins the same in every process
    images = [[len(split) for split in splits.values()] for splits in (train, val)]
    check_same([architecture.classes, images, str(precision)], "classes, numbers of images or precision")
    evaluator = Evaluator(config.evaluation)

    def measure(averaged: OneHead) -> Validation:
        return validate(
            TorchRunner(averaged, device, precision),
            val,
            evaluator,
            architecture=architecture,
            reading=reading_for(config),
            thresholds=first_thresholds(config),
            teacher_scores=scores_of(teachers),
        )

    return TrainingLoop(
        objective,
        loader,
        batch_norm=config.model.batch_norm,
        validate=measure,
        weights_floor=config.student.weights_floor if is_student else 0.0,
        log_conflict=config.student.log_conflict if is_student else 0,
    )


@dataclass(frozen=True)
class _SplitOpener:
    """Opens the splits of a run, all within one budget of memory."""

    setting: Setting
    listings: Listings
    interpolation: str
    budget: CacheBudget

    def __call__(
        self, task: str, split: str, device: torch.device, reporter: Reporter | None, *, training: bool = False
    ) -> Split:
        """Raises: DataError: it cannot be read, or has other classes than the network."""
        found = get_task(task).load(
            self.listings.get(task, split),
            self.setting.config,
            Loading(self.interpolation, self.budget, device, training),
        )
        if reporter is None:
            return found
        check_classes(task, found.classes, self.setting.architecture.classes[task], f"split {split}")
        for warning in found.warnings:
            reporter.warn(warning)
        return found

    def train(self, task: str, device: torch.device, reporter: Reporter | None) -> Split:
        return self(task, self.setting.config.data.train_split, device, reporter, training=True)


def _borrow(train: dict[str, Split], setting: Setting, load: Callable[[str], Split]) -> None:
    """Let other tasks' training data carry labels for a task that learns from them too; those that the network does
    not do itself are loaded for it."""
    for task in map(get_task, setting.architecture.tasks):
        if lenders := task.borrows(setting.schedule):
            task.check_borrowing(setting)
            for lender in lenders:
                if lender not in train:
                    train[lender] = load(lender)
                task.borrow(train[lender], setting)


def _share_out(model: OneHead, config: Config, images: int, reporter: Reporter) -> None:
    """Make a network ready to learn in several processes, `images` in a mini-batch: equal weights, shared norms."""
    check_same(config.model_dump(mode="json"), "settings")
    broadcast_(model.state_dict().values())
    synchronise_new_layers(model)
    if config.model.batch_norm == "frozen":
        return
    if images < world_size():
        raise ConfigError(
            f"model.batch_norm={config.model.batch_norm}: {world_size()} processes share "
            f"{how_many(images, 'image')} per mini-batch, and one without images has no statistics; start fewer, "
            "or give a larger --batch-size"
        )
    if config.model.sync_batch_norm:
        model.backbone = convert_sync_batchnorm(model.backbone)  # type: ignore[no-untyped-call]
    else:
        reporter.warn(
            f"model.batch_norm={config.model.batch_norm}: each process normalises the backbone by its own images "
            "alone, so the result depends on the number of processes"
        )


def scores_of(teachers: Mapping[str, Checkpoint]) -> dict[str, float]:
    """Main score of each teacher on val, by task; without those of which val could not measure any."""
    found = {task: teacher.scores[get_task(task).metric.key] for task, teacher in teachers.items()}
    return {task: float(score) for task, score in found.items() if score is not None}


def _task_weights(tasks: tuple[str, ...], config: Config) -> TaskWeights:
    if len(tasks) == 1:
        return TaskWeights(tasks, "equal")
    fixed = config.student.fixed_weights
    return TaskWeights(tasks, config.student.task_weights, [getattr(fixed, task) for task in tasks])


def _frozen(teachers: Mapping[str, Checkpoint], architecture: Architecture, device: torch.device) -> dict[str, OneHead]:
    frozen = {}
    for task, checkpoint in teachers.items():
        wanted, found = list(architecture.classes[task]), list(checkpoint.architecture.classes[task])
        if found != wanted:
            raise CheckpointError(
                f"teacher {checkpoint.name} knows the classes {', '.join(found)}; the data has {', '.join(wanted)}"
            )
        if difference := get_task(task).difference(architecture, checkpoint.architecture):
            raise CheckpointError(f"teacher {checkpoint.name} cannot teach this student: it has {difference}")
        model = checkpoint.model().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        frozen[task] = model.requires_grad_(False)
    return frozen
