"""What a network costs: parameters, multiply-adds, time and memory, beside the three teachers and the fixed limits.

Multiply-adds are thop's, norms counted, because the reference system's are; torch's own counter checks them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import thop
import torch
from thop.vision.basic_hooks import count_convNd, count_linear, count_normalization
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.sections import Config
from onehead_cli.events import Reporter
from onehead_cli.network.backbone import resolve_skip
from onehead_cli.network.onehead import OneHead, build_model, build_pretrained
from onehead_cli.runtime.compute import autocast, precision_name, processor_name, resolve_device, resolve_precision
from onehead_cli.runtime.memory import peak_resident_bytes
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import all_tasks, get_task

PARAMETER_LIMIT = 8_000_000

#: On a Tesla T4, for one picture of this side.
LATENCY_LIMIT_MS = 150.0

LATENCY_LIMIT_SIZE = 512

#: Largest relative difference of the two counters that is not worth a warning.
AGREEMENT = 1e-3

WARMUP = 3

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)

_RULES: tuple[tuple[Any, Any], ...] = (
    (_ConvNd, count_convNd),
    (nn.Linear, count_linear),
    (_NORMS, count_normalization),
)


@dataclass(frozen=True)
class Count:
    """The cost of one picture, as thop counts it.

    convolutions: multiply-adds of convolutions and linear layers, without biases.
    norms: 4 operations a value (subtract, divide, multiply, add).
    other: operations of all else that thop knows, such as pooling.
    """

    parameters: int
    convolutions: int
    norms: int
    other: int

    @property
    def multiply_adds(self) -> int:
        """The sum that thop prints: operations of norms stand in it beside true multiply-adds."""
        return self.convolutions + self.norms + self.other

    @property
    def flops(self) -> int:
        """Floating point operations: two a multiply-add; those of norms and the rest are single ones already."""
        return 2 * self.convolutions + self.norms + self.other

    def __add__(self, more: Count) -> Count:
        return Count(
            self.parameters + more.parameters,
            self.convolutions + more.convolutions,
            self.norms + more.norms,
            self.other + more.other,
        )


@dataclass(frozen=True)
class Latency:
    """Of one forward pass, picture in memory to maps, in milliseconds."""

    min_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on. runs: timed passes; warmup: passes before them; batch: pictures in a pass."""

    device: str
    processor: str
    precision: str
    threads: int
    batch: int
    runs: int
    warmup: int


@dataclass(frozen=True)
class Memory:
    """Peak memory in MB (1e6 bytes).

    scope: "cuda" (tensors on the device while this network alone runs), or "process" (the resident set of this whole
        process from its start to the end of the network's first pass, Python and libraries included).
    before_mb: the memory, or for a process its peak so far, before that pass.
    """

    scope: str
    peak_mb: float
    before_mb: float


@dataclass(frozen=True)
class Teachers:
    """The single-task networks that one student replaces. together: of one round, one after the other."""

    counts: dict[str, Count]
    latencies: dict[str, Latency]
    together: Latency

    @property
    def count(self) -> Count:
        return _total(self.counts.values())


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

    classes: number of classes a task.
    torch_multiply_adds: of convolutions, linear layers and other matrix products, by torch's own counter.
    teachers: None for a network that does one task only.
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

    @property
    def count(self) -> Count:
        return _total(self.stages.values())

    @property
    def agreement(self) -> float:
        """Relative difference of thop's convolutions and linear layers from torch's count."""
        return abs(self.count.convolutions - self.torch_multiply_adds) / self.torch_multiply_adds

    @property
    def ratios(self) -> dict[str, float] | None:
        """The network against the three teachers together; latency as the ratio of the shortest rounds."""
        if self.teachers is None:
            return None
        return {
            "parameters": self.count.parameters / self.teachers.count.parameters,
            "multiply_adds": self.count.multiply_adds / self.teachers.count.multiply_adds,
            "latency": self.latency.min_ms / self.teachers.together.min_ms,
        }

    @property
    def limits(self) -> list[Limit]:
        """The limits of the task; the latency decides only for one picture of the limit's size."""
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
                note if decides else f"{note}; decided only with --image-size {LATENCY_LIMIT_SIZE} --batch-size 1",
            ),
        ]


