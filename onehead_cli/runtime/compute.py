"""Where the network runs and in which numbers."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from onehead_cli.config.sections import Precision
from onehead_cli.errors import ConfigError
from onehead_cli.events import Reporter
from onehead_cli.runtime.launch import local_rank, local_world_size, world_size


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a GPU, else the CPU; each process of a distributed run has a GPU of its own.

    Raises:
        ConfigError: the device is not on this machine, or not once for each process, or cannot compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        there = ", ".join(key for key, ok in available.items() if ok)
        raise ConfigError(f"--device {name}: not available on this machine; available: {there}")
    device = torch.device(name)
    if name == "cuda":
        if world_size() > 1:
            if local_world_size() > torch.cuda.device_count():
                raise ConfigError(
                    f"{local_world_size()} processes on a machine with {torch.cuda.device_count()} GPU(s): "
                    "start one per GPU, or use --device cpu"
                )
            device = torch.device(name, local_rank())
        _try_gpu(device)
    return device


def _try_gpu(device: torch.device) -> None:
    """Compute one number: torch calls a GPU available that it has no kernels for, or that others have filled."""
    try:
        torch.ones(1, device=device).add_(1)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device cuda: the GPU cannot be used ({reason}); use --device cpu") from None


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor computes in it (by its features, never by a timing), else float32."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "auto" and has_bf16(device):
        return torch.bfloat16
    return torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether the processor has matrix instructions for bfloat16 (AMX or AVX512-BF16; NVIDIA from Ampere on)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False


def warn_of_emulation(precision: Precision, device: str, reporter: Reporter) -> None:
    """Say so where bf16 is asked for and the CPU can only emulate it.

    Raises:
        ConfigError: see `resolve_device`.
    """
    if precision == "bf16" and (found := resolve_device(device)).type == "cpu" and not has_bf16(found):
        reporter.warn(
            "model.precision=bf16: this processor has no instructions for bf16, so training is slow; "
            "--set model.precision=auto uses fp32 here, with slightly different scores"
        )


def precision_name(precision: torch.dtype) -> str:
    return "bf16" if precision is torch.bfloat16 else "fp32"


def processor_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's as the system gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """While the context is open, an operation that may give other bits the next time is a RuntimeError."""
    if not wanted:
        yield
        return
    # cuBLAS reads this when it starts, that is with the process's first matrix product on the GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """bfloat16 autocast, or nothing for float32."""
    with torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16):
        yield


@contextlib.contextmanager
def threads_of_torch(count: int | None) -> Iterator[None]:
    """While the context is open, torch has so many threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
