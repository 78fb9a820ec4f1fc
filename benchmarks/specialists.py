"""Train torchvision's specialists as their papers do, on our backbone, weights and data, for comparison.

    python benchmarks/specialists.py --task det --config configs/lite-long.yaml --data data --seed 0

cls: a linear classifier on the pooled features of the whole backbone. seg: LR-ASPP on strides 8 and 16 (the last stage
dilated). det: SSDLite on strides 16 and 32 and four further maps. Of the config they take the size of the images, the
backbone, the precision and where the data are; how long and how fast they learn stands in SCHEDULES below, and their
views in specialist/views.py. All layers learn, with the backbone's batch-norm statistics as they are, and the last
averaged weights are measured.

A stopped training goes on from {output}/{config}-specialist-{task}-seed{seed}.pth, written every few epochs, and ends
as one that was never stopped. The result, {results}/{config}-specialist-{task}-seed{seed}.json, is not computed again
where it is there with the same settings and what `--report` asks for; neither is what 0.1.0 kept, whose specialists
learned by the config's schedule and our views.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import (
    data_hashes,
    finished,
    learned_from,
    machine,
    measured_on,
    path_in_0_1_0,
    read_alike,
    report_splits,
    result_path,
    settings_of,
    write_document,
)
from report.units import read_json
from specialist.measure import measure
from specialist.networks import Specialist, SpecialistObjective, build
from specialist.views import VIEWS, ViewLoader

from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.config.training import TeacherConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.listings import Listings
from onehead_cli.data.split import Loading, Split
from onehead_cli.errors import OneheadError
from onehead_cli.evaluation.validation import Validation
from onehead_cli.events import EpochInfo
from onehead_cli.files.atomic import write_atomically
from onehead_cli.network.backbone import create_backbone
from onehead_cli.registry import TASKS
from onehead_cli.runtime.compute import resolve_device, resolve_precision
from onehead_cli.runtime.memory import keep_freed_memory
from onehead_cli.tasks.task import get_task
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights

#: Epochs between two evaluations on val, which are also when the training is saved.
EVERY = 5
SCHEDULES = {
    task: TeacherConfig(epochs=epochs, batch_size=8, lr=1e-3, backbone_lr_factor=factor, eval_every=EVERY)
    for task, (epochs, factor) in {"cls": (24, 0.1), "seg": (60, 0.3), "det": (60, 0.3)}.items()
}
#: What of a schedule a specialist reads.
_READ = ("epochs", "batch_size", "lr", "backbone_lr_factor", "weight_decay", "warmup", "clip_norm", "ema_decay")


def training_of(task: str, config: Config) -> dict[str, Any]:
    """All that a specialist's result depends on, but for seed and data."""
    of_model = {key: getattr(config.model, key) for key in ("backbone", "pretrained", "precision")}
    schedule = {key: getattr(SCHEDULES[task], key) for key in _READ}
    return {**of_model, "image_size": config.data.image_size, **schedule, "views": VIEWS[task], "layers": "all"}


