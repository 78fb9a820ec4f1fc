"""One run in several processes: torch's process group, gloo between CPUs and NCCL between GPUs.

`session` opens it. All processes call the functions below in the same order; where there is one process, each of them
gives back what it got.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from onehead_cli.config.sections import Config
from onehead_cli.errors import ConfigError, DistributedError
from onehead_cli.runtime import launch
from onehead_cli.runtime.compute import resolve_device
from onehead_cli.runtime.launch import world_size

T = TypeVar("T")

#: One store serves all sessions of a process; each has names of its own in it.
_sessions = itertools.count()
#: Numbers in one message of `sum_gradients`.
_BUCKET = 4_000_000


@contextmanager
def session(config: Config) -> Iterator[None]:
    """Join the other processes of the run, and part from them at the end; does nothing where there is one process.

    What is raised inside is told to the user by one process alone: the first that failed.

    Raises:
        ConfigError: the launcher's environment variables or the device cannot be used.
        DistributedError: a process did not come, ended, or did not answer within `distributed_timeout`.
    """
    if world_size() == 1:
        yield
        return
    store = _join(config)
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):  # the last: a signal before or after the training
        launch.set_speaker(_is_first_to_fail(store))
        if dist.get_backend() == "gloo":  # tells the others at once; NCCL's would wait for them
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _join(config: Config) -> Any:
    from torch.distributed.rendezvous import rendezvous  # not there in a torch built without this part

    launch.set_speaker(None)
    device = resolve_device(config.device)
    if device.type == "mps":
        raise ConfigError("--device mps: runs in one process; several need --device cpu or NVIDIA GPUs")
    timeout = timedelta(seconds=config.distributed_timeout)
    try:
        with _one_line():
            store, rank, size = next(rendezvous("env://", timeout=timeout))
            store.set_timeout(timeout)
            store = dist.PrefixStore(f"session {next(_sessions)}", store)  # type: ignore[attr-defined]
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except ValueError as error:
        reason = str(error).removeprefix("Error initializing torch.distributed using env:// rendezvous: ")
        raise ConfigError(f"several processes need torchrun, whose environment is incomplete: {reason}") from None
    return store


def _is_first_to_fail(store: Any) -> bool:
    try:
        return int(store.add("failed", 1)) == 1
    except RuntimeError:  # the process that kept the store is gone
        return True


@contextmanager
def _one_line() -> Iterator[None]:
    """A failure of the network between the processes as an error of one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rsplit("] ", 1)[-1].split(". ")[0][:200]
        raise DistributedError(
            f"process {launch.rank()} of {world_size()} waited in vain for another, which ended, hangs or cannot be "
            f"reached ({reason}); see its messages; continue a training with --resume"
        ) from None


def sum_(tensor: Tensor) -> Tensor:
    """Add up a tensor over the processes, in place."""
    if world_size() > 1:
        with _one_line():
            dist.all_reduce(tensor)
    return tensor


def sum_parts(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums of scalars by name, detached; every process gives the same names."""
    if world_size() == 1 or not parts:
        return {name: part.detach() for name, part in parts.items()}
    return dict(zip(parts, sum_(torch.stack([part.detach() for part in parts.values()])).unbind(), strict=True))


def sum_number(value: float) -> float:
    return value if world_size() == 1 else float(sum_(torch.tensor(value, dtype=torch.float64, device=_device())))


def largest(value: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=_device())
    with _one_line():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def barrier() -> None:
    """Wait until every process has come here."""
    gather(None)


def gather(value: T) -> list[T]:
    """The value of each process, in their order; anything that can be pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _one_line():
        dist.all_gather_object(values, value)
    return values


def from_first(function: Callable[[], T]) -> T:
    """What `function` gives in the first process, which alone calls it; for all that is in the output folder."""
    if world_size() == 1:
        return function()
    box: list[Any] = [function() if launch.is_main() else None]
    with _one_line():
        dist.broadcast_object_list(box)
    value: T = box[0]
    return value


def merge(pieces: Iterable[tuple[int, T]]) -> list[T]:
    """All processes' pieces, sorted by their numbers, no two of which are the same."""
    numbered = [piece for part in gather(list(pieces)) for piece in part]
    return [piece for _, piece in sorted(numbered, key=lambda pair: pair[0])]


def check_same(value: object, what: str) -> None:
    """Raises: ConfigError: `value` is not the same in every process."""
    values = gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise ConfigError(
                f"{what} of process {number} differ from those of process 0: use the same command on the same data"
            )


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors of every process with those of the first."""
    if world_size() == 1:
        return
    with _one_line():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients over the processes, in a few large messages; all have gradients of the same parameters."""
    if world_size() > 1:
        _sum_in_buckets([p.grad for p in parameters if p.grad is not None])


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over the processes."""
    if world_size() > 1:
        _sum_in_buckets(tensors)
        for tensor in tensors:
            tensor /= world_size()


def _sum_in_buckets(tensors: Sequence[Tensor]) -> None:
    """Add up tensors of one type over the processes, in place, many in one message."""
    bucket, size = list[Tensor](), 0
    for index, tensor in enumerate(tensors, start=1):
        bucket.append(tensor)
        size += tensor.numel()
        if size < _BUCKET and index < len(tensors):
            continue
        flat = sum_(torch.cat([t.flatten() for t in bucket]))
        for one, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
            one.copy_(part.view(one.shape))
        bucket, size = [], 0


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
