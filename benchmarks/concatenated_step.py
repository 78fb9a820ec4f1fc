"""A training step with one concatenated forward against three forwards, one per task: at most 1.0 of its time in bf16.

The same student, the same three mini-batches and one optimizer step in both; without distillation. float32 is reported.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import (
    BATCH_SIZE,
    Check,
    FixedLoader,
    Options,
    draw_data,
    finish,
    interleaved_minima,
    milliseconds,
    parse_options,
    student_loop,
    take_step,
    training_config,
)

from onehead_cli.training.loop import TrainingLoop

BOUND = 1.0


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_data(root, train=3 * BATCH_SIZE, image_size=options.image_size)
        config = training_config(options, root)
        variants = {}
        for precision in ("bf16", "fp32"):
            model = config.model.model_copy(update={"precision": precision})
            loop = student_loop(config.model_copy(update={"model": model}))
            batch = loop.loader.minibatch(0)
            together = FixedLoader(loop.loader, [batch])
            # A buffer of three mini-batches, each with the images of one task.
            apart = FixedLoader(loop.loader, [{task: part} for task, part in batch.items()])
            variants[f"{precision}, concatenated"] = _step(loop, together, buffer_size=1)
            variants[f"{precision}, one per task"] = _step(loop, apart, buffer_size=len(batch))
        seconds = interleaved_minima(variants, rounds=options.rounds)
    bf16, bf16_apart, fp32, fp32_apart = seconds.values()
    checks = [
        Check("bf16: concatenated / one per task", bf16 / bf16_apart, BOUND),
        Check("fp32: concatenated / one per task", fp32 / fp32_apart),
    ]
    return finish("concatenated step", options, measured=milliseconds(seconds), checks=checks, seconds=seconds)


def _step(loop: TrainingLoop, loader: FixedLoader, *, buffer_size: int) -> Callable[[], None]:
    def run() -> None:
        loop.loader = loader
        loop.schedule = loop.schedule.model_copy(update={"buffer_size": buffer_size})
        take_step(loop)

    return run


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=15)))
