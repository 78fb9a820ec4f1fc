"""Put a training together from its config: data, network, teachers, objective, loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from timm.layers.norm_act import convert_sync_batchnorm

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.config.sections import Config, ScheduleConfig
from onehead_cli.data.cache import CPU, CacheBudget
from onehead_cli.data.listing import CocoImages, list_split
from onehead_cli.data.loader import TrainLoader
from onehead_cli.data.split import TaskData
from onehead_cli.errors import CheckpointError, ConfigError
from onehead_cli.evaluation.evaluator import Evaluator
from onehead_cli.evaluation.validation import Validation, validate
from onehead_cli.events import Reporter
from onehead_cli.network.backbone import resolve_skip
from onehead_cli.network.imagenet import ImageNetCells, imagenet_cells, imagenet_classifier
from onehead_cli.network.onehead import UPSAMPLED_CHANNELS, OneHead, build_pretrained
from onehead_cli.runtime.compute import resolve_device, resolve_precision
from onehead_cli.runtime.launch import rank, world_size
from onehead_cli.runtime.memory import keep_freed_memory
from onehead_cli.runtime.processes import broadcast_, check_same
from onehead_cli.tasks.architecture import STRIDE, Architecture
from onehead_cli.tasks.boxes_from_masks import shared_classes
from onehead_cli.tasks.detection.data import box_sizes
from onehead_cli.tasks.detection.priors import kmeans_priors, spread_priors
from onehead_cli.tasks.reading import Reading
from onehead_cli.tasks.segmentation.data import SegmentationData
from onehead_cli.tasks.sources import check_classes, class_names, load_split
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.objective import Objective
from onehead_cli.training.start import give_first_weights
from onehead_cli.training.synchronised_norm import synchronise_new_layers
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights
from onehead_cli.types import MAIN_METRIC, Task
from onehead_cli.wording import how_many


def architecture_for(config: Config, tasks: tuple[Task, ...]) -> Architecture:
    """The network for `tasks`, with the classes of the training split.

    Raises:
        DataError: a dataset is not there.
        ConfigError: the backbone cannot be used, or has not the map that `model.skip` asks for.
    """
    return Architecture(
        backbone=config.model.backbone,
        classes=class_names(config.data, config.data.train_split),
        boxes_per_cell=config.model.boxes_per_cell,
        tasks=tasks,
        skip=resolve_skip(config.model.backbone, config.model.skip),
        priors=_priors(config),
        size_unit=config.detection.size_unit,
    )


def _priors(config: Config) -> tuple[tuple[float, float], ...]:
    """The sizes that boxes start with, in `detection.size_unit`, the same for teachers and student."""
    taught = config.detection
    if Task.DET not in config.data.tasks or (taught.priors, taught.size_unit) == ("spread", "input"):
        return ()
    count = config.model.boxes_per_cell
    if taught.priors == "kmeans":
        listing = list_split(Task.DET, config.data.train_split, config.data)
        assert isinstance(listing, CocoImages)
        priors = kmeans_priors(box_sizes(listing, config.data), count)
    else:
        priors = spread_priors(count)
    cells = config.data.image_size / STRIDE if taught.size_unit == "cells" else 1.0
    return tuple((width * cells, height * cells) for width, height in priors)


def reading_for(config: Config) -> Reading:
    """How a network that is trained with this config is read."""
    return Reading(pooling=config.model.pooling).changed_by(config.evaluation)


def build_loop(
    architecture: Architecture,
    config: Config,
    *,
    teachers: Mapping[Task, Checkpoint],
    resumed: bool = False,
    skip: Collection[Path] = (),
    reporter: Reporter,
) -> TrainingLoop:
    """A loop at its first step: a student's for several tasks, a teacher's for one.

    Args:
        teachers: distilled from where `distill.lambda` is above 0, and the baseline of the choice on val.
        resumed: the weights will come from a checkpoint of the same run; none are loaded from elsewhere.
        skip: pictures that are left out.

    Raises:
        OneheadError: data, weights or teachers cannot be used.
    """
    device = resolve_device(config.device)
    if config.model.sync_batch_norm and device.type != "cuda":
        raise ConfigError(
            f"model.sync_batch_norm runs on GPUs of NVIDIA only, not on {device.type}; leave it out: the new layers' "
            "batch-norm is synchronised anywhere, and a frozen backbone has nothing to synchronise"
        )
    precision = resolve_precision(config.model.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    is_student = len(architecture.tasks) > 1
    schedule = config.student if is_student else config.teacher
    if config.model.skip == "auto" and not architecture.skip:
        reporter.note(f"model.skip=auto: {architecture.backbone} has no map of stride 16 that fits; going without")
    torch.manual_seed(config.seed)
    pretrained = config.model.pretrained and not resumed and not config.model.start_from
    settings = config.model.model_copy(update={"pretrained": pretrained})
    model = build_pretrained(architecture, settings).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world_size() > 1:
        _share_out(model, config, schedule.batch_size * len(architecture.tasks), reporter)
    budget = CacheBudget(config.data.cache_mb)
    train = _load_splits(config, config.data.train_split, architecture, model, budget, skip, device, reporter)
    shared = shared_classes(architecture.classes.get(Task.SEG, ()), architecture.classes.get(Task.DET, ()))
    if schedule.boxes_from_masks and Task.DET in architecture.tasks:
        train |= _mask_boxes(config, train, shared, model, budget, skip, device)
    val = _load_splits(config, config.data.val_split, architecture, model, budget, skip, CPU, reporter)
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
        repeat_factor=config.segmentation.repeat_factor,
        copy_paste=config.segmentation.copy_paste,
    )
    if not resumed:
        give_first_weights(
            model, architecture, config, teachers=frozen if merges else {}, loader=loader, reporter=reporter
        )
    cells = _imagenet_cells(architecture, config, device)
    objective = Objective(
        model=model,
        task_weights=_task_weights(architecture.tasks, config).to(device),
        normaliser=LossNormaliser(config.student.normalise_losses, floor=config.student.normaliser_floor),
        teachers=frozen if distils else {},
        imagenet=_imagenet_teacher(architecture, config, schedule, device),
        shared=shared,
        config=config,
        schedule=schedule,
        num_detection_classes=len(architecture.classes.get(Task.DET, ())),
        precision=precision,
        cells=cells,
        auxiliary=_cell_layer(cells, device),
    )
    pictures = [[len(split) for split in splits.values()] for splits in (train, val)]
    check_same([architecture.classes, pictures, str(precision)], "classes, numbers of pictures or precision")
    evaluator = Evaluator(config.evaluation, reading_for(config), device, precision)
    teacher_scores = {Task(name): score for name, score in scores_of(teachers).items()}

    def measure(averaged: OneHead) -> Validation:
        threshold = config.model.cell_threshold
        return validate(averaged, val, evaluator, cell_threshold=threshold, teacher_scores=teacher_scores)

    return TrainingLoop(
        objective,
        loader,
        batch_norm=config.model.batch_norm,
        validate=measure,
        weights_floor=config.student.weights_floor if is_student else 0.0,
    )


def _share_out(model: OneHead, config: Config, pictures: int, reporter: Reporter) -> None:
    """Make a network ready to learn in several processes, `pictures` in a mini-batch: equal weights, shared norms."""
    check_same(config.model_dump(mode="json"), "settings")
    broadcast_(model.state_dict().values())
    synchronise_new_layers(model)
    if config.model.batch_norm == "frozen":
        return
    if pictures < world_size():
        raise ConfigError(
            f"model.batch_norm={config.model.batch_norm}: {world_size()} processes share "
            f"{how_many(pictures, 'picture')} a mini-batch, and one without pictures has no statistics; start fewer, "
            "or give a larger --batch-size"
        )
    if config.model.sync_batch_norm:
        model.backbone = convert_sync_batchnorm(model.backbone)  # type: ignore[no-untyped-call]
    else:
        reporter.warn(
            f"model.batch_norm={config.model.batch_norm}: each process normalises the backbone by its own pictures "
            "alone, so the result depends on the number of processes"
        )


def scores_of(teachers: Mapping[Task, Checkpoint]) -> dict[str, float]:
    """Main score of each teacher on val, by task."""
    return {task.value: float(teacher.scores[MAIN_METRIC[task]] or 0.0) for task, teacher in teachers.items()}


def _load_splits(
    config: Config,
    split: str,
    architecture: Architecture,
    model: OneHead,
    budget: CacheBudget,
    skip: Collection[Path],
    device: torch.device,
    reporter: Reporter,
) -> dict[Task, TaskData]:
    loaded, interpolation = {}, model.preprocess.interpolation
    for task in architecture.tasks:
        loaded[task] = load_split(
            task, split, config.data, interpolation=interpolation, budget=budget, skip=skip, device=device
        )
        check_classes(loaded[task], architecture.classes, f"split {split}")
        for warning in loaded[task].warnings:
            reporter.warn(warning)
    return loaded


def _mask_boxes(
    config: Config,
    train: Mapping[Task, TaskData],
    shared: dict[int, int],
    model: OneHead,
    budget: CacheBudget,
    skip: Collection[Path],
    device: torch.device,
) -> dict[Task, TaskData]:
    """The segmentation pictures with the boxes that their masks hold; a detection teacher learns from these alone."""
    if not shared:
        raise ConfigError("boxes_from_masks: segmentation and detection are not both there, or share no class by name")
    if config.model.detection_loss == "yolov1":
        raise ConfigError("boxes_from_masks: needs model.detection_loss=quality, which knows regions to ignore")
    masks = train.get(Task.SEG) or load_split(
        Task.SEG,
        config.data.train_split,
        config.data,
        interpolation=model.preprocess.interpolation,
        budget=budget,
        skip=skip,
        device=device,
    )
    assert isinstance(masks, SegmentationData)
    masks.shared = shared
    return {Task.SEG: masks}


def _imagenet_teacher(
    architecture: Architecture, config: Config, schedule: ScheduleConfig, device: torch.device
) -> torch.nn.Module | None:
    if not schedule.imagenet_teacher or Task.CLS not in architecture.tasks:
        return None
    classes = architecture.classes[Task.CLS]
    classifier = imagenet_classifier(architecture.backbone, classes, config.model.backbone_weights)
    classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def _imagenet_cells(architecture: Architecture, config: Config, device: torch.device) -> ImageNetCells | None:
    if not config.segmentation.imagenet_cells or Task.SEG not in architecture.tasks:
        return None
    cells = imagenet_cells(architecture.backbone, config.model.backbone_weights)
    cells.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cells


def _cell_layer(cells: ImageNetCells | None, device: torch.device) -> torch.nn.Module | None:
    """The layer that answers the classifier from the network's features; the same weights in every process."""
    if cells is None:
        return None
    layer = torch.nn.Conv2d(UPSAMPLED_CHANNELS, cells.classifier.out_channels, 1).to(device)
    broadcast_(layer.state_dict().values())
    return layer


