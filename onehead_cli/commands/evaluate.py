"""onehead evaluate"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import Console, number, table
from onehead_cli.errors import ConfigError
from onehead_cli.runtime.launch import is_main

if TYPE_CHECKING:
    from onehead_cli.evaluation.compare import EvaluateResult


class EvaluateTask(StrEnum):
    cls = "cls"
    seg = "seg"
    det = "det"
    all = "all"


def evaluate(
    task: Annotated[
        EvaluateTask, typer.Option("--task", help="A task, or all that the network does.")
    ] = EvaluateTask.all,
    checkpoint: o.Checkpoint = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME[,NAME...]", help="Splits, pooled into one.")] = "test",
    data: o.DataRoot = None,
    output: o.Output = None,
    teachers: o.Teachers = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="The limit is a share of the baseline's score, not absolute.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 10 where a drop was found, with 11 where it is open.")
    ] = False,
    skip_bad: o.SkipBad = None,
    device: o.Device = None,
    seed: o.Seed = None,
    show_config: o.ShowConfig = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure the network and its teachers; check what was lost.

    Both are measured on the same pictures. A drop is judged with a bootstrap interval: PASS, FAIL or INCONCLUSIVE.
    """
    console = Console(quiet=quiet, as_json=as_json)
    flags = {
        "data.root": data,
        "output": output,
        "distill.teachers": teachers,
        "data.skip_bad": skip_bad,
        "device": device,
        "seed": seed,
    }
    settings = o.build_config(config, assignments, flags)
    if show_config:
        o.show_config(settings, console)
        return
    splits = [name.strip() for name in split.split(",")]
    if not all(splits) or len(set(splits)) != len(splits):
        raise ConfigError(f"--split {split}: give different names, such as val,test")
    from onehead_cli import engine
    from onehead_cli.evaluation.drop_check import exit_code

    result = engine.evaluate(
        settings,
        checkpoint=checkpoint,
        tasks=None if task is EvaluateTask.all else o.chosen_tasks(task.value, settings),
        splits=splits,
        relative=relative,
        reporter=console,
    )
    if is_main():
        _show(result, console)
    raise typer.Exit(exit_code(result.drops, complete=result.complete, strict=strict))


def _show(result: EvaluateResult, console: Console) -> None:
    from onehead_cli.tasks.task import get_task

    document = result.document
    pictures = ", ".join(f"{count} {task}" for task, count in document["pictures"].items())
    where = f"{'+'.join(document['splits'])}: {pictures} pictures"
    limit = f"{100 * document['drop_limit']:g}%"
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
