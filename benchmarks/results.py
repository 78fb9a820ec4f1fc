"""Train and measure the final recipes over seeds, and keep what docs/RESULTS.md is made of; `make results`.

    python benchmarks/results.py --config configs/lite-quick.yaml --data data --seeds 0,1,2

Two recipes: "full" is the config as it is, "plain" the same without the conversions of labels (boxes from masks, masks
gated by boxes). For each recipe and seed: the three teachers, the student, what they score on val, on test and on both
pooled, and what the student gets wrong; then torchvision's specialists of benchmarks/specialists.py.

Each finished unit is one JSON in the results folder, final-{recipe}-seed{N}.json or specialist-{task}-seed{N}.json, and
is not done again while its settings are the same. A stopped run goes on from its checkpoints. Two cores train two
networks at once with two processes of different parts:

    python benchmarks/results.py --only teachers --task seg &
    python benchmarks/results.py --only teachers --task det

The test split is read only after the training, by what measures.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import specialists
import torch
from common import finished, machine, report_splits, settings_of, write_document
from error_analysis import DetectionErrors, TrueBoxes, confusion_pairs

from onehead_cli import engine
from onehead_cli.atomic import write_atomically
from onehead_cli.checkpoint import STUDENT, best_path, last_path, load_checkpoint
from onehead_cli.config import Config, load_config
from onehead_cli.console import Console
from onehead_cli.datasets.detection import DetectionData
from onehead_cli.datasets.manifest import manifest_hash
from onehead_cli.datasets.pictures import CacheBudget, open_picture
from onehead_cli.datasets.sources import load_split
from onehead_cli.datasets.transforms import to_float
from onehead_cli.device import autocast, resolve_device, resolve_precision
from onehead_cli.errors import CheckpointError, ConfigError, OneheadError
from onehead_cli.model.backbone import create_backbone
from onehead_cli.model.imagenet import imagenet_classifier
from onehead_cli.prediction import Predictor
from onehead_cli.types import TASKS, Task

FULL, PLAIN = "full", "plain"
#: What differs from the config, by recipe.
RECIPES: dict[str, dict[str, Any]] = {
    FULL: {},
    PLAIN: {"teacher.boxes_from_masks": False, "student.boxes_from_masks": False, "distill.gate_masks": False},
}
NETWORKS = [*(task.value for task in TASKS), STUDENT]
PARTS = ("teachers", "students", "specialists")


@dataclass(frozen=True)
class Unit:
    """One recipe and seed; its checkpoints and logs are in `config.output`."""

    recipe: str
    config: Config

    @property
    def name(self) -> str:
        return f"{self.recipe}-seed{self.config.seed}"

    def marker(self, network: str) -> Path:
        """Written when the network is trained: its settings, scores on val, and on what it was trained."""
        return self.config.output / f"{network}_finished.json"


def unit_of(base: Path | None, recipe: str, *, seed: int, data: Path, output: Path) -> Unit:
    folder = output / f"{recipe}-seed{seed}"
    changes = {"seed": seed, "data.root": data, "output": folder, "distill.teachers": folder}
    return Unit(recipe, load_config(base, {**RECIPES[recipe], **changes}))


def train_teacher(unit: Unit, task: Task, full: Unit, console: Console) -> None:
    """Train a teacher where it is not finished; plain's for cls and seg are full's, which boxes from masks never meet.

    Args:
        full: the unit of the same seed whose labels are converted.
    """
    if finished(unit.marker(task), unit.config, [task]):
        return
    if unit.recipe == PLAIN and task is not Task.DET:
        train_teacher(full, task, full, console)
        _copy_teacher(full, unit, task)
        return
    console.note(f"{unit.name}: teacher {task}")
    resume = last_path(unit.config.output, task).is_file()
    [result] = engine.train_teacher(unit.config, tasks=[task], resume=resume, reporter=console)
    _mark(unit, task, scores=result.scores)


def _copy_teacher(full: Unit, unit: Unit, task: Task) -> None:
    for name in (best_path(Path(), task).name, f"{task}.jsonl"):
        content = (full.config.output / name).read_bytes()
        unit.config.output.mkdir(parents=True, exist_ok=True)
        write_atomically(unit.config.output / name, lambda file, content=content: file.write(content))
    marker = {**_read(full.marker(task)), "config": settings_of(unit.config), "copied_from": full.name}
    write_document(unit.marker(task), marker)


def train_student(unit: Unit, console: Console) -> None:
    """Train the student where it is not finished.

    Raises:
        CheckpointError: its teachers are not.
    """
    missing = [task.value for task in TASKS if not finished(unit.marker(task), unit.config, [task])]
    if missing:
        raise CheckpointError(f"{unit.name}: not trained yet: {', '.join(missing)}; run --only teachers first")
    teachers = {task.value: _read(unit.marker(task))["scores"] for task in TASKS}
    done = finished(unit.marker(STUDENT), unit.config, [STUDENT])
    if done and done["teachers"] == teachers:
        return
    console.note(f"{unit.name}: student")
    resume = last_path(unit.config.output, STUDENT).is_file()
    result = engine.train_unified(unit.config, resume=resume, reporter=console)
    _mark(unit, STUDENT, scores=result.scores, teachers=teachers)


def _mark(unit: Unit, network: str, **facts: Any) -> None:
    write_document(unit.marker(network), {**facts, **machine(), "config": settings_of(unit.config)})


def document_of(unit: Unit, console: Console) -> dict[str, Any]:
    """All that the page says of a unit whose four networks are trained."""
    return {
        "recipe": unit.recipe,
        "seed": unit.config.seed,
        "set": RECIPES[unit.recipe],
        "networks": {name: _network(unit, name) for name in NETWORKS},
        "evaluation": {
            name: _evaluation(unit, name, splits, console) for name, splits in report_splits(unit.config).items()
        },
        "errors": _errors(unit, report_splits(unit.config)["pooled"], console),
        "imagenet_classifier": _imagenet_top1(unit, console),
        "manifest": manifest_hash(unit.config.data, TASKS),
        "config": settings_of(unit.config),
    }


def _network(unit: Unit, name: str) -> dict[str, Any]:
    checkpoint = load_checkpoint(best_path(unit.config.output, name))
    marker = _read(unit.marker(name))
    epochs = read_epochs(unit.config.output / f"{name}.jsonl")
    return {
        "parameters": sum(p.numel() for p in checkpoint.model().parameters()),
        "image_size": checkpoint.preprocess["image_size"],
        "best_epoch": checkpoint.epoch,
        "cell_threshold": checkpoint.thresholds.cells,
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 1),
        **{key: marker.get(key) for key in ("processor", "threads", "torch", "copied_from")},
        "epochs": epochs,
    }


def read_epochs(log: Path) -> list[dict[str, Any]]:
    """An entry an epoch of a run's log: val scores, and the mean over its steps of each loss and task weight."""
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


