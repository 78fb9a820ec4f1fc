"""What the benchmarks share: data drawn on the spot, a training loop, interleaved timing, the verdict, kept results.

A benchmark states a bound on a ratio of two timings of one run, never on a time: the ratio of interleaved minima holds
on a busy machine and on another processor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as RichConsole

from onehead_cli import engine
from onehead_cli.checkpoint.networks import can_resume, forget_run
from onehead_cli.commands.console import Console, table
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.batch import Batch
from onehead_cli.data.class_folders import ClassFoldersListing
from onehead_cli.data.coco import CocoListing
from onehead_cli.data.format import get_format
from onehead_cli.data.listings import Listings
from onehead_cli.data.loader import TrainLoader
from onehead_cli.data.mask_folders import MaskFoldersListing
from onehead_cli.data.prepare.settings import Synthetic
from onehead_cli.files.atomic import write_atomically
from onehead_cli.files.checksum import sha256_of
from onehead_cli.registry import TASKS
from onehead_cli.runtime.compute import processor_name, resolve_device, resolve_precision
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.resume import changed_settings
from onehead_cli.training.setup import architecture_for, build_loop
from onehead_cli.wording import how_many

#: The setting of the training benchmarks: pixels per side, images of each task in a mini-batch.
IMAGE_SIZE = 320
BATCH_SIZE = 4
#: The network of a quick run.
QUICK_MODEL = {"backbone": "mobilenetv3_small_050", "pretrained": False}
PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}
#: So many true boxes make the AP of a class more than luck.
FREQUENT = 5
#: The name of `frequent_map` among scores.
FREQUENT_MAP = "map_frequent"


@dataclass(frozen=True)
class Options:
    """quick: tiny images and few rounds, to see that the benchmark runs; it is then not judged.

    full_size: pixels per side otherwise. paths: the benchmark's own options, None where not given.
    """

    rounds: int
    quick: bool
    json: Path | None
    device: str
    full_size: int
    paths: Mapping[str, Path | None] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        return 96 if self.quick else self.full_size


def parse_options(
    description: str | None, *, rounds: int, image_size: int = IMAGE_SIZE, paths: Mapping[str, str] | None = None
) -> Options:
    """Args: paths: further options that take a path, each with its help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=None, help=f"timed rounds (default {rounds})")
    parser.add_argument("--quick", action="store_true", help="tiny and not judged: only to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures into this file too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    for name, text in (paths or {}).items():
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=text)
    given = parser.parse_args()
    return Options(
        rounds=given.rounds or (2 if given.quick else rounds),
        quick=given.quick,
        json=given.json,
        device=given.device,
        full_size=image_size,
        paths={name: getattr(given, name) for name in paths or {}},
    )


def training_config(options: Options, root: Path, **student: Any) -> Config:
    """A student without distillation, on data below `root`, that never comes to its end."""
    return Config.model_validate(
        {
            "device": options.device,
            "output": root / "output",
            "data": {"root": root, "image_size": options.image_size},
            "model": QUICK_MODEL if options.quick else {},
            "student": {"batch_size": BATCH_SIZE, "buffer_size": 1, "epochs": 1000, **student},
            "distill": {"lambda": 0.0},
        }
    )


def draw_data(root: Path, *, train: int, image_size: int) -> None:
    """Three synthetic datasets, `train` images each to learn from."""
    # Ten classes of images, none of which may be without one.
    drawn = Synthetic(root=root, sizes=(train, 10, 10), image_size=image_size)
    engine.prepare_data(drawn, reporter=Console(quiet=True))


def student_loop(config: Config) -> TrainingLoop:
    """The student's training loop as `train-unified` builds it, without teachers."""
    listings = Listings(config)
    architecture = architecture_for(config, TASKS, listings)
    return build_loop(architecture, config, teachers={}, listings=listings, reporter=Console(quiet=True))


def take_step(loop: TrainingLoop) -> None:
    """One optimizer step; the generator is left before it evaluates."""
    next(loop.run())


class FixedLoader(TrainLoader):
    """Gives the same mini-batches, held in memory, again and again."""

    def __init__(self, loader: TrainLoader, batches: Sequence[Batch]) -> None:
        self.__dict__.update(loader.__dict__)
        self.batches = batches

    def minibatch(self, position: int) -> Batch:
        return self.batches[position % len(self.batches)]