def profile_network(
    config: Config,
    *,
    checkpoint: Path | None,
    image_size: int | None,
    batch_size: int,
    runs: int,
    threads: int | None,
    reporter: Reporter,
) -> ProfileResult:
    """Count and time a network and its teachers.

    Args:
        checkpoint: the network; None builds a new one of `config.model` with the reference's class counts.
        image_size: side in pixels; None is the checkpoint's own, or `data.image_size` without a checkpoint.
        batch_size: pictures in a timed pass; counts are always of one picture.
        runs: timed rounds, in each of which the network and then every teacher run once.
        threads: of torch on the CPU; None leaves torch's choice.

    Raises:
        CheckpointError: the checkpoint or the backbone's weights cannot be used.
        ConfigError: the backbone or device cannot be used.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.model.precision, device)
    if checkpoint is not None:
        stored = load_checkpoint(checkpoint)
        architecture, model = stored.architecture, stored.model()
        side = image_size or int(stored.preprocess["image_size"])
    else:
        architecture = _reference_architecture(config)
        model = build_pretrained(architecture, config.model).eval()
        side = image_size or config.data.image_size
        counts = ", ".join(f"{task} {get_task(task).reference_classes}" for task in architecture.tasks)
        reporter.note(f"no checkpoint: the class counts are the reference's ({counts})")
    model = _placed(model, device)
    images = torch.rand(batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)

    with _threads(threads):
        memory = _measure_memory(model, images, precision)
        networks = [model]
        if len(architecture.tasks) > 1:
            networks += [_placed(_teacher(model, architecture, task), device) for task in architecture.tasks]
        rounds = _time_rounds(networks, images, precision, runs=runs, reporter=reporter)
        conditions = Conditions(
            device=device.type,
            processor=processor_name(device),
            precision=precision_name(precision),
            threads=torch.get_num_threads(),
            batch=batch_size,
            runs=runs,
            warmup=WARMUP,
        )
        stages = [count_stages(network, side) for network in networks]
        torch_multiply_adds = count_with_torch(model, side)
    teachers, tasks = None, architecture.tasks
    if len(networks) > 1:
        teachers = Teachers(
            counts={task: _total(parts.values()) for task, parts in zip(tasks, stages[1:], strict=True)},
            latencies={task: _latency([times[index] for times in rounds]) for index, task in enumerate(tasks, 1)},
            together=_latency([sum(times[1:]) for times in rounds]),
        )
    result = ProfileResult(
        backbone=architecture.backbone,
        checkpoint=checkpoint,
        tasks=tasks,
        classes={task: len(names) for task, names in architecture.classes.items()},
        image_size=side,
        stages=stages[0],
        torch_multiply_adds=torch_multiply_adds,
        latency=_latency([times[0] for times in rounds]),
        conditions=conditions,
        memory=memory,
        teachers=teachers,
    )
    if result.agreement > AGREEMENT:
        reporter.warn(
            f"thop and torch differ by {result.agreement:.1%} on convolutions and linear layers: "
            f"{architecture.backbone} has layers that one of them does not know"
        )
    return result


def count_stages(model: OneHead, image_size: int) -> dict[str, Count]:
    """The cost of each part of the network for one picture, by thop; the parts add up to the whole.

    Keys: backbone, upsample, skip where there is one, necks.cls, necks.seg, necks.det, head, identity.
    """
    # thop leaves buffers behind in modules that it has no rule for.
    model = copy.deepcopy(model).cpu().eval()
    # thop looks a layer up by its exact type: without a rule it counts a subclass as nothing.
    rules = {
        kind: rule for kind in {type(m) for m in model.modules()} for base, rule in _RULES if issubclass(kind, base)
    }
    picture = torch.zeros(1, 3, image_size, image_size)
    *_, tree = thop.profile(model, (picture,), custom_ops=rules, verbose=False, ret_layer_info=True)
    stages: dict[str, Count] = {}
    for name, child in model.named_children():
        below = tree[name][2]
        if name == "necks":
            for task, neck in child.named_children():
                stages[f"{name}.{task}"] = _count(neck, below[task][2])
        else:
            stages[name] = _count(child, below)
    return stages


def count_with_torch(model: OneHead, image_size: int) -> int:
    """Multiply-adds of one picture by torch's own counter, which leaves norms and biases out."""
    picture = torch.zeros(1, 3, image_size, image_size, device=model.mean.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(picture)
    return int(counter.get_total_flops()) // 2


def _count(module: nn.Module, tree: Mapping[str, Any]) -> Count:
    # thop's own parameters leave out those of layers it does not know.
    count = Count(sum(p.numel() for p in module.parameters()), 0, 0, 0)
    for leaf, operations in _leaves(module, tree):
        if isinstance(leaf, (_ConvNd, nn.Linear)):
            count += Count(0, operations, 0, 0)
        elif isinstance(leaf, _NORMS):
            count += Count(0, 0, operations, 0)
        else:
            count += Count(0, 0, 0, operations)
    return count


def _leaves(module: nn.Module, tree: Mapping[str, Any]) -> Iterator[tuple[nn.Module, int]]:
    """The modules that thop counted as one, with their operations; `tree` is thop's {child: (operations, _, tree)}."""
    for name, (operations, _, below) in tree.items():
        child = module.get_submodule(name)
        if below:
            yield from _leaves(child, below)
        else:
            yield child, int(operations)


def _total(counts: Iterable[Count]) -> Count:
    return sum(counts, Count(0, 0, 0, 0))


def _reference_architecture(config: Config) -> Architecture:
    tasks = config.data.tasks
    return Architecture(
        backbone=config.model.backbone,
        classes={task: [f"class{i}" for i in range(get_task(task).reference_classes)] for task in tasks},
        tasks=tasks,
        skip=resolve_skip(config.model.backbone, config.model.skip),
        of_tasks={k: v for task in all_tasks(tasks) for k, v in task.of_config(config, None).items()},
    )


def _teacher(student: OneHead, architecture: Architecture, task: str) -> OneHead:
    """The student cut down to one task: same weights, its own neck and output only."""
    teacher = build_model(dataclasses.replace(architecture, tasks=(task,)))
    weights = student.state_dict()
    teacher.load_state_dict({key: weights[key] for key in teacher.state_dict()})
    return teacher.eval()


def _placed(model: OneHead, device: torch.device) -> OneHead:
    placed: OneHead = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _forward(model: OneHead, images: Tensor, precision: torch.dtype) -> float:
    """Seconds of one pass."""
    device = torch.get_device_module(images.device)
    device.synchronize()
    began = time.perf_counter()
    with torch.inference_mode(), autocast(images.device, precision):
        model(images)
    device.synchronize()
    return time.perf_counter() - began


def _time_rounds(
    networks: Sequence[OneHead], images: Tensor, precision: torch.dtype, *, runs: int, reporter: Reporter
) -> list[list[float]]:
    """Seconds by round and network. Networks take turns, so that a busy machine slows all of them alike."""
    for network in networks:
        for _ in range(WARMUP):
            _forward(network, images, precision)
    rounds = []
    with reporter.track("timing", runs) as advance:
        for run in range(1, runs + 1):
            rounds.append([_forward(network, images, precision) for network in networks])
            advance(run, f"{rounds[-1][0] * 1000:.0f} ms")
    return rounds


def _latency(seconds: Sequence[float]) -> Latency:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return Latency(min(seconds) * 1000, float(p50), float(p95))


def _measure_memory(model: OneHead, images: Tensor, precision: torch.dtype) -> Memory | None:
    """Peak memory of a pass of this network alone; None where the system does not tell."""
    if images.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(images.device)
        before = torch.cuda.memory_allocated(images.device)
        _forward(model, images, precision)
        return Memory("cuda", torch.cuda.max_memory_allocated(images.device) / 1e6, before / 1e6)
    if sys.platform == "win32":
        return None
    before = peak_resident_bytes()
    _forward(model, images, precision)
    return Memory("process", peak_resident_bytes() / 1e6, before / 1e6)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
