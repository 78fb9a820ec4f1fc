"""One training from its config to its checkpoints: what teachers and student have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onehead_cli.checkpoint import (
    Checkpoint,
    Thresholds,
    best_path,
    can_resume,
    forget_run,
    last_path,
    load_checkpoint,
    previous_path,
    save_checkpoint,
)
from onehead_cli.config import Config
from onehead_cli.datasets.manifest import manifest_hash
from onehead_cli.datasets.scan import Scan
from onehead_cli.errors import CheckpointError, DamagedCheckpointError, Interrupted
from onehead_cli.launch import is_main, world_size
from onehead_cli.model.onehead import Architecture
from onehead_cli.training.distributed import barrier, from_first, largest
from onehead_cli.training.estimate import estimate_training
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.random_state import random_states, restore_random_states
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
        resume: go on from {name}_last.pth, or from {name}_previous.pth where that is damaged or missing.
        scan: of train and val; its bad pictures are left out.
        supersedes: names of the networks that can no longer be resumed once this run begins.

    Raises:
        OneheadError: data, weights, checkpoint or loss cannot be used; Interrupted after a signal, state saved.
    """
    last = from_first(lambda: _load_last(config, name, reporter)) if resume else None
    architecture = architecture_for(config, tasks)
    if last is not None:
        _check_same_classes(last, architecture)
    # A resumed run has its weights in the checkpoint and needs none from elsewhere.
    pretrained = config.model.pretrained and last is None
    loop = build_loop(architecture, config, teachers=teachers, pretrained=pretrained, skip=scan.bad, reporter=reporter)
    skipped = {task: splits for task, splits in scan.bad_counts().items() if Task(task) in tasks}
    for stale in supersedes if is_main() else ():
        forget_run(config.output, stale)
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
        reporter.say(f"{name}: resumed from step {loop.state.step} of {loop.total_steps} (epoch {last.epoch})")
        _warn_of_other_threads(name, last, reporter)
        _check_best(config.output, name, loop, reporter)
    writer = _Writer(name, architecture, config, loop, scores_of(teachers), manifest_hash(config.data, tasks))
    if not loop.finished():
        _announce(name, loop, reporter)
        if last is not None:
            restore_random_states(last.training["random"], loop.loader.device)
        if is_main():
            _drive(loop, writer, last, skipped, reporter)
        else:
            _follow(name, loop)
    best = from_first(lambda: load_checkpoint(best_path(config.output, name)))
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
                reporter.note(_epoch_line(name, info))
            else:
                advance(info.step, _step_detail(info))
            signal_number = _stops_here(stop, loop, info)
            if signal_number or isinstance(info, EpochInfo) or writer.is_due():
                log.sync()
                writer.save_last(thresholds, scores)
            if signal_number:
                barrier()  # no process says that the state was saved before it is
                raise _interrupted(name, loop, signal_number)
    if loop.state.step < loop.total_steps:
        reporter.note(f"{name}: no new best in {loop.schedule.patience} evaluations, stopped early")


def _follow(name: str, loop: TrainingLoop) -> None:
    """What the processes after the first do: the same steps, without writing or saying anything."""
    with StopRequest() as stop:
        for info in loop.run():
            if signal_number := _stops_here(stop, loop, info):
                barrier()
                raise _interrupted(name, loop, signal_number)


def _stops_here(stop: StopRequest, loop: TrainingLoop, info: StepInfo | EpochInfo) -> int:
    """The number of the signal that ends the run after this step, or 0; the same in all processes, whichever got it."""
    signal_number = largest(stop.signal_number or 0)
    # The last step of an epoch is followed by its EpochInfo: the evaluation still belongs to the epoch.
    return signal_number if isinstance(info, EpochInfo) or not loop.at_end_of_epoch() else 0


def _interrupted(name: str, loop: TrainingLoop, signal_number: int) -> Interrupted:
    return Interrupted(
        f"{name}: stopped at step {loop.state.step} of {loop.total_steps} and saved; go on with --resume",
        signal_number=signal_number,
    )


