"""One student against the three teachers run one after the other, batch 1 at 512 px: at most 0.40 of their time."""

from __future__ import annotations

import sys

from common import Check, Options, finish, milliseconds, parse_options

from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.profiling.profile import profile_network

BOUND = 0.40


def main(options: Options) -> int:
    config = Config.model_validate({"device": options.device})
    result = profile_network(
        config,
        checkpoint=None,
        image_size=options.image_size,
        batch_size=1,
        runs=options.rounds,
        reporter=Console(quiet=True),
    )
    assert result.teachers is not None and result.ratios is not None
    seconds = {
        f"student, {result.conditions.precision}": result.latency.min_ms / 1000,
        f"three teachers, {result.conditions.precision}": result.teachers.together.min_ms / 1000,
    }
    checks = [
        Check("student / three teachers", result.ratios["latency"], BOUND),
        Check("the same in multiply-adds", result.ratios["multiply_adds"]),
    ]
    return finish(
        "student against teachers",
        options,
        measured=milliseconds(seconds),
        checks=checks,
        seconds=seconds,
    )


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=50, image_size=512)))
