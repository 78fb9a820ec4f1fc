"""onehead profile"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onehead_cli.commands import options as o
from onehead_cli.commands.console import Console, number, table
from onehead_cli.errors import ConfigError
from onehead_cli.runtime.launch import refuse_several
from onehead_cli.wording import how_many

if TYPE_CHECKING:
    from onehead_cli.profiling.counts import Count
    from onehead_cli.profiling.profile import Limit, ProfileResult
    from onehead_cli.profiling.timing import Latency


@o.configured(
    "output", "data.image_size", "model.backbone", "model.backbone_weights", "model.pretrained", "device", "threads"
)
def profile(
    call: o.Call,
    *,
    checkpoint: o.Checkpoint = None,
    runs: Annotated[
        int, typer.Option("--runs", min=1, help="Timed passes of each network; with fewer than 20 the p95 says little.")
    ] = 20,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per timed pass.")] = 1,
) -> None:
    """Count parameters and operations, measure speed and memory.

    Shows the network's figures beside its teachers'. A checkpoint is profiled at its own image size unless another is
    given. --config, --backbone, --backbone-weights, --no-pretrained and --set of data.tasks or of a model key (except
    its precision) describe a network: if one of them is given without --checkpoint, that network is profiled,
    untrained.
    """
    refuse_several("profile")
    if checkpoint is not None and any(key.startswith("model.") for key in call.flags):
        raise ConfigError("--checkpoint includes a backbone with its weights; leave the backbone options out")
    from onehead_cli import engine

    result = engine.profile(
        call.config,
        checkpoint=checkpoint,
        of_config=checkpoint is None and (call.file is not None or _describe_a_network({*call.assigned, *call.flags})),
        image_size=call.config.data.image_size if "data.image_size" in {*call.assigned, *call.flags} else None,
        batch_size=batch_size,
        runs=runs,
        reporter=call.console,
    )
    _show(result, call.console)


def _describe_a_network(keys: Collection[str]) -> bool:
    """Whether the keys that are set say what network it is, and not only how it runs."""
    section = {key for key in keys if key == "model" or key.startswith("model.")}
    return bool(section - {"model.precision"} or "data.tasks" in keys)


def _show(result: ProfileResult, console: Console) -> None:
    tables = [_totals(result), *_conditions(result), _stages(result)]
    if result.teachers is not None:
        tables.append(_teachers(result))
    tables.append(_limits(result))
    tables += [f"{limit.name.capitalize()}: {limit.note}." for limit in result.limits if limit.note]
    console.result(_document(result), *tables)


def _document(result: ProfileResult) -> dict[str, Any]:
    teachers = result.teachers
    return {
        "command": "profile",
        "backbone": result.backbone,
        "checkpoint": str(result.checkpoint) if result.checkpoint else None,
        "tasks": list(result.tasks),
        "classes": result.classes,
        "image_size": result.image_size,
        "exported": result.exported,
        **_count_document(result.count),
        "flops": result.count.flops,
        "torch_multiply_adds": result.torch_multiply_adds,
        "agreement": result.agreement,
        "stages": [{"name": name, **_count_document(count)} for name, count in result.stages.items()],
        "latency": {**asdict(result.latency), **asdict(result.conditions)},
        "peak_memory_mb": result.memory.peak_mb if result.memory else None,
        "memory": asdict(result.memory) if result.memory else None,
        "teachers": None
        if teachers is None
        else {
            "together": {**_count_document(teachers.count), "latency": asdict(teachers.together)},
            "each": {
                task: {**_count_document(count), "latency": asdict(teachers.latencies[task])}
                for task, count in teachers.counts.items()
            },
        },
        "ratio": {**result.ratios, "latency_of": "minima"} if result.ratios else None,
        "limits": [asdict(limit) for limit in result.limits],
    }


def _count_document(count: Count) -> dict[str, int]:
    return {
        "parameters": count.parameters,
        "multiply_adds": count.multiply_adds,
        "convolution_multiply_adds": count.convolutions,
        "norm_multiply_adds": count.norms,
        "other_multiply_adds": count.other,
    }


def _totals(result: ProfileResult) -> Any:
    count = result.count
    rows = [
        ["Parameters", _millions(count.parameters)],
        ["Multiply-adds, as thop counts them", _billions(count.multiply_adds)],
        ["  of convolutions and linear layers", _billions(count.convolutions)],
        [f"  the same by torch ({100 * result.agreement:.2f} % apart)", _billions(result.torch_multiply_adds)],
        ["  of norms, 4 operations per value", _billions(count.norms)],
        ["FLOPs, two per multiply-add", _billions(count.flops)],
        ["Latency p50", f"{result.latency.p50_ms:.1f} ms"],
        ["Latency p95", f"{result.latency.p95_ms:.1f} ms"],
    ]
    if result.memory is not None:
        rows += [
            [f"Peak memory of the {_SCOPES[result.memory.scope]}", f"{result.memory.peak_mb:.0f} MB"],
            ["  before the first pass", f"{result.memory.before_mb:.0f} MB"],
        ]
    what = "" if result.teachers else f", {'+'.join(result.tasks)} only"
    if result.exported is not None:
        what = f", exported in {result.exported},"
    return table(f"{result.backbone}{what} at {result.image_size} px", ["Cost", "Value"], rows)


_SCOPES = {"process": "whole process", "cuda": "tensors on the GPU"}


def _conditions(result: ProfileResult) -> tuple[str, str]:
    c = result.conditions
    threads = f", {how_many(c.threads, 'thread')}" if c.device == "cpu" else ""
    return (
        f"Counts are for one image. Latency and memory: {c.device} ({c.processor}),",
        f"{c.precision}{threads}, batch {c.batch}, {how_many(c.runs, 'run')} after {c.warmup} for warm-up.",
    )


#: How a stage is called where its name alone would mislead.
_STAGE = {"skip": "skip (not in the described network)"}


def _stages(result: ProfileResult) -> Any:
    rows = [
        [_STAGE.get(name, name), _millions(count.parameters), _billions(count.multiply_adds), _billions(count.norms)]
        for name, count in [*result.stages.items(), ("all", result.count)]
    ]
    return table("Stages", ["Stage", "Parameters", "Multiply-adds", "of norms"], rows)


def _teachers(result: ProfileResult) -> Any:
    assert result.teachers is not None and result.ratios is not None
    teachers, ratios = result.teachers, result.ratios
    together = how_many(len(teachers.counts), "teacher")
    rows = [
        _cost_row("student", result.count, result.latency),
        *(_cost_row(f"teacher {task}", teachers.counts[task], teachers.latencies[task]) for task in teachers.counts),
        _cost_row(together, teachers.count, teachers.together),
        ["student / teachers", *(number(ratios[key], ".3f") for key in ("parameters", "multiply_adds", "latency"))],
    ]
    return table(
        f"One student against {together}, one after the other",
        ["Network", "Parameters", "Multiply-adds", "Shortest pass"],
        rows,
    )


def _cost_row(name: str, count: Count, latency: Latency) -> list[str]:
    return [name, _millions(count.parameters), _billions(count.multiply_adds), f"{latency.min_ms:.1f} ms"]


def _limits(result: ProfileResult) -> Any:
    rows = [
        [limit.name, _quantity(limit, limit.limit), _quantity(limit, limit.value), _VERDICTS[limit.ok]]
        for limit in result.limits
    ]
    return table("Limits", ["Limit on", "Limit", "Found", "Verdict"], rows)


_VERDICTS = {True: "kept", False: "exceeded", None: "not decided"}


def _quantity(limit: Limit, value: float) -> str:
    return f"{value:.1f} {limit.unit}" if limit.unit else _millions(value)


def _millions(value: float) -> str:
    return f"{value / 1e6:.3f} M"


def _billions(value: float) -> str:
    return f"{value / 1e9:.4f} G"
