"""One training from its config to its checkpoints: what teachers and student have in common."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onehead_cli.checkpoint import Checkpoint, Thresholds, best_path, last_path, load_checkpoint, save_checkpoint
from onehead_cli.config import Config
from onehead_cli.datasets.scan import Scan
from onehead_cli.errors import CheckpointError, Interrupted, OneheadError
from onehead_cli.model.onehead import Architecture
from onehead_cli.training.estimate import estimate_training
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.runlog import RunLog
from onehead_cli.training.setup import architecture_for, build_loop, scores_of
from onehead_cli.training.signals import StopRequest
from onehead_cli.types import MAIN_METRIC, TASKS, EpochInfo, Reporter, StepInfo, Task


@dataclass(frozen=True)
class TrainingResult:
    """name: "cls", "seg", "det" or "all". scores: of the best checkpoint, on val. resumed_epoch: None for a new run.

    skipped: pictures left out, by task and split.
    """

    name: str
    best: Path
    epoch: int
    scores: dict[str, float | None]
    resumed_epoch: int | None
    skipped: dict[str, dict[str, int]]


def train_network(
    name: str,
    tasks: tuple[Task, ...],
    config: Config,
    *,
    teachers: Mapping[Task, Checkpoint],
    resume: bool,
    supersedes: Sequence[str],
    scan: Scan,
    reporter: Reporter,
) -> TrainingResult:
    """Train one network on train, choose its best checkpoint on val, and write both files into the output folder.

    Args:
        name: of the checkpoints and the log.
        teachers: distilled from where `distill.lambda` is above 0, and the baseline of the choice on val.
        resume: go on from {name}_last.pth.
        scan: of train and val; its bad pictures are left out.
        supersedes: names of the networks whose _last files end with this run's beginning.

    Raises:
        OneheadError: data, weights, checkpoint or loss cannot be used; Interrupted after a signal, state saved.
    """
    _check_writable(config.output)
    last = _load_last(config, name) if resume else None
    architecture = architecture_for(config, tasks)
    if last is not None:
        _check_same_classes(last, architecture)
    # A resumed run has its weights in the checkpoint and needs none from elsewhere.
    pretrained = config.model.pretrained and last is None
    loop = build_loop(architecture, config, teachers=teachers, pretrained=pretrained, skip=scan.bad, reporter=reporter)
    skipped = {task: splits for task, splits in scan.bad_counts().items() if Task(task) in tasks}
    for stale in supersedes:
        last_path(config.output, stale).unlink(missing_ok=True)
    if last is not None:
        pictures = {task.value: len(split) for task, split in loop.loader.splits.items()}
        if last.training["pictures"] != pictures:
            raise CheckpointError(
                f"{last_path(config.output, name)} was trained on other data: {last.training['pictures']} pictures, "
                f"now {pictures}"
            )
        if last.training["teachers"] != scores_of(teachers):
            raise CheckpointError(
                f"{last_path(config.output, name)} was trained with other teachers: their scores on val were "
                f"{last.training['teachers']}, now {scores_of(teachers)}"
            )
        loop.load_state_dict(last.training, last.weights)
        reporter.note(f"{name}: resumed from epoch {last.epoch} (step {loop.state.step} of {loop.total_steps})")
    writer = _Writer(name, architecture, config, loop, scores_of(teachers))
    if not loop.finished():
        _announce(name, loop, reporter)
        _drive(loop, writer, last, skipped, reporter)
    best = load_checkpoint(best_path(config.output, name))
    return TrainingResult(
        name=name,
        best=best_path(config.output, name),
        epoch=best.epoch,
        scores=best.scores,
        resumed_epoch=last.epoch if last is not None else None,
        skipped=skipped,
    )


def _drive(
    loop: TrainingLoop,
    writer: _Writer,
    last: Checkpoint | None,
    skipped: dict[str, dict[str, int]],
    reporter: Reporter,
) -> None:
    """Run the loop: log every fact, save every epoch, and stop between two steps when a signal came."""
    name, output = writer.name, writer.config.output
    resumed_step = loop.state.step if last is not None else None
    thresholds = last.thresholds if last is not None else Thresholds(writer.config.model.cell_threshold, [])
    scores: dict[str, float | None] = last.scores if last is not None else {}
    with (
        RunLog(output, name, resumed_step=resumed_step) as log,
        StopRequest() as stop,
        reporter.track(name, loop.total_steps) as advance,
    ):
        if last is not None:
            log.resumed(epoch=last.epoch, step=loop.state.step)
        else:
            log.scanned(skipped)
        for info in loop.run():
            log.write(info)
            if isinstance(info, EpochInfo):
                if loop.validation is not None:
                    thresholds, scores = loop.validation.thresholds, loop.validation.scores
                for warning in info.warnings:
                    reporter.warn(warning)
                if info.best:
                    writer.save_best(thresholds, scores, info.epoch)
                writer.save_last(thresholds, scores)
                reporter.note(_epoch_line(name, info))
            else:
                advance(info.step, _step_detail(info))
            # The last step of an epoch is followed by its EpochInfo: the evaluation still belongs to the epoch.
            if stop.signal_number is not None and (isinstance(info, EpochInfo) or not loop.at_end_of_epoch()):
                writer.save_last(thresholds, scores)
                raise Interrupted(
                    f"{name}: stopped at step {loop.state.step} of {loop.total_steps} and saved; go on with --resume",
                    signal_number=stop.signal_number,
                )
    if loop.state.step < loop.total_steps:
        reporter.note(f"{name}: no new best in {loop.schedule.patience} evaluations, stopped early")


@dataclass
class _Writer:
    """Writes the two checkpoint files of a run."""

    name: str
    architecture: Architecture
    config: Config
    loop: TrainingLoop
    teachers: dict[str, float]

    def save_best(self, thresholds: Thresholds, scores: dict[str, float | None], epoch: int) -> None:
        save_checkpoint(best_path(self.config.output, self.name), self._checkpoint(thresholds, scores, epoch, {}))

    def save_last(self, thresholds: Thresholds, scores: dict[str, float | None]) -> None:
        epoch = self.loop.state.step // self.loop.steps_per_epoch
        training = {**self.loop.state_dict(), "teachers": self.teachers}
        state = self._checkpoint(thresholds, scores, epoch, training)
        save_checkpoint(last_path(self.config.output, self.name), state)

    def _checkpoint(
        self, thresholds: Thresholds, scores: dict[str, float | None], epoch: int, training: dict[str, Any]
    ) -> Checkpoint:
        preprocess = self.loop.objective.model.preprocess
        return Checkpoint(
            name=self.name,
            architecture=self.architecture,
            weights=self.loop.average.model.state_dict(),
            preprocess={
                "mean": list(preprocess.mean),
                "std": list(preprocess.std),
                "interpolation": preprocess.interpolation,
                "image_size": self.config.data.image_size,
                "fit": self.config.data.fit,
            },
            thresholds=thresholds,
            scores=scores,
            config=self.config.model_dump(mode="json", by_alias=True),
            epoch=epoch,
            seed=self.config.seed,
            training=training,
        )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OneheadError(
            f"output folder {folder} cannot be written ({error.strerror}); choose another with --output"
        ) from None


#: What may differ between a run and its continuation: where things are. Another device computes the same but for
#: rounding.
_FREE_KEYS = (
    "output",
    "device",
    "data.root",
    "data.det_",
    "data.seg_",
    "data.cls_root",
    "data.cache_mb",
    "data.skip_bad",
)


def _load_last(config: Config, name: str) -> Checkpoint:
    path = last_path(config.output, name)
    if not path.is_file():
        raise CheckpointError(f"{path}: nothing to resume; leave --resume out to start anew")
    last = load_checkpoint(path)
    if not last.training:
        raise CheckpointError(f"{path}: holds no training state (a _best file?); it cannot be resumed")
    mine = "student" if name == "all" else "teacher"
    ignored: tuple[str, ...] = (
        *_FREE_KEYS,
        "distill.teachers",
        "teacher." if mine == "student" else "student.",
    )
    if mine == "teacher":
        ignored = (*ignored, "distill.")
    # A key that is younger than the checkpoint had its default.
    before = _flat(Config().model_dump(mode="json", by_alias=True)) | _flat(last.config)
    now = _flat(config.model_dump(mode="json", by_alias=True))
    changed = [
        k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and not k.startswith(ignored)
    ]
    if changed:
        raise CheckpointError(
            f"{path} was trained with another config: "
            + ", ".join(f"{key} was {before.get(key)}, now {now.get(key)}" for key in changed)
        )
    return last


def _check_same_classes(last: Checkpoint, architecture: Architecture) -> None:
    for task, names in architecture.classes.items():
        before = list(last.architecture.classes[task])
        if before != list(names):
            raise CheckpointError(
                f"{last.name}_last.pth was trained on other {task} classes: {', '.join(before)}; "
                f"the data now has {', '.join(names)}"
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _announce(name: str, loop: TrainingLoop, reporter: Reporter) -> None:
    device, precision = loop.loader.device, loop.objective.precision
    estimate = estimate_training(loop)
    pictures = sum(len(split) for split in loop.loader.splits.values())
    reporter.note(
        f"{name}: {pictures} pictures, {loop.total_steps - loop.state.step} steps on {device.type} in "
        f"{'bf16' if precision is torch.bfloat16 else 'fp32'}, {torch.get_num_threads()} threads; "
        f"about {_duration(estimate.seconds)} and {estimate.memory_bytes / 1e9:.1f} GB"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _step_detail(info: StepInfo) -> str:
    losses = " ".join(f"{name} {info.losses[name]:.2f}" for name in info.weights if name in info.losses)
    return f"epoch {info.epoch} loss {losses}"


def _epoch_line(name: str, info: EpochInfo) -> str:
    if not info.scores:
        return f"{name}: epoch {info.epoch}/{info.total_epochs}"
    shown = {MAIN_METRIC[task]: info.scores.get(MAIN_METRIC[task]) for task in TASKS}
    scores = " ".join(f"{metric} {value:.4f}" for metric, value in shown.items() if value is not None)
    return f"{name}: epoch {info.epoch}/{info.total_epochs} val {scores}{' (best)' if info.best else ''}"
