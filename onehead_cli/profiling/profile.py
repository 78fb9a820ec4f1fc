"""What a network costs and takes, beside its teachers and the fixed limits."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from onehead_cli.checkpoint.exported import ExportedNetwork, load_network
from onehead_cli.config.sections import Config
from onehead_cli.data.geometry import Fit
from onehead_cli.errors import ConfigError
from onehead_cli.events import Reporter
from onehead_cli.network.backbone import resolve_skip
from onehead_cli.network.onehead import OneHead, build_pretrained
from onehead_cli.profiling.counts import Count, count_of_teacher, count_parts, count_with_torch, stages_of, total
from onehead_cli.profiling.timing import (
    WARMUP,
    Conditions,
    Latency,
    Memory,
    Pass,
    latency_of,
    measure_memory,
    time_rounds,
)
from onehead_cli.runtime.compute import (
    precision_name,
    processor_name,
    resolve_device,
    resolve_precision,
    threads_of_torch,
)
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import all_tasks, get_task

PARAMETER_LIMIT = 8_000_000

#: On a Tesla T4, for one image of this side.
LATENCY_LIMIT_MS = 150.0

LATENCY_LIMIT_SIZE = 512

#: Largest relative difference of the two counters that is not worth a warning.
AGREEMENT = 1e-3


@dataclass(frozen=True)
class Teachers:
    """The single-task networks that one student replaces. together: of one round, one after the other."""

    counts: dict[str, Count]
    latencies: dict[str, Latency]
    together: Latency

    @property
    def count(self) -> Count:
        return total(self.counts.values())


@dataclass(frozen=True)
class Limit:
    """A fixed limit and the value found. ok: None where the value does not decide it."""

    name: str
    limit: float
    unit: str
    value: float
    ok: bool | None
    note: str


@dataclass(frozen=True)
class ProfileResult:
    """The cost of a network.

    classes: number of classes per task.
    torch_multiply_adds: of convolutions, linear layers and other matrix products, by torch's own counter.
    teachers: None for a network that does one task only, and for an exported file.
    exported: the numbers of an exported file, whose latency is that of all up to the boxes and a mask of the input's
        size; None for a network of torch.
    """

    backbone: str
    checkpoint: Path | None
    tasks: tuple[str, ...]
    classes: dict[str, int]
    image_size: int
    stages: dict[str, Count]
    torch_multiply_adds: int
    latency: Latency
    conditions: Conditions
    memory: Memory | None
    teachers: Teachers | None
    exported: str | None = None

    @property
    def count(self) -> Count:
        return total(self.stages.values())

    @property
    def agreement(self) -> float:
        """Relative difference of thop's convolutions and linear layers from torch's count."""
        return abs(self.count.convolutions - self.torch_multiply_adds) / self.torch_multiply_adds

    @property
    def ratios(self) -> dict[str, float] | None:
        """The network against its teachers together; latency as the ratio of the shortest rounds."""
        if self.teachers is None:
            return None
        return {
            "parameters": self.count.parameters / self.teachers.count.parameters,
            "multiply_adds": self.count.multiply_adds / self.teachers.count.multiply_adds,
            "latency": self.latency.min_ms / self.teachers.together.min_ms,
        }

    @property
    def limits(self) -> list[Limit]:
        """The limits of the task; the latency decides only for one image of the limit's size."""
        decides = self.image_size == LATENCY_LIMIT_SIZE and self.conditions.batch == 1
        note = f"p50 of {self.conditions.batch} x {self.image_size} px on {self.conditions.processor}"
        if "T4" not in self.conditions.processor:
            note += "; the limit is for a Tesla T4, so this is indicative only"
        return [
            Limit(
                "parameters", PARAMETER_LIMIT, "", self.count.parameters, self.count.parameters < PARAMETER_LIMIT, ""
            ),
            Limit(
                "latency",
                LATENCY_LIMIT_MS,
                "ms",
                self.latency.p50_ms,
                self.latency.p50_ms <= LATENCY_LIMIT_MS if decides else None,
                note if decides else f"{note}; decided only at {LATENCY_LIMIT_SIZE} px and batch 1",
            ),
        ]


