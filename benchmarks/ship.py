"""Put the best student into the package, in half precision, with its model card.

    python benchmarks/ship.py --config configs/lite-long.yaml --runs output/results --data data

Of the finished seeds ({config}-full-seed*.json in the results folder) it takes the one whose worst task stands in the
middle: the smallest difference of a score from the teacher's on val, the median over the seeds, of an even number the
lower of the two middle ones. The file in half precision and its original are both measured on val, on test and on the
two pooled, in fp32 and, where the processor computes in it, in bf16. Where Top-1, mIoU or the mAP of classes with 5
boxes and more differs by more than 0.002 on the two pooled in either, or the file is over 16 MB, nothing is replaced,
and the exit code is 1. One split alone decides nothing, and rarer classes do not: one of their boxes moves mAP by more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import torch
from common import FREQUENT, FREQUENT_MAP, frequent_map, result_path

from onehead_cli import __version__, engine
from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_half_precision
from onehead_cli.checkpoint.networks import CARD, FILE, STUDENT, best_path, shipped_student
from onehead_cli.commands.console import Console
from onehead_cli.config.fields import describe_fields
from onehead_cli.config.load import config_of, load_config
from onehead_cli.config.sections import Config
from onehead_cli.data.format import get_format
from onehead_cli.errors import CheckpointError, DataError, OneheadError
from onehead_cli.files.atomic import write_atomically
from onehead_cli.registry import TASKS
from onehead_cli.runtime.compute import has_bf16, processor_name, resolve_device
from onehead_cli.tasks.task import get_task
from onehead_cli.training.resume import changed_settings
from onehead_cli.wording import readable

#: Largest change of a score that decides by half precision, on all images.
TOLERANCE = 0.002
#: Not mAP over all classes, which a box of one of the two airplanes moved by .0025.
_DECIDES = ("top1", "miou", FREQUENT_MAP)
_ALL = "val + test"
MAX_BYTES = 16_000_000
TEMPLATE = Path(__file__).parent / "model_card.md"

_PARTS = {"val": ["val"], "test": ["test"], _ALL: ["val", "test"]}
_METRICS = {
    "top1": "Top-1",
    "top5": "Top-5",
    "miou": "mIoU",
    "map": "mAP",
    "map50": "AP50",
    FREQUENT_MAP: f"mAP of classes with {FREQUENT} boxes and more",
}
_DATASETS = {
    "cls": "Imagenette, 160 px (classification)",
    "seg": "PASCAL VOC 2012 (segmentation)",
    "det": "COCO 2017 (detection)",
}

_CHOICE = "The seed is the one whose worst task is the median of the finished seeds."
_NO_CHOICE = "Seed {seed} was the only one that was finished when this file was packed."
_CLOSED_FORM = """\
- Classification started as the backbone's ImageNet classifier, written into the network in closed form.{untouched}
"""
_UNTOUCHED = """ Without any training, that
  classifier has Top-1 {untouched:.3f} on val and test together, the student {reached:.3f}."""

#: Scores by part of the data and metric; None for what a part has no label for.
Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Measured:
    """The original's scores and those in half precision, both computed in `precision`."""

    precision: str
    full: Scores
    half: Scores


@dataclass(frozen=True)
class Finished:
    """A seed whose student is trained.

    gaps: its score minus its teacher's on val, by task. config: what it was trained with. data: sha256 of each split's
    images and labels. untouched: Top-1 of the backbone's ImageNet classifier on val and test, where it was measured.
    """

    recipe: str
    seed: int
    checkpoint: Path
    gaps: dict[str, float]
    config: dict[str, Any]
    data: dict[str, str]
    untouched: float | None = None

    @property
    def worst(self) -> str:
        return min(self.gaps, key=lambda task: self.gaps[task])