def interleaved_minima(variants: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """The shortest time of each variant in seconds; they take turns, after one turn to warm up."""
    shortest = dict.fromkeys(variants, float("inf"))
    for turn in range(rounds + 1):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                shortest[name] = min(shortest[name], time.perf_counter() - began)
    return shortest


@dataclass(frozen=True)
class Check:
    """A figure and the bound that it must not pass; without a bound it is only reported."""

    name: str
    value: float
    bound: float | None = None

    @property
    def ok(self) -> bool:
        return self.bound is None or self.value <= self.bound


def finish(
    name: str,
    options: Options,
    *,
    measured: Mapping[str, str],
    column: str = "Shortest",
    checks: Sequence[Check],
    **figures: Any,
) -> int:
    """Print what was measured and the checks, write the JSON file, and return the exit code: 1 over a bound.

    Args:
        measured: what the table shows, by name; column: what it is.
        figures: the same as numbers, for the JSON file.
    """
    console = RichConsole(highlight=False)
    threads = torch.get_num_threads()
    processor = processor_name(torch.device(options.device))
    console.print(table(name, ["Measured", column], list(measured.items())))
    rows = [
        [
            check.name,
            f"{check.value:.3f}",
            "none" if check.bound is None else f"{check.bound:.3f}",
            _verdict(check, options),
        ]
        for check in checks
    ]
    console.print(table("Bounds", ["Figure", "Value", "At most", "Verdict"], rows))
    console.print(
        f"{processor}, {how_many(threads, 'thread')}, torch {torch.__version__}, {options.rounds} rounds",
        soft_wrap=True,
    )
    if options.json is not None:
        document = {
            "benchmark": name,
            "quick": options.quick,
            "processor": processor,
            "threads": threads,
            "torch": torch.__version__,
            "rounds": options.rounds,
            "image_size": options.image_size,
            **figures,
            "checks": [{"name": c.name, "value": c.value, "bound": c.bound, "ok": c.ok} for c in checks],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if options.quick or all(check.ok for check in checks) else 1


def _verdict(check: Check, options: Options) -> str:
    if options.quick or check.bound is None:
        return "not judged"
    return "kept" if check.ok else "exceeded"


def milliseconds(seconds: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value * 1000:.1f} ms" for name, value in seconds.items()}


#: The folder of what 0.1.0 kept, before results were named after their config.
BEFORE = "0.1.0"


def result_path(results: Path, config_file: Path, unit: str) -> Path:
    """The JSON of a unit ("full-seed0", "specialist-det-seed0", ...) of a config or plan."""
    return results / f"{config_file.stem}-{unit}.json"


def path_in_0_1_0(results: Path, unit: str) -> Path:
    final = unit.startswith(("full-", "plain-"))
    return results / BEFORE / f"{'final-' if final else ''}{unit}.json"


def kept(results: Path, config_file: Path, unit: str, config: Config, networks: Sequence[str]) -> Path | None:
    """The JSON of a unit that is finished and was read as now, be it 0.1.0's; args and errors as for `finished`."""
    path, before = result_path(results, config_file, unit), path_in_0_1_0(results, unit)
    if (document := finished(path, config, networks)) and read_alike(document["config"], config):
        return path
    return before if finished(before, config, networks) else None


def read_alike(before: Mapping[str, Any], config: Config) -> bool:
    """Whether `evaluation` says the same, which matters to no training but to what is measured after it."""
    now = settings_of(config)["evaluation"]
    return all(now.get(key) == value for key, value in before["evaluation"].items() if key != "batch_size")


def finished(path: Path, config: Config, networks: Sequence[str]) -> dict[str, Any] | None:
    """The document of a run that was trained with these settings on this data; None where it is to be done.

    Args:
        networks: those whose settings matter: "cls", "seg", "det", "all".

    Raises:
        DataError: a split that the run read is not there.
    """
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if any(changed_settings(document["config"], config, name) for name in networks):
        return None
    return document if document["data"] == data_hashes(config, list(document["data"])) else None


def data_hashes(config: Config, splits: Sequence[str]) -> dict[str, str]:
    """sha256 of the images and labels of each split, of all tasks: of their names and contents."""
    return {split: _split_hash(config.data.model_dump_json(), split) for split in splits}


@cache
def _split_hash(data: str, split: str) -> str:
    config, whole = Config(data=DataConfig.model_validate_json(data)), hashlib.sha256()
    for task in config.data.tasks:
        listing = get_format(task).list(config, split)
        match listing:
            case ClassFoldersListing():
                labels: Sequence[Any] = [listing.classes[label] for label in listing.labels]
            case MaskFoldersListing():
                labels = [listing.classes, *(sha256_of(mask) for mask in listing.masks)]
            case CocoListing():
                labels = [listing.categories, *listing.annotations]
        images = [[path.name, sha256_of(path)] for path in listing.images]
        whole.update(json.dumps([task, images, labels], sort_keys=True).encode())
    return whole.hexdigest()


def learned_from(config: Config) -> list[str]:
    """The splits that a training reads."""
    return [config.data.train_split, config.data.val_split]


def goes_on(network: str, config: Config, console: Console) -> bool:
    """Whether a training that was stopped goes on, because it learns from the same data.

    What is to begin anew is written down with its data, beside its checkpoints, and what stood in its place is
    forgotten. Raises: as `finished`.
    """
    path, data = config.output / f"{network}_data.json", data_hashes(config, learned_from(config))
    if can_resume(config.output, network) and path.is_file() and json.loads(path.read_text(encoding="utf-8")) == data:
        return True
    if can_resume(config.output, network):
        console.warn(f"{network} in {config.output}: not known to have learned from these data; it starts anew")
        forget_run(config.output, network)  # before its data are: a stop in between must not mix the two
    write_document(path, data)
    return False


def measured_on(config: Config) -> list[str]:
    """The splits behind a result: those of the training, and test."""
    return [*learned_from(config), "test"]


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def machine(config: Config) -> dict[str, Any]:
    """On what, and in which precision, a network of this config is trained and measured here."""
    device = resolve_device(config.device)
    return {
        "processor": processor_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": PRECISIONS[resolve_precision(config.model.precision, device)],
    }


def frequent_map(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """mAP over the classes with `FREQUENT` boxes and more: one box of a class of two moves its AP by a half.

    Args:
        rows: a class each, with its number of boxes and AP, as `onehead evaluate` writes them.
    """
    values = [row["ap"] for row in rows if row["count"] >= FREQUENT and row["ap"] is not None]
    return statistics.fmean(values) if values else None


def settings_of(config: Config) -> dict[str, Any]:
    """The config as a kept result has it, without the folders of this machine."""
    kept = config.model_dump(mode="json", by_alias=True, exclude={"output"})
    kept["data"].pop("root")
    kept["distill"].pop("teachers")
    return kept


def report_splits(config: Config) -> dict[str, list[str]]:
    """What a network is measured on, by the name of the report: val, test, and both pooled."""
    val = config.data.val_split
    return {"val": [val], "test": ["test"], "pooled": [val, "test"]}
