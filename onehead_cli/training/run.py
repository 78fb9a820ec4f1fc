"""One training from its config to its checkpoints: what teachers and student have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.networks import best_path, forget_run
from onehead_cli.config.sections import Config
from onehead_cli.data.listings import Listings
from onehead_cli.data.manifest import manifest_hash
from onehead_cli.data.scan.scan import Scan
from onehead_cli.errors import Interrupted
from onehead_cli.evaluation.validation import first_thresholds
from onehead_cli.events import EpochInfo, Reporter, StepInfo
from onehead_cli.registry import TASKS
from onehead_cli.runtime.compute import precision_name, processor_name
from onehead_cli.runtime.launch import is_main
from onehead_cli.runtime.processes import barrier, from_first, largest
from onehead_cli.runtime.random_state import restore_random_states
from onehead_cli.runtime.signals import StopRequest
from onehead_cli.runtime.version import commit
from onehead_cli.tasks.task import get_task
from onehead_cli.training.estimate import estimate_training
from onehead_cli.training.log import RunLog
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.resume import check_same_classes, continue_from, load_last
from onehead_cli.training.saves import Saver
from onehead_cli.training.setup import architecture_for, build_loop, scores_of
from onehead_cli.training.start import began_as_imagenet
from onehead_cli.wording import how_many


@dataclass(frozen=True)
class TrainingResult:
    """name: "cls", "seg", "det" or "all". scores: of the kept weights, on val. resumed_epoch: None for a new run.

    skipped: images left out, by task and split.
    """

    name: str
    tasks: tuple[str, ...]
    best: Path
    epoch: int
    scores: dict[str, float | None]
    resumed_epoch: int | None
    skipped: dict[str, dict[str, int]]


def train_network(
    name: str,
    tasks: tuple[str, ...],
    config: Config,
    *,
    teachers: Mapping[str, Checkpoint],
    resume: bool,
    supersedes: Sequence[str],
    scan: Scan,
    listings: Listings,
    reporter: Reporter,
) -> TrainingResult:
    """Train one network on train, choose the weights to keep, and write both files into the output folder.

    Args:
        name: of the checkpoints and the log.
        teachers: distilled from where `distill.lambda` is above 0, and the baseline of the choice on val.
        resume: go on from {name}_last.pth, or from {name}_previous.pth where that is damaged or missing.
        scan: of train and val. listings: of the run, without the bad images.
        supersedes: names of the networks that can no longer be resumed once this run begins.

    Raises:
        OneheadError: data, weights, checkpoint or loss cannot be used; Interrupted after a signal, state saved.
    """
    last = from_first(lambda: load_last(config, name, reporter)) if resume else None
    architecture = architecture_for(config, tasks, listings)
    if last is not None:
        check_same_classes(last, architecture)
    resumed = last is not None
    loop = build_loop(architecture, config, teachers=teachers, resumed=resumed, listings=listings, reporter=reporter)
    if unscored := teachers.keys() - scores_of(teachers):
        reporter.warn(
            f"{name}: the teacher of {', '.join(sorted(unscored))} has no score on val, so the best epoch is chosen by "
            "the mean score, not by the smallest gain over the teachers"
        )
    skipped = {task: splits for task, splits in scan.bad_counts().items() if task in tasks}
    for stale in supersedes if is_main() else ():
        forget_run(config.output, stale)
    if last is not None:
        continue_from(last, loop, config, teachers=teachers, reporter=reporter)
    merged = list(teachers.values()) if len(tasks) > 1 and config.student.from_teachers else []
    began_so = last.began_as_imagenet if last is not None else began_as_imagenet(architecture, config, merged)
    manifest, origin = manifest_hash(config, tasks), _origin(loop, began_so)
    saver = Saver(name, architecture, config, loop, scores_of(teachers), manifest, origin)
    if not loop.finished():
        _announce(name, loop, reporter)
        if last is not None:
            restore_random_states(last.training["random"], loop.loader.device)
        if is_main():
            _drive(loop, saver, last, skipped, reporter)
        else:
            _follow(name, loop)
    best = from_first(lambda: load_checkpoint(best_path(config.output, name)))
    return TrainingResult(
        name=name,
        tasks=tasks,
        best=best_path(config.output, name),
        epoch=best.epoch,
        scores=best.scores,
        resumed_epoch=last.epoch if last is not None else None,
        skipped=skipped,
    )


def _origin(loop: TrainingLoop, imagenet_classes: bool) -> dict[str, str | bool | None]:
    """What a network is trained with; see `Checkpoint.origin`."""
    return {
        "imagenet_classes": imagenet_classes,
        "precision": precision_name(loop.objective.precision),
        "processor": processor_name(loop.loader.device),
        "commit": commit(),
    }


def _drive(
    loop: TrainingLoop,
    saver: Saver,
    last: Checkpoint | None,
    skipped: dict[str, dict[str, int]],
    reporter: Reporter,
) -> None:
    """Run the loop: log every fact, save every epoch, and stop between two steps when a signal came."""
    name, output = saver.name, saver.config.output
    resumed_step = loop.state.step if last is not None else None
    thresholds = last.thresholds if last is not None else first_thresholds(saver.config)
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
                if saver.is_kept(info):
                    saver.save_best(thresholds, scores, info.epoch)
                reporter.note(_epoch_line(name, info, marks_best=loop.schedule.keep == "best"))
            else:
                advance(info.step, _step_detail(info))
            signal_number = _stops_here(stop, loop, info)
            if signal_number or isinstance(info, EpochInfo) or saver.is_due():
                log.sync()
                saver.save_last(thresholds, scores)
            if signal_number:
                barrier()  # no process says that the state was saved before it is
                raise _interrupted(name, loop, signal_number)
    if loop.state.step < loop.total_steps:
        reporter.note(f"{name}: no new best in {how_many(loop.schedule.patience, 'evaluation')}, stopped early")


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
        f"{name}: stopped at step {loop.state.step} of {loop.total_steps} and saved; continue with --resume",
        signal_number=signal_number,
    )


def _announce(name: str, loop: TrainingLoop, reporter: Reporter) -> None:
    device, precision = loop.loader.device, loop.objective.precision
    estimate = estimate_training(loop)
    images = sum(len(split) for split in loop.loader.splits.values())
    reporter.note(
        f"{name}: {how_many(images, 'image')}, {how_many(loop.total_steps - loop.state.step, 'step')} "
        f"on {device.type} in {precision_name(precision)}, "
        f"{how_many(torch.get_num_threads(), 'thread')}; "
        f"about {_duration(estimate.seconds)} and {estimate.memory_bytes / 1e9:.1f} GB"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _step_detail(info: StepInfo) -> str:
    losses = " ".join(f"{name} {info.losses[name]:.2f}" for name in info.weights if name in info.losses)
    return f"epoch {info.epoch} loss {losses}"


def _epoch_line(name: str, info: EpochInfo, *, marks_best: bool) -> str:
    if not info.scores:
        return f"{name}: epoch {info.epoch}/{info.total_epochs}"
    keys = [get_task(task).metric.key for task in TASKS if get_task(task).metric.key in info.scores]
    shown = {key: info.scores[key] for key in keys}
    scores = " ".join(f"{key} {value:.4f}" if value is not None else f"{key} –" for key, value in shown.items())
    return f"{name}: epoch {info.epoch}/{info.total_epochs} val {scores}{' (best)' if info.best and marks_best else ''}"
