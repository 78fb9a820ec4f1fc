"""Training images per second of the student against the reference's way: at least twice as many in bf16.

Ours: images decoded once, one concatenated forward, channels last, bf16 where the processor has it. The reference's
way: every image decoded and resized by Pillow at each step, a forward and backward per task, fp32, default memory
format, torch's own convolutions, memory as the C library gives it, which is why it has a process of its own. Network,
layers, mini-batches, views and optimizer are the same; neither has teachers. Without bf16 the ratio is reported.

The comparison flatters the reference a little: its images are drawn at the input's size, where photographs are larger,
and it averages no weights.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from common import (
    BATCH_SIZE,
    Check,
    FixedLoader,
    Options,
    draw_data,
    finish,
    interleaved_minima,
    parse_options,
    student_loop,
    take_step,
    training_config,
)
from precision import restore_convolutions

from onehead_cli.config.sections import Config
from onehead_cli.data.batch import Batch
from onehead_cli.data.loader import TrainLoader
from onehead_cli.registry import TASKS
from onehead_cli.runtime.compute import has_bf16
from onehead_cli.training import setup

#: Of our time by the reference's, which is twice the images.
BOUND = 0.5


class OneTaskAtATime(FixedLoader):
    """The mini-batches of a loader one task after the other, each read when its turn comes, in default format."""

    def __init__(self, loader: TrainLoader) -> None:
        self.__dict__.update(loader.__dict__)
        self.loaders = []
        for task in TASKS:
            one = FixedLoader(loader, [])
            one.splits = {task: loader.splits[task]}
            self.loaders.append(one)

    def minibatch(self, position: int) -> Batch:
        place, turn = divmod(position, len(self.loaders))
        batch = TrainLoader.minibatch(self.loaders[turn], place)
        for part in batch.values():
            part.images = part.images.contiguous()
        return batch


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_data(root, train=(2 if options.quick else 6) * BATCH_SIZE, image_size=options.image_size)
        config = training_config(options, root)
        precisions = ["bf16", "fp32"] if has_bf16(torch.device(options.device)) else ["fp32"]
        variants = {f"ours, {precision}": our_step(config, precision) for precision in precisions}
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=reference, args=(there, config), daemon=True)
        process.start()
        there.close()
        here.recv()

        def step() -> None:
            here.send("step")
            here.recv()

        variants["the reference's way"] = step
        seconds = interleaved_minima(variants, rounds=options.rounds)
        here.send("end")
        process.join()
    images = len(TASKS) * BATCH_SIZE
    theirs = seconds["the reference's way"]
    checks = [
        Check(f"{precision}: our step / the reference's", seconds[f"ours, {precision}"] / theirs, bound)
        for precision, bound in zip(precisions, [BOUND, None] if len(precisions) == 2 else [None], strict=True)
    ]
    measured = {name: f"{images / value:.2f} images/s" for name, value in seconds.items()}
    return finish("the reference's way", options, measured=measured, column="Most", checks=checks, seconds=seconds)


def our_step(config: Config, precision: str) -> Callable[[], None]:
    model = config.model.model_copy(update={"precision": precision})
    loop = student_loop(config.model_copy(update={"model": model}))
    for position in range(loop.loader.batches_per_epoch()):
        loop.loader.minibatch(position)  # from now on all images are in memory
    return lambda: take_step(loop)


def reference(pipe: Connection, config: Config) -> None:
    """What the reference's process does: a step whenever it is asked for one."""
    setup.keep_freed_memory = lambda: None
    step = reference_step(config)
    pipe.send("ready")
    while pipe.recv() == "step":
        step()
        pipe.send("done")


def reference_step(config: Config) -> Callable[[], None]:
    updates: dict[str, Any] = {
        "model": config.model.model_copy(update={"precision": "fp32"}),
        "data": config.data.model_copy(update={"cache_mb": 0}),
        "student": config.student.model_copy(update={"buffer_size": len(TASKS)}),
    }
    loop: Any = student_loop(config.model_copy(update=updates))
    restore_convolutions(loop.objective.model)
    loop.objective.model.to(memory_format=torch.contiguous_format)
    loop.average = SimpleNamespace(update=lambda *_: None)
    loop.loader = OneTaskAtATime(loop.loader)
    return lambda: take_step(loop)


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=10)))
