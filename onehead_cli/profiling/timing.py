"""What a network takes: the time and the memory of a pass, and under what conditions they were found."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onehead_cli.events import Reporter
from onehead_cli.network.onehead import OneHead
from onehead_cli.runtime.compute import autocast
from onehead_cli.runtime.memory import peak_resident_bytes

WARMUP = 3


@dataclass(frozen=True)
class Latency:
    """Of one forward pass, image in memory to maps, in milliseconds."""

    min_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on. runs: timed passes; warmup: passes before them; batch: images in a pass."""

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
class Pass:
    """One forward pass of one network. device: that it is on."""

    run: Callable[[], object]
    device: torch.device

    @classmethod
    def of(cls, model: OneHead, images: Tensor, precision: torch.dtype) -> Pass:
        def run() -> None:
            with torch.inference_mode(), autocast(images.device, precision):
                model(images)

        return cls(run, images.device)

    def seconds(self) -> float:
        device = torch.get_device_module(self.device)
        device.synchronize()
        began = time.perf_counter()
        self.run()
        device.synchronize()
        return time.perf_counter() - began


def time_rounds(passes: Sequence[Pass], *, runs: int, reporter: Reporter) -> list[list[float]]:
    """Seconds by round and network. Networks take turns, so that a busy machine slows all of them alike."""
    for each in passes:
        for _ in range(WARMUP):
            each.seconds()
    rounds = []
    with reporter.track("timing", runs) as advance:
        for run in range(1, runs + 1):
            rounds.append([each.seconds() for each in passes])
            advance(run, f"{rounds[-1][0] * 1000:.0f} ms")
    return rounds


def latency_of(seconds: Sequence[float]) -> Latency:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return Latency(min(seconds) * 1000, float(p50), float(p95))


def measure_memory(one: Pass) -> Memory | None:
    """Peak memory of a pass of this network alone; None where the system does not tell."""
    if one.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(one.device)
        before = torch.cuda.memory_allocated(one.device)
        one.seconds()
        return Memory("cuda", torch.cuda.max_memory_allocated(one.device) / 1e6, before / 1e6)
    if sys.platform == "win32":
        return None
    before = peak_resident_bytes()
    one.seconds()
    return Memory("process", peak_resident_bytes() / 1e6, before / 1e6)