class Training:
    """One specialist from any epoch to the end."""

    def __init__(self, task: str, config: Config, state: Path) -> None:
        """Args: state: the file that it goes on from, and saves itself to."""
        self.task, self.state = task, state
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.model.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        data = config.data.model_copy(update={"cache_scale": 1.0, "sizes": ()})
        self.config = config.model_copy(update={"data": data})
        interpolation = create_backbone(config.model.backbone).preprocess.interpolation
        listings, budget = Listings(self.config), CacheBudget(data.cache_mb)
        self.load: Callable[[str], Split] = lambda split: get_task(task).load(
            listings.get(task, split), self.config, Loading(interpolation, budget)
        )
        self.loop = self._loop()
        self.begun_with = {
            "training": training_of(task, config),
            "seed": config.seed,
            "data": data_hashes(config, learned_from(config)),
        }
        self.epochs: list[dict[str, Any]] = []
        self.seconds = 0.0

    def _loop(self) -> TrainingLoop:
        torch.manual_seed(self.config.seed)
        learned, val = self.load(self.config.data.train_split), self.load(self.config.data.val_split)
        model = build(self.task, self.config, len(learned.classes))
        model = model.to(self.device, memory_format=torch.channels_last)
        weights, normaliser = TaskWeights((self.task,), "equal").to(self.device), LossNormaliser(False)
        schedule = SCHEDULES[self.task]
        objective: Any = SpecialistObjective(self.task, model, schedule, self.precision, weights, normaliser)
        loader = ViewLoader(
            learned,
            batch_size=schedule.batch_size,
            seed=self.config.seed,
            data=self.config.data,
            device=self.device,
            fill=model.mean.cpu(),
        )

        def validate(averaged: Any) -> Validation:
            scores = self._measure(averaged, [val]).scores()
            return Validation(scores, scores[get_task(self.task).metric.key] or 0.0, {"cells": 0.0, "boxes": []})

        return TrainingLoop(objective, loader, batch_norm="frozen", validate=validate, weights_floor=0.0)

    def _measure(self, model: Specialist, splits: list[Split]) -> Any:
        return measure(model, self.task, splits, self.config, self.device, self.precision)

    def run(self, console: Console) -> None:
        """Train to the end, from the saved state where there is one of the same settings and data."""
        self._resume(console)
        began = time.perf_counter()
        with console.track(f"specialist {self.task}", self.loop.total_steps) as advance:
            for info in self.loop.run():
                if not isinstance(info, EpochInfo):
                    advance(info.step, "")
                    continue
                self.epochs.append({"epoch": info.epoch, "val": info.scores})
                if info.criterion is None:
                    continue
                console.note(f"specialist {self.task}: epoch {info.epoch}/{info.total_epochs} val {info.criterion:.4f}")
                self.seconds, began = self.seconds + time.perf_counter() - began, time.perf_counter()
                self._save()

    def report(self, reports: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Scores and rows per class of the last averaged weights.

        Args: reports: name -> splits, which are pooled.
        """
        model: Any = self.loop.average.model
        results = {
            name: self._measure(model, [self.load(split) for split in splits]) for name, splits in reports.items()
        }
        return {
            "epoch": self.epochs[-1]["epoch"],
            "scores": {name: result.scores() for name, result in results.items()},
            "per_class": {name: result.per_class() for name, result in results.items()},
            "pictures": {name: len(result) for name, result in results.items()},
            "epochs": self.epochs,
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(self.seconds, 1),
            "training": self.begun_with["training"],
        }

    def _save(self) -> None:
        archive = io.BytesIO()
        averaged = self.loop.average.model.state_dict()
        progress = {"epochs": self.epochs, "seconds": self.seconds}
        torch.save({**self.begun_with, **progress, "state": self.loop.state_dict(), "averaged": averaged}, archive)
        self.state.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.state, lambda file: file.write(archive.getbuffer()))

    def _resume(self, console: Console) -> None:
        if not self.state.is_file():
            return
        saved = torch.load(self.state, map_location="cpu", weights_only=True)
        if any(saved[key] != value for key, value in self.begun_with.items()):
            console.warn(f"{self.state}: of other settings or data; specialist {self.task} starts anew")
            return
        self.loop.load_state_dict(saved["state"], saved["averaged"])
        self.epochs, self.seconds = saved["epochs"], saved["seconds"]
        console.note(f"specialist {self.task}: resumed after epoch {self.epochs[-1]['epoch']}")


def run(
    task: str, config: Config, base: Path, *, reports: Sequence[str], results: Path, output: Path, console: Console
) -> dict[str, Any]:
    """The document of a specialist, trained where it is not kept yet.

    Args:
        base: the file of the config.
        reports: names of `common.report_splits`.
        output: where a stopped training is saved.
    """
    name = f"specialist-{task}-seed{config.seed}"
    path = result_path(results, base, name)
    for place, done in ((path, _kept(path, task, config)), _of_0_1_0(results, name, task, config)):
        if done is not None and set(reports) <= set(done["scores"]):
            console.note(f"{place}: done already")
            return done
    training = Training(task, config, output / f"{path.stem}.pth")
    training.run(console)
    splits = report_splits(config)
    document = {
        "config_file": base.name,
        "specialist": task,
        "seed": config.seed,
        **training.report({name: splits[name] for name in reports}),
        **machine(config),
        "data": data_hashes(config, learned_from(config) if list(reports) == ["val"] else measured_on(config)),
        "config": settings_of(config),
    }
    write_document(path, document)
    return document


def _kept(path: Path, task: str, config: Config) -> dict[str, Any] | None:
    """The document of a specialist that was trained and read as today, on this data."""
    if not path.is_file():
        return None
    document = read_json(path)
    same = document["training"] == training_of(task, config) and read_alike(document["config"], config)
    return document if same and document["data"] == data_hashes(config, list(document["data"])) else None


def _of_0_1_0(results: Path, name: str, task: str, config: Config) -> tuple[Path, dict[str, Any] | None]:
    path = path_in_0_1_0(results, name)
    return path, finished(path, config, [task])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--config", type=Path, default=Path("configs/lite-long.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output/results"), help="state of a stopped training")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--report", default="val,test,pooled", help="what the trained network is measured on")
    given = parser.parse_args()
    reports = given.report.split(",")
    if unknown := set(reports) - set(report_splits(Config())):
        parser.error(f"--report: {', '.join(sorted(unknown))} is none of {', '.join(report_splits(Config()))}")
    console = Console()
    try:
        config = load_config(given.config, {"data.root": given.data, "seed": given.seed})
        places = {"results": given.results, "output": given.output}
        document = run(given.task, config, given.config, reports=reports, console=console, **places)
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console.result(document, json.dumps(document["scores"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
