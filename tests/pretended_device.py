"""A pretended GPU: computes on the CPU and refuses what a GPU would refuse, above all tensors of two devices at once.

A tensor "on" it wraps the CPU's tensor with the numbers. To torch's C++ it is a tensor on the device `meta`, the one
that needs no hardware for autograd; to the program its device is `cuda:0`. Not seen: the speed, the memory, the
rounding and the kernels of a real GPU, and threads that read ahead (`data.workers`).
"""

from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

aten = torch.ops.aten
_META = torch.device("meta")

#: What the pretended GPU says of its memory.
PEAK_BYTES = 2_000_000
#: What may read one device and write another.
_CROSSES = (aten.copy_, aten._to_copy)
#: Whose second argument may be indices on the CPU.
_INDEXES = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
#: What CUDA autocast runs in its type; the network has nothing else of the list.
_IN_BF16 = (torch.conv2d, torch.nn.functional.linear, torch.matmul, torch.bmm, torch.baddbmm)
#: What has no deterministic kernel for CUDA, of all that a backbone or a loss may have; `_compute` knows one more.
_NOT_DETERMINISTIC = (
    aten.upsample_bilinear2d_backward,
    aten.grid_sampler_2d_backward,
    aten._adaptive_avg_pool2d_backward,
    aten.reflection_pad2d_backward,
)


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended device; `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta"
        )

    def __init__(self, inner):
        self.inner = inner.detach()

    device = property(lambda self: torch.device("cuda", 0))
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def tolist(self):
        return self.inner.tolist()

    def __repr__(self):
        return f"DeviceTensor({self.inner})"

    def __deepcopy__(self, memo):
        copy = DeviceTensor(self.inner.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy._is_param = True
        return memo.setdefault(id(self), copy)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Sends what the program wants on `cuda` to `meta`, and casts as CUDA's autocast does."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.device:
            return function(*args, **kwargs)
        args, kwargs = tree_map(_meta, (args, kwargs))
        # These would make a tensor of no numbers without asking the modes.
        if function is torch.Tensor.__getitem__ and isinstance(args[0], DeviceTensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(each) if isinstance(each, list) else each for each in index)
            return function(args[0], index)
        if function is torch.tensor and kwargs.get("device") == _META:
            return function(*args, **{**kwargs, "device": "cpu"}).to(_META)
        if function is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(*args[1:], dtype=args[0].dtype, **kwargs).to(_META)
        if function in _IN_BF16 and torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            cast = lambda t: t.to(dtype) if t.dtype is torch.float32 else t  # noqa: E731
            args, kwargs = tree_map_only(DeviceTensor, cast, (args, kwargs))
        return function(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


def _meta(value):
    cuda = isinstance(value, torch.device) and value.type == "cuda"
    return _META if cuda or (isinstance(value, str) and value.startswith("cuda")) else value


def _compute(function, args, kwargs):
    """Run an operation on the CPU, after the checks of a GPU."""
    packet, given = function.overloadpacket, tree_leaves((args, kwargs))
    mine = [each for each in given if isinstance(each, DeviceTensor)]
    wanted = kwargs.get("device")
    here = bool(mine) if wanted is None else torch.device(wanted).type != "cpu"
    assert not any(type(each) is torch.Tensor and each.is_meta for each in given), f"{function}: numbers were lost"
    if mine:
        _check_devices(function, packet, args, kwargs)
    if here:
        if any(isinstance(each, torch.Generator) and each.device.type == "cpu" for each in given):
            raise RuntimeError(f"{function}: expected a 'cuda' device type for generator but found 'cpu'")
        if torch.are_deterministic_algorithms_enabled() and (
            packet in _NOT_DETERMINISTIC or (packet is aten.nll_loss2d_forward and args[3] != 0)
        ):
            raise RuntimeError(f"{packet} does not have a deterministic implementation")
        if packet in (aten.index_put, aten.index_put_) and not torch.are_deterministic_algorithms_enabled():
            _check_written_once(*args)
    if wanted is not None:
        kwargs = {**kwargs, "device": "cpu"}
    result = function(*tree_map_only(DeviceTensor, _inner, args), **tree_map_only(DeviceTensor, _inner, kwargs))
    # An operation in place gives back the very tensor that it got.
    known = {id(each.inner): each for each in mine}
    if not here:
        return result
    return tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else DeviceTensor(t), result)


def _check_devices(function, packet, args, kwargs):
    if packet in _CROSSES:
        return
    if packet in _INDEXES and isinstance(args[0], DeviceTensor):
        args = (args[0], *args[2:])
    for place, each in enumerate(tree_leaves((args, kwargs))):
        if not isinstance(each, torch.Tensor) or isinstance(each, DeviceTensor):
            continue
        written = place == 0 and function._schema.is_mutable
        if each.ndim or written:
            raise RuntimeError(
                f"{function}: Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu (of shape {tuple(each.shape)})"
            )


def _check_written_once(target, indices, values, accumulate=False):
    """Where a place is written twice with other values, it is not known which of them a GPU keeps."""
    places = [_inner(each) if isinstance(each, DeviceTensor) else each for each in indices]
    if accumulate or values.ndim != 1 or any(each is None or each.ndim != 1 or not len(each) for each in places):
        return
    written = {}
    for place, value in zip(zip(*(each.tolist() for each in places), strict=True), values.tolist(), strict=False):
        if written.setdefault(place, value) != value:
            raise RuntimeError(f"index_put on the device: {place} is written twice, with {written[place]} and {value}")


def _inner(tensor):
    return tensor.inner


def _saved(document):
    """Tensors as `torch.load` with map_location="cpu" would give them."""
    return tree_map(lambda each: each.inner if isinstance(each, DeviceTensor) else each, document)


@contextmanager
def pretended_gpu(*, bf16=True):
    """While the context is open, `cuda` is there and pretended. bf16: whether it has instructions for bfloat16."""
    save = torch.save
    with pytest.MonkeyPatch.context() as patch, _Calls(), _Operations():
        patch.setattr(torch, "save", lambda document, file: save(_saved(document), file))
        for name, value in {
            "_lazy_init": None,
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "synchronize": None,
            "get_rng_state": torch.zeros(16, dtype=torch.uint8),
            "set_rng_state": None,
            "memory_allocated": 1_000_000,
            "max_memory_allocated": PEAK_BYTES,
            "reset_peak_memory_stats": None,
            "get_device_name": "Pretended GPU",
            "is_current_stream_capturing": False,
        }.items():
            patch.setattr(torch.cuda, name, lambda *args, value=value, **options: value)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
        # AdamW asks the stream whether it is being captured.
        patch.setattr(torch.accelerator, "is_available", lambda: False)
        yield