def read_finished(path: Path, runs: Path) -> Finished:
    """Raises: DataError: the document of a finished seed lacks what is needed."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recipe, seed, val = str(document["recipe"]), int(document["seed"]), document["evaluation"]["val"]
        metrics = {task: get_task(task).metric.key for task in TASKS}
        gaps = {task: float(val["unified"][m]) - float(val["baseline"][m]) for task, m in metrics.items()}
        data = {split: str(document["data"][split]) for split in ("train", "val")}
        config = dict(document["config"])
        untouched = (document.get("imagenet_classifier") or {}).get("pooled")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the document of a finished seed ({type(error).__name__}: {error})") from None
    return Finished(recipe, seed, best_path(runs / f"{recipe}-seed{seed}", STUDENT), gaps, config, data, untouched)


def choose(finished: Sequence[Finished]) -> Finished:
    """The seed with the median worst task; of an even number the lower of the two in the middle."""
    in_order = sorted(finished, key=lambda one: (one.gaps[one.worst], one.seed))
    return in_order[(len(in_order) - 1) // 2]


def measure(full: Path, half: Path, config: Config, precision: str, console: Console) -> Measured:
    """What `onehead evaluate` says of both files on each part of the data."""
    model = config.model.model_copy(update={"precision": precision})
    config = config.model_copy(update={"model": model})

    def scores(checkpoint: Path) -> Scores:
        found = {}
        for name, splits in _PARTS.items():
            result = engine.evaluate(
                config, checkpoint=checkpoint, tasks=None, splits=splits, relative=False, reporter=console
            )
            frequent = frequent_map(result.unified["det"].per_class())
            found[name] = {**result.document["unified"], FREQUENT_MAP: frequent}
        return found

    return Measured(precision, scores(full), scores(half))


def objections(measured: Measured, size: int) -> list[str]:
    """Why a file in half precision is not to be shipped; empty where it is fine."""
    found = [] if size <= MAX_BYTES else [f"{size / 1e6:.2f} MB are more than {MAX_BYTES / 1e6:.0f} MB"]
    for metric in _DECIDES:
        value, other = measured.full[_ALL][metric], measured.half[_ALL][metric]
        if (value is None) != (other is None):
            found.append(f"{_METRICS[metric]} on {_ALL} is {value}, in half precision {other}")
        elif value is not None and other is not None and abs(other - value) > TOLERANCE:
            found.append(
                f"{_METRICS[metric]} on {_ALL} in {measured.precision} is {value:.4f}, of the file in half precision "
                f"{other:.4f}: more than {TOLERANCE} apart"
            )
    return found


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with only the name of each absolute path: where the data were is nobody else's concern."""

    def bare(value: Any) -> Any:
        if isinstance(value, Mapping):
            return without_places(value)
        return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value

    return {key: bare(value) for key, value in settings.items()}


def model_card(
    checkpoint: Checkpoint,
    chosen: Finished,
    finished: Sequence[Finished],
    *,
    config: Config,
    measured: Sequence[Measured],
    content: bytes,
) -> str:
    """The filled-in model_card.md.

    Args:
        config: where the images are that both files were measured on.
        measured: first as `onehead evaluate` computes here.
        content: of the file in half precision.
    """
    counts = {
        task: [len(get_format(task).list(config, split).images) for split in ("train", "val", "test")] for task in TASKS
    }
    classes = checkpoint.architecture.classes
    learned = sorted({of_splits[0] for of_splits in counts.values()})
    manifest, settings = checkpoint.data.get("manifest"), config_of(checkpoint.config)
    return TEMPLATE.read_text(encoding="utf-8").format(
        file=FILE,
        megabytes=f"{len(content) / 1e6:.2f}",
        sha256=hashlib.sha256(content).hexdigest(),
        backbone=checkpoint.architecture.backbone,
        parameters=f"{sum(p.numel() for p in checkpoint.model().parameters()) / 1e6:.2f}",
        size=checkpoint.preprocess["image_size"],
        classes_cls=", ".join(f"{readable(name)} ({name})" for name in classes["cls"]),
        classes_seg=", ".join(classes["seg"]),
        classes_det=", ".join(classes["det"]),
        images="\n".join(f"| {_DATASETS[task]} | {' | '.join(map(str, counts[task]))} |" for task in TASKS),
        learned=" or ".join(map(str, learned)),
        data="\n".join(f"    {split:5} {digest}" for split, digest in chosen.data.items()),
        manifest=f"`{manifest}`" if manifest else "none (the images were not drawn by `prepare-data`)",
        scores="\n".join(row for each in measured for row in _score_rows(each)),
        where=f"{processor_name(resolve_device(config.device))}, torch {torch.__version__}, onehead {__version__}",
        map=f"{measured[0].half[_ALL]['map'] or 0:.3f}",
        one_cls=f"{100 / counts['cls'][2]:.1f}",
        seeds="\n".join(_seed_rows(chosen, finished)),
        chosen=_chosen_on_val(finished, epoch=settings.student.keep == "best"),
        choice=_CHOICE if len(finished) > 1 else _NO_CHOICE.format(seed=chosen.seed),
        tolerance=f"{TOLERANCE:g}",
        frequent=FREQUENT,
        largest=_largest_change(measured),
        classifier=_closed_form(chosen, measured[0]) if settings.model.imagenet_classes else "",
        recipe=chosen.recipe,
        seed=checkpoint.seed,
        epoch=checkpoint.epoch,
        commands="\n".join(_commands(checkpoint)),
    )


def _chosen_on_val(finished: Sequence[Finished], *, epoch: bool) -> str:
    """Args: epoch: whether val chose it too."""
    *others, last = ["the recipe", *["the epoch"] * epoch, "the thresholds", *["the seed"] * (len(finished) > 1)]
    return f"{', '.join(others)} and {last}"