def _evaluation(unit: Unit, name: str, splits: Sequence[str], console: Console) -> dict[str, Any]:
    """Scores, drop check and rows a class of student and teachers on the pooled splits."""
    console.note(f"{unit.name}: {name}")
    folder = unit.config.output / f"evaluate-{name}"
    result = engine.evaluate(
        unit.config.model_copy(update={"output": folder}),
        checkpoint=best_path(unit.config.output, STUDENT),
        tasks=None,
        splits=splits,
        relative=False,
        reporter=console,
    )
    kept = ("splits", "pictures", "unified", "baseline", "drop", "drop_limit", "resamples", "skipped")
    rows = {task.value: _read(folder / f"per_class_{task}.json") for task in TASKS}
    return {
        **{key: result.document[key] for key in kept},
        "per_class": {task: {key: table[key] for key in ("unified", "baseline")} for task, table in rows.items()},
    }


def _errors(unit: Unit, splits: Sequence[str], console: Console) -> dict[str, Any]:
    """What the student gets wrong; boxes are those that `predict` shows."""
    folder = unit.config.output / "evaluate-pooled"
    checkpoint = load_checkpoint(best_path(unit.config.output, STUDENT))
    predictor = Predictor(checkpoint, unit.config)
    data = [load(Task.DET, split, unit.config) for split in splits]
    errors = DetectionErrors(data[0].classes)
    pictures = [pair for split in data for pair in zip(split.paths, true_boxes(split), strict=True)]
    with console.track(f"{unit.name}: errors", len(pictures)) as advance:
        for done, (path, truth) in enumerate(pictures, start=1):
            fitted, fit = predictor.fit(open_picture(path))
            [prediction] = predictor.predict([fitted], [fit])
            errors.add(prediction.boxes, truth)
            advance(done, "")
    boxes = zip(data[0].classes, checkpoint.thresholds.boxes, strict=True)
    return {
        "splits": list(splits),
        "cls": confusion_pairs(*_read_confusion(folder / "confusion_cls_unified.csv")),
        "seg": confusion_pairs(*_read_confusion(folder / "confusion_seg_unified.csv")),
        "det": {**errors.document(), "thresholds": {name: round(value, 4) for name, value in boxes}},
    }


