"""What reading and augmenting the images adds to a training step of the student: at most 15 %.

A step with the loader's mini-batches against the same step on one mini-batch held in memory. The bound is on decoded
images kept in memory, as they are from the second epoch on, at the input's side as at twice that with aspect jitter;
a first epoch, which decodes them, is reported, and so is what two threads save that decode the next mini-batches during
the step.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

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

from onehead_cli.data.loader import TrainLoader

BOUND = 1.15


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Larger than the input, so that there is something to keep.
        draw_data(root, train=6 * BATCH_SIZE, image_size=2 * options.image_size)
        config = training_config(options, root)
        loop = student_loop(config)

        def reading(**settings: Any) -> TrainLoader:
            data = config.data.model_copy(update=settings)
            return student_loop(config.model_copy(update={"data": data})).loader

        threaded = reading(cache_mb=0, workers=2)
        larger = reading(cache_scale=2.0, aspect=1.5)
        loaders = {
            "step, images from memory": loop.loader,
            "step, images from memory, kept at twice the side": larger,
            "step, images decoded": reading(cache_mb=0),
            "step, images decoded by two threads": threaded,
            "step on a fixed mini-batch": FixedLoader(loop.loader, [loop.loader.minibatch(0)]),
        }
        for position in range(loop.loader.batches_per_epoch()):
            loop.loader.minibatch(position)
            larger.minibatch(position)

        def step(name: str) -> None:
            loop.loader = loaders[name]
            take_step(loop)
            if loop.loader is threaded:
                threaded.wait()  # so that no other step has to share the cores with its threads

        seconds = interleaved_minima({name: lambda name=name: step(name) for name in loaders}, rounds=options.rounds)
    cached, twice, decoded, ahead, fixed = seconds.values()
    checks = [
        Check("from memory / fixed", cached / fixed, BOUND),
        Check("from memory, kept at twice the side / fixed", twice / fixed, BOUND),
        Check("decoded / fixed", decoded / fixed),
        Check("decoded by two threads / decoded", ahead / decoded),
    ]
    return finish("input pipeline", options, measured=milliseconds(seconds), checks=checks, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=20)))