def _largest_change(measured: Sequence[Measured]) -> str:
    """Of a score that decides by half precision, on any part."""
    changes = [
        (abs(after - before), f"{after - before:+.4f} ({_METRICS[metric]} on {part}, {each.precision})")
        for each in measured
        for part, scores in each.full.items()
        for metric in _DECIDES
        if (before := scores[metric]) is not None and (after := each.half[part][metric]) is not None
    ]
    return max(changes)[1] if changes else "none"


def _closed_form(chosen: Finished, measured: Measured) -> str:
    reached = measured.half[_ALL]["top1"]
    if chosen.untouched is None or reached is None:
        return _CLOSED_FORM.format(untouched="")
    return _CLOSED_FORM.format(untouched=_UNTOUCHED.format(untouched=chosen.untouched, reached=reached))


def _score_rows(measured: Measured) -> list[str]:
    rows = []
    for part, scores in measured.full.items():
        for metric, title in _METRICS.items():
            before, after = scores[metric], measured.half[part][metric]
            if before is not None and after is not None:
                figures = f"{before:.4f} | {after:.4f} | {after - before:+.4f}"
                rows.append(f"| {measured.precision} | {part} | {title} | {figures} |")
    return rows


def _seed_rows(chosen: Finished, finished: Sequence[Finished]) -> list[str]:
    rows = []
    for one in sorted(finished, key=lambda each: each.seed):
        gaps = " | ".join(f"{one.gaps[task]:+.4f}" for task in TASKS)
        rows.append(f"| {one.seed}{' (this one)' if one is chosen else ''} | {gaps} | {one.worst} |")
    return rows


def _commands(checkpoint: Checkpoint) -> list[str]:
    """The trainings with every setting that is not the default; the folders are the reader's."""
    settings = describe_fields(config_of(checkpoint.config))
    changed = [each for each in settings if each.value != each.default and each.unit != "path" and each.key != "seed"]
    options = [f"--seed {checkpoint.seed}"]
    options += [f"--set {shlex.quote(f'{each.key}={each.value}')}" for each in changed]
    return [f"onehead {command} {' '.join(options)}" for command in ("train-teacher --task all", "train-unified")]


class _Once(Console):
    """The evaluations give the same warnings; each is shown once."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._shown: set[str] = set()

    def warn(self, message: str) -> None:
        if message not in self._shown:
            self._shown.add(message)
            super().warn(message)


def ship(results: Path, config_file: Path, *, runs: Path, data: Path, folder: Path) -> str:
    """Choose, measure and write; a line that says what was done.

    Raises:
        OneheadError: nothing was replaced.
    """
    wanted = result_path(results, config_file, "full-seed*").name
    finished = [read_finished(path, runs) for path in sorted(results.glob(wanted))]
    if not finished:
        raise DataError(f"{results}: no {wanted}; finish a seed with benchmarks/results.py")
    chosen = choose(finished)
    checkpoint = load_checkpoint(chosen.checkpoint)
    if differing := changed_settings(chosen.config, config_of(checkpoint.config), STUDENT):
        raise DataError(f"{chosen.checkpoint}: not the student of {config_file.name}'s results: {'; '.join(differing)}")
    checkpoint = replace(checkpoint, config=without_places(checkpoint.config))
    console = _Once()
    with tempfile.TemporaryDirectory() as scratch:
        config = load_config(None, {"data.root": data, "output": Path(scratch) / "output"})
        path = Path(scratch) / FILE
        save_half_precision(path, checkpoint)
        content = path.read_bytes()
        precisions = ["bf16", "fp32"] if has_bf16(resolve_device(config.device)) else ["fp32"]
        measured = [measure(chosen.checkpoint, path, config, precision, console) for precision in precisions]
        if found := [reason for each in measured for reason in objections(each, len(content))]:
            raise CheckpointError(f"{chosen.checkpoint}: not shipped: {'; '.join(dict.fromkeys(found))}")
        card = model_card(checkpoint, chosen, finished, config=config, measured=measured, content=content)
    write_atomically(folder / FILE, lambda file: file.write(content))
    write_atomically(folder / CARD, lambda file: file.write(card.encode()))
    return f"seed {chosen.seed} of {len(finished)}: {folder / FILE} ({len(content) / 1e6:.2f} MB) and {CARD}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/lite-long.yaml"), help="what the seeds were of")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="the finished seeds' JSON")
    parser.add_argument("--runs", type=Path, default=Path("output/results"), help="folder of {recipe}-seed{N}/")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the three datasets")
    parser.add_argument("--into", type=Path, default=shipped_student().parent, help="default: the package")
    given = parser.parse_args()
    try:
        print(ship(given.results, given.config, runs=given.runs, data=given.data, folder=given.into))
    except (OneheadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