def true_boxes(split: DetectionData) -> list[TrueBoxes]:
    """The labels of each picture, in the order of `split.paths`."""
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in split.ground_truth["images"]}
    for annotation in split.ground_truth["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    pictures = []
    for found in by_image.values():
        xywh = np.array([a["bbox"] for a in found], dtype=np.float64).reshape(-1, 4)
        pictures.append(
            TrueBoxes(
                boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
                labels=np.array([split.category_ids.index(a["category_id"]) for a in found], dtype=np.int64),
                crowd=np.array([bool(a.get("iscrowd", 0)) for a in found], dtype=np.bool_),
                areas=np.array([a.get("area", a["bbox"][2] * a["bbox"][3]) for a in found], dtype=np.float64),
            )
        )
    return pictures


def load(task: Task, split: str, config: Config) -> Any:
    """A split of a task as the backbone takes it."""
    interpolation = create_backbone(config.model.backbone).preprocess.interpolation
    return load_split(task, split, config.data, interpolation=interpolation, budget=CacheBudget(config.data.cache_mb))


def _read_confusion(path: Path) -> tuple[np.ndarray, list[str]]:
    [header, *rows] = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    return np.array([[int(cell) for cell in row[1:]] for row in rows], dtype=np.int64), header[1:]


@torch.inference_mode()
def _imagenet_top1(unit: Unit, console: Console) -> dict[str, float] | None:
    """Top-1 of the backbone's own ImageNet classifier, untouched; None where it does not know the classes."""
    config = unit.config
    device = resolve_device(config.device)
    precision = resolve_precision(config.model.precision, device)
    scores = {}
    for name, splits in report_splits(config).items():
        hits = []
        for data in [load(Task.CLS, split, config) for split in splits]:
            try:
                model = imagenet_classifier(config.model.backbone, data.classes, config.model.backbone_weights)
            except (ConfigError, CheckpointError) as error:
                console.warn(f"{unit.name}: no row of the ImageNet classifier ({error})")
                return None
            model = model.to(device, memory_format=torch.channels_last)
            for index, label in enumerate(data.labels):
                images = to_float(data.batch([index]), device).images
                with autocast(device, precision):
                    hits.append(int(model(images).argmax()) == label)
        scores[name] = statistics.fmean(hits)
    return scores


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def run(given: argparse.Namespace, console: Console) -> None:
    """Do what is asked and not yet done, full before plain, the specialists last."""
    parts = [given.only] if given.only else PARTS
    tasks = [Task(given.task)] if given.task else TASKS
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for recipe in [given.recipe] if given.recipe else RECIPES:
        for seed in seeds:
            where = {"seed": seed, "data": given.data, "output": given.output}
            unit = unit_of(given.config, recipe, **where)
            path = given.results / f"final-{unit.name}.json"
            if finished(path, unit.config, NETWORKS):
                console.note(f"{path}: done already")
                continue
            for task in tasks if "teachers" in parts else ():
                train_teacher(unit, task, unit_of(given.config, FULL, **where), console)
            if "students" in parts:
                train_student(unit, console)
                write_document(path, document_of(unit, console))
                console.note(f"{path}: written")
    for seed in seeds if "specialists" in parts else ():
        config = load_config(given.config, {"data.root": given.data, "seed": seed})
        for task in tasks:
            reports = list(report_splits(config))
            specialists.run(task, config, reports=reports, results=given.results, console=console)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/lite-quick.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", default="0,1,2", help="numbers, comma-separated")
    parser.add_argument("--recipe", choices=list(RECIPES), help="default: both")
    parser.add_argument("--only", choices=PARTS, help="default: all, one after the other")
    parser.add_argument("--task", choices=[task.value for task in TASKS], help="one teacher or specialist")
    parser.add_argument("--output", type=Path, default=Path("output/results"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="the finished units' JSON")
    given = parser.parse_args()
    if given.task and given.only not in ("teachers", "specialists"):
        parser.error("--task goes with --only teachers or --only specialists")
    if not all(seed.isdigit() for seed in given.seeds.split(",")):
        parser.error(f"--seeds {given.seeds}: give numbers such as 0,1,2")
    try:
        run(given, Console())
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
