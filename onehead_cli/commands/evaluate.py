"""onehead evaluate"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import Console, number, table
from onehead_cli.config.sections import Config
from onehead_cli.data.format import get_format
from onehead_cli.data.layout import SPLITS
from onehead_cli.errors import ConfigError
from onehead_cli.runtime.launch import is_main
from onehead_cli.suggestion import did_you_mean

if TYPE_CHECKING:
    from onehead_cli.evaluation.compare import EvaluateResult


@o.configured("data.root", "output", "distill.teachers", "data.skip_bad", "device", "threads", "seed")
def evaluate(
    call: o.Call,
    *,
    task: Annotated[o.TaskChoice, typer.Option("--task", help="A task, or all that the network does.")] = o.ALL_TASKS,
    checkpoint: o.Checkpoint = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME[,NAME...]", help="Splits, pooled into one.")] = "test",
    relative: Annotated[
        bool, typer.Option("--relative", help="The limit is a share of the baseline's score, not absolute.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 10 where a drop was found, with 11 where it is open.")
    ] = False,
) -> None:
    """Measure the network and its teachers; check what was lost.

    Both are measured on the same images. A drop is judged with a bootstrap interval: PASS, FAIL or INCONCLUSIVE.
    """
    splits = [name.strip() for name in split.split(",")]
    if not all(splits) or len(set(splits)) != len(splits):
        raise ConfigError(f"--split {split}: give different names, such as val,test")
    _refuse_misspelt(splits, call.config)
    from onehead_cli import engine
    from onehead_cli.evaluation.drop_check import exit_code

    result = engine.evaluate(
        call.config,
        checkpoint=checkpoint,
        tasks=None if task == o.ALL_TASKS else o.chosen_tasks(task, call.config),
        splits=splits,
        relative=relative,
        reporter=call.console,
    )
    if is_main():
        _show(result, call.console)
    raise typer.Exit(exit_code(result.drops, complete=result.complete, strict=strict))


def _refuse_misspelt(splits: Sequence[str], config: Config) -> None:
    """Raises: ConfigError: a split is not there, and one of nearly that name is."""

    def is_there(split: str) -> bool:
        return any(get_format(task).is_there(config, split) for task in config.data.tasks)

    usual = dict.fromkeys((config.data.train_split, config.data.val_split, *SPLITS))
    known = [name for name in usual if is_there(name)]
    for name in splits:
        if name not in known and (meant := did_you_mean(name, known)) and not is_there(name):
            raise ConfigError(f"--split {name}: no such split{meant}")


def _show(result: EvaluateResult, console: Console) -> None:
    from onehead_cli.evaluation.report import limit_in_words
    from onehead_cli.tasks.task import get_task

    document = result.document
    images = ", ".join(f"{count} {task}" for task, count in document["pictures"].items())
    where = f"{'+'.join(document['splits'])}: {images} images"
    limit = limit_in_words(result.drops) if result.drops else f"{100 * document['drop_limit']:g}%"
    rows, extra = [], []
    for name, drop in document["drop"].items():
        metric, *others = get_task(name).metrics
        for other in others:
            before, after = document["baseline"][other.key], document["unified"][other.key]
            if before is not None or after is not None:
                extra.append(f"{other.label} {number(before)} -> {number(after)}")
        before, after = document["baseline"][metric.key], document["unified"][metric.key]
        if before is None and after is None:
            continue
        compared = drop["verdict"] is not None
        rows.append(
            [
                metric.label,
                number(before),
                number(after),
                number(drop["diff"], "+.4f"),
                ("yes" if drop["within_limit"] else "NO") if compared else "–",
                f"{drop['low']:+.3f}..{drop['high']:+.3f}" if compared else "–",
                drop["verdict"] or "–",
            ]
        )
    header = ["", "Baseline", "Unified", "Diff.", f"<{limit} drop?", "95% interval", "Verdict"]
    footer = "; ".join(extra) + f". Report: {result.files[0]}" if extra else f"Report: {result.files[0]}"
    console.result(document, table(where, header, rows), footer)
