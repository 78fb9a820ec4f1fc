"""Measure the trained networks of one recipe and seed: all that docs/RESULTS.md says of them, as one document."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_hashes, measured_on, report_splits, settings_of

from onehead_cli import engine
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import STUDENT, best_path
from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.data.batch import images_to_float
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.images import open_image
from onehead_cli.data.listings import Listings
from onehead_cli.data.manifest import manifest_hash
from onehead_cli.data.split import Loading
from onehead_cli.errors import CheckpointError, ConfigError
from onehead_cli.evaluation.compare import EvaluateResult
from onehead_cli.evaluation.drop_check import interval_of_score
from onehead_cli.network.backbone import create_backbone
from onehead_cli.network.imagenet import imagenet_classifier
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.registry import TASKS
from onehead_cli.runtime.compute import autocast, resolve_device, resolve_precision
from onehead_cli.tasks.detection.split import DetectionSplit
from onehead_cli.tasks.task import get_task
from report.error_analysis import DetectionErrors, TrueBoxes, confusion_pairs
from report.units import NETWORKS, RECIPES, Unit, read_json


def document_of(unit: Unit, console: Console) -> dict[str, Any]:
    """All that the page says of a unit whose four networks are trained."""
    reports = report_splits(unit.config)
    measured = {name: _evaluate(unit, name, splits, console) for name, splits in reports.items()}
    on_train = _evaluate(unit, "train", [unit.config.data.train_split], console)
    return {
        "recipe": unit.recipe,
        "seed": unit.config.seed,
        "set": RECIPES[unit.recipe],
        "networks": {name: _network(unit, name) for name in NETWORKS},
        "evaluation": {name: _evaluation(result) for name, result in measured.items()},
        "on_train": {who: on_train.document[who] for who in ("unified", "baseline")},
        "errors": _errors(unit, measured["pooled"], console),
        "imagenet_classifier": imagenet_top1(unit.config, console),
        "manifest": manifest_hash(unit.config, TASKS),
        "data": data_hashes(unit.config, measured_on(unit.config)),
        "config": settings_of(unit.config),
    }


def _network(unit: Unit, name: str) -> dict[str, Any]:
    checkpoint = load_checkpoint(best_path(unit.config.output, name))
    marker = read_json(unit.marker(name))
    epochs = read_epochs(unit.config.output / f"{name}.jsonl")
    return {
        "parameters": sum(p.numel() for p in checkpoint.model().parameters()),
        "image_size": checkpoint.preprocess["image_size"],
        "best_epoch": checkpoint.epoch,
        "cell_threshold": checkpoint.thresholds["cells"],
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 1),
        **{key: marker.get(key) for key in ("processor", "threads", "torch", "precision", "copied_from")},
        "epochs": epochs,
    }


def read_epochs(log: Path) -> list[dict[str, Any]]:
    """An entry per epoch of a run's log: val scores, and the mean over its steps of each loss and task weight."""
    steps: dict[int, list[dict[str, Any]]] = defaultdict(list)
    epochs = []
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "step":
            steps[entry["epoch"]].append(entry)
        elif entry["kind"] == "epoch":
            mine = steps[entry["epoch"]]
            epochs.append(
                {
                    "epoch": entry["epoch"],
                    "seconds": round(entry["seconds"], 1),
                    "best": entry["best"],
                    "val": {name: _rounded(value) for name, value in entry["scores"].items()},
                    "losses": _means([step["losses"] for step in mine]),
                    "weights": _means([step["weights"] for step in mine]),
                }
            )
    return epochs


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float | None]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _rounded(statistics.fmean(row[name] for row in rows if name in row)) for name in names}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _evaluate(unit: Unit, name: str, splits: Sequence[str], console: Console) -> EvaluateResult:
    """Student and teachers on the pooled splits."""
    console.note(f"{unit.name}: {name}")
    return engine.evaluate(
        unit.config.model_copy(update={"output": unit.config.output / f"evaluate-{name}"}),
        checkpoint=best_path(unit.config.output, STUDENT),
        tasks=None,
        splits=splits,
        relative=False,
        reporter=console,
    )