@dataclass
class _Writer:
    """Writes the checkpoint files of a run: the best, the last, and the last but one."""

    name: str
    architecture: Architecture
    config: Config
    loop: TrainingLoop
    teachers: dict[str, float]
    manifest: str | None

    def is_due(self) -> bool:
        """Whether `save_every` asks for a save after this step; at the end of an epoch it waits for the evaluation."""
        every = self.loop.schedule.save_every
        return every > 0 and self.loop.state.step % every == 0 and not self.loop.at_end_of_epoch()

    def save_best(self, thresholds: Thresholds, scores: dict[str, float | None], epoch: int) -> None:
        save_checkpoint(best_path(self.config.output, self.name), self._checkpoint(thresholds, scores, epoch, {}))

    def save_last(self, thresholds: Thresholds, scores: dict[str, float | None]) -> None:
        epoch = self.loop.state.step // self.loop.steps_per_epoch
        training = {
            **self.loop.state_dict(),
            "teachers": self.teachers,
            "random": random_states(self.loop.loader.device),
            "threads": torch.get_num_threads(),
        }
        folder, state = self.config.output, self._checkpoint(thresholds, scores, epoch, training)
        save_checkpoint(last_path(folder, self.name), state, keep=previous_path(folder, self.name))

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
            data={"manifest": self.manifest},
        )


#: What may differ between a run and its continuation: where things are, and when to save. Another device computes the
#: same but for rounding, and so do deterministic operations.
_FREE_KEYS = (
    "output",
    "device",
    "deterministic",
    "distributed_timeout",
    "data.root",
    "data.det_",
    "data.seg_",
    "data.cls_root",
    "data.cache_mb",
    "data.skip_bad",
    "data.workers",
    "teacher.save_every",
    "student.save_every",
)


def _load_last(config: Config, name: str, reporter: Reporter) -> Checkpoint:
    path = last_path(config.output, name)
    if not can_resume(config.output, name):
        raise CheckpointError(f"{path}: nothing to resume; leave --resume out to start anew")
    last = _last_or_previous(config.output, name, reporter)
    if not last.training:
        raise CheckpointError(f"{path}: holds no training state (a _best file?); it cannot be resumed")
    processes = last.training.get("processes", 1)
    if processes != world_size():
        raise CheckpointError(
            f"{path} was trained in {processes} process(es), now there are {world_size()}: resume with {processes}, "
            "so that the result is that of a run never stopped"
        )
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


def _last_or_previous(folder: Path, name: str, reporter: Reporter) -> Checkpoint:
    """The last checkpoint; where it is damaged or missing, the one before, which then takes its place."""
    path, previous = last_path(folder, name), previous_path(folder, name)
    try:
        if path.is_file() or not previous.is_file():
            return load_checkpoint(path)
        problem = f"{path}: missing"
    except DamagedCheckpointError as error:
        problem = str(error)
        if not previous.is_file():
            raise
    try:
        last = load_checkpoint(previous)
    except DamagedCheckpointError as error:
        raise CheckpointError(f"{problem}; {error}; neither can be resumed, leave --resume out to start anew") from None
    reporter.warn(f"{problem}; going on from the one before, {previous.name}, of step {last.training.get('step')}")
    # The next save moves the last file to the place of the one before; a damaged one must not get there.
    previous.replace(path)
    return last


def _warn_of_other_threads(name: str, last: Checkpoint, reporter: Reporter) -> None:
    before, now = last.training["threads"], torch.get_num_threads()
    if before != now:
        reporter.warn(
            f"{name}: begun with {before} threads, resumed with {now}: the result will differ in the last bits from "
            f"that of a run never stopped (OMP_NUM_THREADS={before} avoids it)"
        )


def _check_best(folder: Path, name: str, loop: TrainingLoop, reporter: Reporter) -> None:
    """Where the best file was lost or damaged meanwhile, let the next evaluation write a new one."""
    if loop.state.best == float("-inf"):
        return
    problem = from_first(lambda: _problem_with(best_path(folder, name)))
    if problem is None:
        return
    if loop.finished():
        raise CheckpointError(problem)
    reporter.warn(f"{problem}; the next evaluation counts as the best so far")
    loop.state.best = float("-inf")


def _problem_with(path: Path) -> str | None:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return None


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
