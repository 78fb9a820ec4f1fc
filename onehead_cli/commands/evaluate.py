"""onehead evaluate"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import Console, number, table
from onehead_cli.commands.seeds import Seeds, configs_of, of_seed
from onehead_cli.config.sections import Config
from onehead_cli.data.format import get_format
from onehead_cli.data.layout import SPLITS
from onehead_cli.errors import ConfigError
from onehead_cli.runtime.launch import is_main
from onehead_cli.suggestion import did_you_mean

if TYPE_CHECKING:
    from onehead_cli.evaluation.compare import EvaluateResult
    from onehead_cli.evaluation.compare_seeds import SeedsResult
    from onehead_cli.evaluation.drop_check import Drop


@o.configured("data.root", "output", "distill.teachers", "data.skip_bad", "device", "threads", "seed")
def evaluate(
    call: o.Call,
    *,
    task: Annotated[o.TaskChoice, typer.Option("--task", help="A task, or all tasks of the network.")] = o.ALL_TASKS,
    checkpoint: o.Checkpoint = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME[,NAME...]", help="Splits to measure on, pooled into one.")
    ] = "test",
    relative: Annotated[
        bool, typer.Option("--relative", help="Take the limit as a share of the baseline's score, not as absolute.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 10 if a drop was found, with 11 if inconclusive.")
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="CHECKPOINT_OR_FOLDER",
            help="Compare with this network, or with the teachers in this folder, else its student; repeatable.  "
            "[default: the teachers of --teachers]",
        ),
    ] = None,
    seeds: Seeds = None,
    report: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write report.html, which shows everything in charts and images."),
    ] = True,
) -> None:
    """Measure the network and its teachers; check what was lost.

    Both are measured on the same images. A drop is judged with a bootstrap interval: PASS, FAIL or INCONCLUSIVE.
    """
    splits = [name.strip() for name in split.split(",")]
    if not all(splits) or len(set(splits)) != len(splits):
        raise ConfigError(f"--split {split}: give different names, such as val,test")
    _refuse_misspelt(splits, call.config)
    if seeds is not None and checkpoint is not None:
        raise ConfigError("--seeds measures the student in each seed's folder: leave --checkpoint out")
    configs = {} if seeds is None else configs_of(seeds, call)
    if len(configs) == 1:
        raise ConfigError(f"--seeds {seeds}: a spread needs at least two seeds")
    from onehead_cli import engine
    from onehead_cli.evaluation.drop_check import exit_code

    def measure(config: Config, network: Path | None, others: Sequence[Path]) -> EvaluateResult:
        return engine.evaluate(
            config,
            checkpoint=network,
            tasks=None if task == o.ALL_TASKS else o.chosen_tasks(task, config),
            splits=splits,
            relative=relative,
            against=others,
            report=report,
            reporter=call.console,
        )

    if configs:
        found = _measure_seeds(configs, against or [], measure, call)
        raise typer.Exit(exit_code(found.all_drops, complete=found.complete, strict=strict))
    result = measure(call.config, checkpoint, against or [])
    if is_main():
        _show(result, call.console)
    raise typer.Exit(exit_code(result.drops, complete=result.complete, strict=strict))


def _measure_seeds(
    configs: Mapping[int, Config],
    against: Sequence[Path],
    measure: Callable[[Config, Path | None, Sequence[Path]], EvaluateResult],
    call: o.Call,
) -> SeedsResult:
    from onehead_cli.checkpoint.networks import STUDENT, best_path
    from onehead_cli.evaluation.compare_seeds import compare_seeds
    from onehead_cli.tasks.task import get_task

    results = {}
    for seed, config in configs.items():
        call.console.note(f"seed {seed}: {config.output}")
        others = [of_seed(path, seed) for path in against]
        results[seed] = measure(config, best_path(config.output, STUDENT), others)
        results[seed].measurer.forget()
    found = compare_seeds(results, call.config, against=against)
    tables = []
    for compared, drops in zip(found.document["over_seeds"], found.drops, strict=True):
        rows = [
            [
                get_task(drop.task).metric.label,
                # Three digits, so that a row has room in 80 columns.
                f"{drop.baseline:.3f} ±{drop.baseline_sd:.3f}",
                f"{drop.unified:.3f} ±{drop.unified_sd:.3f}",
                f"{drop.diff:+.3f} ±{drop.diff_sd:.3f}",
                f"{drop.low:+.3f}..{drop.high:+.3f}",
                drop.verdict,
            ]
            for drop in drops
        ]
        title = f"Mean of seeds {', '.join(map(str, configs))}, ± standard deviation"
        title += "" if compared["against"] is None else f", against {compared['against']}"
        header = ["", "Baseline", "Unified", "Diff.", "95% interval", "Verdict"]
        tables.append(table(title, header, rows))
    hints = [line for line in map(_what_would_decide, found.all_drops) if line]
    hints += [f"{get_task(drop.task).metric.label}: {drop.reason}." for drop in found.all_drops if drop.reason]
    call.console.result(found.document, *tables, *hints, f"Report: {found.file}, and one in the folder of each seed")
    return found


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

    document = result.document
    images = ", ".join(f"{count} {task}" for task, count in document["pictures"].items())
    where = f"{'+'.join(document['splits'])}: {images} images"
    limit = limit_in_words(result.drops) if result.drops else f"{100 * document['drop_limit']:g}%"
    header = ["", "Baseline", "Unified", "Diff.", f"<{limit} drop?", "95% interval", "Verdict"]
    tables: list[Any] = []
    for compared, comparison in zip(document["comparisons"], result.comparisons, strict=True):
        title = where if comparison.against is None else f"{where}, against {compared['against']}"
        tables.append(table(title, header, list(_rows(compared, document["unified"]))))
        if further := "; ".join(_further_scores(compared, document["unified"])):
            tables.append(f"{further}.")
        tables += [hint for hint in map(_what_would_decide, comparison.drops) if hint]
    files = "; ".join(str(path) for path in result.files if path.name in ("evaluate.json", "report.html"))
    console.result(document, *tables, f"Report: {files}")


def _rows(comparison: Mapping[str, Any], unified: Mapping[str, float | None]) -> Iterator[list[str]]:
    """A row per task of which a score is there."""
    from onehead_cli.tasks.task import get_task

    for name, drop in comparison["drop"].items():
        metric = get_task(name).metric
        before, after = comparison["scores"][metric.key], unified[metric.key]
        if before is None and after is None:
            continue
        compared = drop["verdict"] is not None
        yield [
            metric.label,
            number(before),
            number(after),
            number(drop["diff"], "+.4f"),
            ("yes" if drop["within_limit"] else "NO") if compared else "–",
            f"{drop['low']:+.3f}..{drop['high']:+.3f}" if compared else "–",
            drop["verdict"] or "–",
        ]


def _further_scores(comparison: Mapping[str, Any], unified: Mapping[str, float | None]) -> Iterator[str]:
    from onehead_cli.tasks.task import get_task

    for name in comparison["drop"]:
        for other in get_task(name).metrics[1:]:
            before, after = comparison["scores"][other.key], unified[other.key]
            if before is not None or after is not None:
                yield f"{other.label} {number(before)} -> {number(after)}"


def _what_would_decide(drop: Drop) -> str | None:
    from onehead_cli.tasks.task import get_task

    metric = get_task(drop.task).metric.label
    if drop.images_to_decide is None:
        return None
    return f"{metric}: about {drop.images_to_decide:,} images would decide it, if the difference stays the same."