def _task_weights(tasks: tuple[Task, ...], config: Config) -> TaskWeights:
    if len(tasks) == 1:
        return TaskWeights(tasks, "equal")
    fixed = config.student.fixed_weights
    return TaskWeights(tasks, config.student.task_weights, [getattr(fixed, task.value) for task in tasks])


def _frozen(
    teachers: Mapping[Task, Checkpoint], architecture: Architecture, device: torch.device
) -> dict[Task, OneHead]:
    frozen = {}
    for task, checkpoint in teachers.items():
        wanted, found = list(architecture.classes[task]), list(checkpoint.architecture.classes[task])
        if found != wanted:
            raise CheckpointError(
                f"teacher {checkpoint.name} knows the classes {', '.join(found)}; the data has {', '.join(wanted)}"
            )
        if checkpoint.architecture.channels[task] != architecture.channels[task]:
            raise CheckpointError(f"teacher {checkpoint.name} has another number of boxes a cell than the student")
        if task is Task.DET and checkpoint.architecture.size_unit != architecture.size_unit:
            raise CheckpointError(
                f"teacher {checkpoint.name} counts the sizes of boxes in {checkpoint.architecture.size_unit}, the "
                f"student in {architecture.size_unit}; give both the same detection.size_unit"
            )
        model = checkpoint.model().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        frozen[task] = model.requires_grad_(False)
    return frozen