def profile_network(
    config: Config,
    *,
    checkpoint: Path | None,
    image_size: int | None,
    batch_size: int,
    runs: int,
    reporter: Reporter,
) -> ProfileResult:
    """Count and time a network and its teachers.

    Args:
        checkpoint: the network; None builds a new one of `config.model` with the reference's class counts.
        image_size: side in pixels; None is the checkpoint's own, or `data.image_size` without a checkpoint.
        batch_size: images in a timed pass; counts are always of one image.
        runs: timed rounds, in each of which the network and then every teacher run once.

    Raises:
        CheckpointError: the checkpoint or the backbone's weights cannot be used.
        ConfigError: the backbone or device cannot be used.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.model.precision, device)
    exported: ExportedNetwork | None = None
    if checkpoint is not None:
        stored = load_network(checkpoint, threads=config.threads or torch.get_num_threads())
        architecture, side = stored.architecture, image_size or int(stored.preprocess["image_size"])
        if isinstance(stored, ExportedNetwork):
            # Its weights are the file's; the layers, whose cost is counted, are those of its architecture.
            exported, model = stored, stored.untrained().eval()
            if side != stored.preprocess["image_size"]:
                raise ConfigError(f"{checkpoint}: an exported file takes only {stored.preprocess['image_size']} px")
        else:
            model = stored.model()
    else:
        architecture = _reference_architecture(config)
        model = build_pretrained(architecture, config.model).eval()
        side = image_size or config.data.image_size
        counts = ", ".join(f"{task} {get_task(task).reference_classes}" for task in architecture.tasks)
        reporter.note(f"no checkpoint: the class counts are the reference's ({counts})")
    model = _placed(model, device)
    images = torch.rand(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)

    with threads_of_torch(config.threads):
        if exported is not None:
            device = torch.device("cpu")
            passes = [_file_pass(exported, batch_size, side)]
        else:
            passes = [Pass.of(model, images, precision)]
        memory = measure_memory(passes[0])
        if exported is None and len(architecture.tasks) > 1:
            passes += [Pass.of(cut_to(model, task), images, precision) for task in architecture.tasks]
        rounds = time_rounds(passes, runs=runs, reporter=reporter)
        conditions = Conditions(
            device=device.type,
            processor=processor_name(device),
            precision=precision_name(precision) if exported is None else str(exported.exported["numbers"]),
            threads=torch.get_num_threads(),
            batch=batch_size,
            runs=runs,
            warmup=WARMUP,
        )
        parts = count_parts(model, side, precision)
        torch_multiply_adds = count_with_torch(model, side, precision)
    teachers, tasks = None, architecture.tasks
    if len(passes) > 1:
        teachers = Teachers(
            counts={task: count_of_teacher(parts, task) for task in tasks},
            latencies={task: latency_of([times[index] for times in rounds]) for index, task in enumerate(tasks, 1)},
            together=latency_of([sum(times[1:]) for times in rounds]),
        )
    result = ProfileResult(
        backbone=architecture.backbone,
        checkpoint=checkpoint,
        tasks=tasks,
        classes={task: len(names) for task, names in architecture.classes.items()},
        image_size=side,
        stages=stages_of(parts),
        torch_multiply_adds=torch_multiply_adds,
        latency=latency_of([times[0] for times in rounds]),
        conditions=conditions,
        memory=memory,
        teachers=teachers,
        exported=None if exported is None else str(exported.exported["numbers"]),
    )
    if result.agreement > AGREEMENT:
        reporter.warn(
            f"thop and torch differ by {result.agreement:.1%} on convolutions and linear layers: "
            f"{architecture.backbone} has layers that one of them does not know"
        )
    return result


def _file_pass(network: ExportedNetwork, batch_size: int, side: int) -> Pass:
    device, fit = torch.device("cpu"), Fit.of(side, side, side, "resize")
    images = torch.randint(0, 256, (batch_size, 3, side, side), generator=torch.Generator().manual_seed(0))
    runner = network.runner(device, torch.float32)
    return Pass(functools.partial(runner.run, images.to(torch.uint8), [fit] * batch_size), device)


def _reference_architecture(config: Config) -> Architecture:
    tasks = config.data.tasks
    return Architecture(
        backbone=config.model.backbone,
        classes={task: [f"class{i}" for i in range(get_task(task).reference_classes)] for task in tasks},
        tasks=tasks,
        skip=resolve_skip(config.model.backbone, config.model.skip),
        of_tasks={k: v for task in all_tasks(tasks) for k, v in task.of_config(config, None).items()},
    )


def cut_to(student: OneHead, task: str) -> OneHead:
    """The student cut down to one task: the same weights, its own neck and output only.

    The weights are a copy, as a teacher has its own: those of the student would lie in the processor's cache already.
    """
    teacher = copy.deepcopy(student)
    teacher.tasks = (task,)
    teacher.channels = {task: student.channels[task]}
    for modules in (teacher.necks, teacher.identity):
        for other in student.tasks:
            if other != task:
                del modules[other]
    return teacher


def _placed(model: OneHead, device: torch.device) -> OneHead:
    placed: OneHead = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
