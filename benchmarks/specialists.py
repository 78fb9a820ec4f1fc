"""Train torchvision's specialists on our backbone, weights, data, augmentation and schedule, for comparison.

    python benchmarks/specialists.py --task seg --config configs/lite-quick.yaml --data data --seed 0

cls: a linear classifier on the pooled features of the whole backbone. seg: LR-ASPP on strides 8 and 16 (the last stage
dilated). det: SSDLite on strides 16 and 32 and four further maps. Each is trained by the same loop as our teachers
(`teacher.*` of the config): same steps, rates, weight average and frozen batch-norm of the backbone; but all layers
learn, whatever `model.frozen_stages` says. val chooses the epoch. The result,
{results}/specialist-{task}-seed{seed}.json, is not computed again where it is there with the same settings and what
`--report` asks for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import data_hashes, finished, learned_from, machine, measured_on, report_splits, settings_of, write_document
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block
from torchvision.models.segmentation.lraspp import LRASPPHead

from onehead_cli.checkpoint import Thresholds
from onehead_cli.config import Config, load_config
from onehead_cli.console import Console
from onehead_cli.datasets.base import TaskData
from onehead_cli.datasets.classification import ClassificationData
from onehead_cli.datasets.detection import DetectionData, pooled_ground_truth
from onehead_cli.datasets.loaders import TrainLoader
from onehead_cli.datasets.pictures import CacheBudget
from onehead_cli.datasets.segmentation import SegmentationData
from onehead_cli.datasets.sources import load_split
from onehead_cli.datasets.transforms import to_float
from onehead_cli.decode import Detections, read_mask
from onehead_cli.device import autocast, keep_freed_memory, resolve_device, resolve_precision
from onehead_cli.errors import OneheadError
from onehead_cli.evaluation.classification import ClassificationResult
from onehead_cli.evaluation.detection import DetectionResult
from onehead_cli.evaluation.evaluate import TaskResult
from onehead_cli.evaluation.segmentation import SegmentationResult, confusion_matrix
from onehead_cli.evaluation.validation import Validation
from onehead_cli.losses.segmentation import segmentation_loss
from onehead_cli.losses.task_weights import LossNormaliser, TaskWeights
from onehead_cli.model.backbone import Preprocess, create_backbone
from onehead_cli.model.depthwise import replace_depthwise
from onehead_cli.model.weights import load_pretrained
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.types import MAIN_METRIC, Batch, DetectionTarget, EpochInfo, Task


class Specialist(nn.Module):
    """A backbone and a head; pictures come in 0..1 and are normalised here, as in our networks."""

    def __init__(self, backbone: nn.Module, head: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1))

    def features(self, images: Tensor) -> Any:
        return self.backbone((images - self.mean) / self.std)


class LinearClassifier(nn.Module):
    """float [B, C, h, w] -> logits, float [B, classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class GivenFeatures(nn.Module):
    """Stands where torchvision's SSD expects its backbone: gives the maps that were computed outside."""

    maps: OrderedDict[str, Tensor]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.maps


class SsdLite(SSD):
    """torchvision's SSD head and matching over features that are computed outside, for boxes in input pixels."""

    def __init__(self, channels: list[int], size: int, classes: int) -> None:
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        deeper = [512, 256, 256, 128]
        extras = nn.ModuleList(
            _extra_block(a, b, norm) for a, b in zip([channels[-1], *deeper[:-1]], deeper, strict=True)
        )
        widths = [*channels, *deeper]
        anchors = DefaultBoxGenerator([[2, 3]] * len(widths), min_ratio=0.2, max_ratio=0.95)
        head = SSDLiteHead(widths, anchors.num_anchors_per_location(), classes + 1, norm)
        super().__init__(
            GivenFeatures(), anchors, (size, size), classes + 1, head=head, score_thresh=0.01, nms_thresh=0.55
        )
        self.extras = extras
        self.transform.image_mean, self.transform.image_std = [0.0] * 3, [1.0] * 3

    def with_features(self, features: list[Tensor]) -> SsdLite:
        maps = [feature.float() for feature in features]
        for block in self.extras:
            maps.append(block(maps[-1]))
        self.backbone.maps = OrderedDict((str(i), m) for i, m in enumerate(maps))
        return self


def build(task: Task, config: Config, classes: int) -> Specialist:
    """A specialist with ImageNet weights in its backbone, unless `model.pretrained` is false."""
    name = config.model.backbone
    preprocess = create_backbone(name).preprocess
    if task is Task.CLS:
        backbone = timm.create_model(name, num_classes=0, global_pool="")
        head: nn.Module = LinearClassifier(backbone.head_hidden_size, classes)
    elif task is Task.SEG:
        backbone = timm.create_model(name, features_only=True, out_indices=(2, 4), output_stride=16)
        low, high = backbone.feature_info.channels()
        head = LRASPPHead(low, high, classes, 128)
    else:
        backbone = timm.create_model(name, features_only=True, out_indices=(3, 4))
        head = SsdLite(backbone.feature_info.channels(), config.data.image_size, classes)
    if config.model.pretrained:
        load_pretrained(backbone, name, config.model.backbone_weights)
    replace_depthwise(backbone)
    return Specialist(backbone, head, preprocess)


@dataclass
class SpecialistObjective:
    """The loss of one mini-batch, in the form that the training loop asks for."""

    task: Task
    model: Specialist
    schedule: Any
    precision: torch.dtype
    task_weights: TaskWeights
    normaliser: LossNormaliser
    auxiliary: None = None

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        part = batch[self.task]
        with autocast(part.images.device, self.precision):
            features = self.model.features(part.images)
        loss = self._loss(features, part.images, part.target)
        return loss, {self.task.value: loss.detach()}

    def _loss(self, features: Any, images: Tensor, target: Tensor | DetectionTarget) -> Tensor:
        if isinstance(target, DetectionTarget):
            # torchvision knows no regions to ignore: they are left out, and what is found there counts as wrong.
            wanted = [(target.labels[i] >= 0) & ~target.crowd[i] for i in range(len(images))]
            truth = [
                {"boxes": target.boxes[i][keep], "labels": target.labels[i][keep] + 1} for i, keep in enumerate(wanted)
            ]
            losses = self.model.head.with_features(features)(list(images), truth)
            return losses["bbox_regression"] + losses["classification"]
        if self.task is Task.SEG:
            return segmentation_loss(self._maps(features), target).mean()
        return F.cross_entropy(self._maps(features), target, label_smoothing=self.schedule.label_smoothing)

    def _maps(self, features: Any) -> Tensor:
        return maps_of(self.model, features, self.task)


def maps_of(model: Specialist, features: Any, task: Task) -> Tensor:
    inputs = {"low": features[0].float(), "high": features[1].float()} if task is Task.SEG else features.float()
    return model.head(inputs)


@torch.inference_mode()
def measure(
    model: Specialist, task: Task, splits: list[TaskData], config: Config, device: torch.device, precision: torch.dtype
) -> TaskResult:
    """The result over the pooled splits, by the same metrics as for our networks."""
    logits, matrices, detections = [], [], []
    size = config.evaluation.batch_size
    for split in splits:
        for start in range(0, len(split), size):
            indices = range(start, min(start + size, len(split)))
            images = to_float(split.batch(indices), device).images
            with autocast(device, precision):
                features = model.features(images)
            if task is Task.DET:
                for index, found in zip(indices, model.head.with_features(features)(list(images)), strict=True):
                    boxes = split.fit(index).to_picture(found["boxes"].cpu().double().numpy())
                    scores, labels = found["scores"].cpu().double().numpy(), found["labels"].cpu().numpy() - 1
                    best = np.argsort(-scores, kind="stable")[: config.evaluation.max_detections]
                    detections.append(Detections(boxes[best], scores[best], labels[best]))
                continue
            maps = maps_of(model, features, task)
            if task is Task.CLS:
                logits.append(maps.cpu())
                continue
            assert isinstance(split, SegmentationData)
            for index, picture in zip(indices, maps, strict=True):
                matrices.append(
                    confusion_matrix(read_mask(picture, split.fit(index)), split.mask(index), len(split.classes))
                )
    first = splits[0]
    if task is Task.CLS:
        labels = np.array(
            [label for split in splits if isinstance(split, ClassificationData) for label in split.labels]
        )
        return ClassificationResult(torch.cat(logits).numpy(), labels, first.classes)
    if task is Task.SEG:
        return SegmentationResult(np.stack(matrices), first.classes)
    boxed = [split for split in splits if isinstance(split, DetectionData)]
    return DetectionResult(pooled_ground_truth(boxed), detections, boxed[0].category_ids, first.classes)


def train(task: Task, config: Config, reports: Mapping[str, Sequence[str]], console: Console) -> dict[str, Any]:
    """Train one specialist; its best epoch, val an epoch, and its scores and rows a class in each report.

    Args:
        reports: name -> splits, which are pooled.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.model.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    budget = CacheBudget(config.data.cache_mb)
    interpolation = create_backbone(config.model.backbone).preprocess.interpolation
    load: Callable[[str], TaskData] = partial(
        load_split, task, data=config.data, interpolation=interpolation, budget=budget
    )
    learned, val = load(config.data.train_split), load(config.data.val_split)
    model = build(task, config, len(learned.classes)).to(device, memory_format=torch.channels_last)
    weights, normaliser = TaskWeights((task,), "equal").to(device), LossNormaliser(False)
    objective: Any = SpecialistObjective(task, model, config.teacher, precision, weights, normaliser)
    loader = TrainLoader(
        {task: learned},
        batch_size=config.teacher.batch_size,
        seed=config.seed,
        data=config.data,
        device=device,
        fill=model.mean.cpu(),
        buffer_size=config.teacher.buffer_size,
        epochs=config.teacher.epochs,
        small_until=config.teacher.small_until,
    )

    def validate(averaged: Any) -> Validation:
        scores = measure(averaged, task, [val], config, device, precision).scores()
        return Validation(scores, scores[MAIN_METRIC[task]] or 0.0, Thresholds(0.0, []))

    loop = TrainingLoop(objective, loader, batch_norm=config.model.batch_norm, validate=validate, weights_floor=0.0)
    best: dict[str, Any] = {}
    epochs = []
    with console.track(f"specialist {task}", loop.total_steps) as advance:
        for info in loop.run():
            if not isinstance(info, EpochInfo):
                advance(info.step, "")
                continue
            epochs.append({"epoch": info.epoch, "val": info.scores})
            if info.criterion is not None:
                console.note(f"specialist {task}: epoch {info.epoch}/{info.total_epochs} val {info.criterion:.4f}")
            if info.best:
                weights_now = {key: value.clone() for key, value in loop.average.model.state_dict().items()}
                best = {"epoch": info.epoch, "weights": weights_now}
    model.load_state_dict(best.pop("weights"))
    results = {
        name: measure(model.eval(), task, [load(split) for split in splits], config, device, precision)
        for name, splits in reports.items()
    }
    return {
        **best,
        "scores": {name: result.scores() for name, result in results.items()},
        "per_class": {name: result.per_class() for name, result in results.items()},
        "pictures": {name: len(result) for name, result in results.items()},
        "epochs": epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def run(task: Task, config: Config, *, reports: Sequence[str], results: Path, console: Console) -> dict[str, Any]:
    """The document of a specialist, trained where {results}/specialist-{task}-seed{seed}.json does not have it yet.

    Args:
        reports: names of `common.report_splits`.
    """
    path = results / f"specialist-{task}-seed{config.seed}.json"
    done = finished(path, config, [task.value])
    if done is not None and set(reports) <= set(done["scores"]):
        console.note(f"{path}: done already")
        return done
    began = time.perf_counter()
    splits = report_splits(config)
    found = train(task, config, {name: splits[name] for name in reports}, console)
    document = {
        "specialist": task.value,
        "seed": config.seed,
        **found,
        "seconds": round(time.perf_counter() - began, 1),
        **machine(config),
        "data": data_hashes(config, learned_from(config) if list(reports) == ["val"] else measured_on(config)),
        "config": settings_of(config),
    }
    write_document(path, document)
    return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[task.value for task in Task], required=True)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--report", default="val", help="what the chosen epoch is measured on: val,test,pooled")
    given = parser.parse_args()
    reports = given.report.split(",")
    if unknown := set(reports) - set(report_splits(Config())):
        parser.error(f"--report: {', '.join(sorted(unknown))} is none of {', '.join(report_splits(Config()))}")
    console = Console()
    try:
        config = load_config(given.config, {"data.root": given.data, "seed": given.seed})
        document = run(Task(given.task), config, reports=reports, results=given.results, console=console)
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console.result(document, json.dumps(document["scores"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