def _evaluation(result: EvaluateResult) -> dict[str, Any]:
    """Scores, drop check and rows per class of student and teachers; of the student also the scores' intervals and how
    good the boxes are that it shows."""
    kept = ("splits", "pictures", "unified", "baseline", "drop", "drop_limit", "resamples", "skipped")
    rows = {
        task: {"unified": result.unified[task].per_class(), "baseline": result.baseline[task].per_class()}
        for task in TASKS
    }
    errors = result.unified["det"].errors
    shown = {"precision": errors.precision, "recall": errors.recall}
    draw = {key: result.document[key] for key in ("resamples", "seed")}
    return {
        **{key: result.document[key] for key in kept},
        "intervals": {task: interval_of_score(result.unified[task], **draw) for task in TASKS},
        "per_class": rows,
        "shown_boxes": shown,
    }


def _errors(unit: Unit, result: EvaluateResult, console: Console) -> dict[str, Any]:
    """What the student gets wrong; boxes are those that `predict` shows.

    Args: result: of the student on the splits that are asked for.
    """
    splits = result.document["splits"]
    checkpoint = load_checkpoint(best_path(unit.config.output, STUDENT))
    predictor = Predictor(checkpoint, unit.config)
    data = [load("det", split, unit.config) for split in splits]
    errors = DetectionErrors(data[0].classes)
    pairs = [pair for split in data for pair in zip(split.paths, true_boxes(split), strict=True)]
    with console.track(f"{unit.name}: errors", len(pairs)) as advance:
        for done, (path, truth) in enumerate(pairs, start=1):
            fitted, fit = predictor.fit(open_image(path))
            [prediction] = predictor.predict([fitted], [fit])
            errors.add(prediction.found["det"].boxes, truth)
            advance(done, "")
    boxes = zip(data[0].classes, checkpoint.thresholds["boxes"], strict=True)
    return {
        "splits": splits,
        **{task: _confusions(result.unified[task]) for task in ("cls", "seg")},
        "det": {**errors.document(), "thresholds": {name: round(value, 4) for name, value in boxes}},
    }


def true_boxes(split: DetectionSplit) -> list[TrueBoxes]:
    """The labels of each image, in the order of `split.paths`."""
    boxes = []
    for found in (split.listing.by_image[entry["id"]] for entry in split.listing.entries):
        xywh = np.array([a["bbox"] for a in found], dtype=np.float64).reshape(-1, 4)
        boxes.append(
            TrueBoxes(
                boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                labels=np.array([split.listing.labels[a["category_id"]] for a in found], dtype=np.int64),
                crowd=np.array([bool(a.get("iscrowd", 0)) for a in found], dtype=np.bool_),
                areas=np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in found], dtype=np.float64),
            )
        )
    return boxes


def load(task: str, split: str, config: Config) -> Any:
    """A split of a task as the backbone takes it."""
    interpolation = create_backbone(config.model.backbone).preprocess.interpolation
    listing, budget = Listings(config).get(task, split), CacheBudget(config.data.cache_mb)
    return get_task(task).load(listing, config, Loading(interpolation, budget))


def _confusions(result: Any) -> list[dict[str, str | int | float]]:
    return confusion_pairs(result.confusion, result.class_names)


@torch.inference_mode()
def imagenet_top1(config: Config, console: Console) -> dict[str, float] | None:
    """Top-1 of the backbone's own ImageNet classifier, untouched; None where it does not know the classes."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.model.precision, device)
    scores = {}
    for name, splits in report_splits(config).items():
        hits = []
        for data in [load("cls", split, config) for split in splits]:
            try:
                model = imagenet_classifier(config.model.backbone, data.classes, config.model.backbone_weights)
            except (ConfigError, CheckpointError) as error:
                console.warn(f"no row of the ImageNet classifier: {error}")
                return None
            model = model.to(device, memory_format=torch.channels_last)
            for index, label in enumerate(data.labels):
                images = images_to_float(data.batch([index]).images, device)
                with autocast(device, precision):
                    hits.append(int(model(images).argmax()) == label)
        scores[name] = statistics.fmean(hits)
    return scores
