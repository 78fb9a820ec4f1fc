"""The graph of an exported file: the network, and behind its maps what reads them.

Both are exported apart and then joined: the network alone is what int8 is made of, and its sides are fixed, while what
reads the maps depends on the size of the image.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, Literal

import torch
from onnx import ModelProto, TensorProto, helper
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn

from onehead_cli.network.onehead import OneHead
from onehead_cli.tasks.exported import IMAGE, MASK_SIZE, SIZE, MapReading, PlaceInInput

#: 17 has no Pad that the exporter can make; runtimes lack kernels for 20, and int8 is not made of 21.
OPSET = 18


def network_graph(model: OneHead, tasks: Sequence[str], side: int, *, folded: bool) -> ModelProto:
    """The network from an image, uint8 [S, S, 3], to a map of each of the tasks, `{task}_map`, float32 [1, C, S / 16,
    S / 16].

    Args:
        folded: batch norms are part of the convolutions before them. Apart, the weights are those of the checkpoint,
            and so are exact in float16 where its own are.
    """
    image = torch.zeros(side, side, 3, dtype=torch.uint8)
    return _exported(_Network(model, tasks), (image,), [IMAGE], [_map_of(task) for task in tasks], folded=folded)


def reading_graph(
    maps: Mapping[str, Tensor], readings: Mapping[str, MapReading], *, side: int, fit: Literal["resize", "letterbox"]
) -> ModelProto:
    """What reads the maps: from them, SIZE and MASK_SIZE (height and width, int64 [2]) and the readings' own inputs to
    the readings' outputs.

    Args:
        maps: of any image, by task.
    """
    whole = _Readings(readings, side, fit)
    further = {name: value for reading in readings.values() for name, value in reading.inputs.items()}
    # Any image; sides that differ, lest the exporter take them for one.
    example = (torch.tensor([48, 40]), torch.tensor([24, 20]), *map(torch.tensor, further.values()), *maps.values())
    names = [SIZE, MASK_SIZE, *further, *map(_map_of, maps)]
    outputs = {name: shape for reading in readings.values() for name, shape in reading.outputs.items()}
    table = {k: v for reading in readings.values() for k, v in reading.operators().items()}
    graph = _exported(whole, example, names, list(outputs), table)
    for output in graph.graph.output:
        kind = output.type.tensor_type.elem_type
        output.CopyFrom(helper.make_tensor_value_info(output.name, kind, list(outputs[output.name])))
    for name, value in further.items():
        # An input with an initializer of its name need not be given.
        graph.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    return graph


def joined(network: ModelProto, reading: ModelProto) -> ModelProto:
    """One graph of both: the network's maps are the reading's. What lies between keeps its name in the network, and
    gets "read/" before it in the reading."""
    maps = {output.name for output in network.graph.output}
    outside = {value.name for value in (*reading.graph.input, *reading.graph.output)} | {""}

    def named(names: Iterable[str]) -> list[str]:
        return [name if name in outside else f"read/{name}" for name in names]

    whole = ModelProto()
    whole.CopyFrom(network)
    graph = whole.graph
    # What the exporter says of values in between is wrong in part, and no reader needs it.
    del graph.output[:], graph.value_info[:]
    graph.input.extend(value for value in reading.graph.input if value.name not in maps)
    graph.output.extend(reading.graph.output)
    for tensor in reading.graph.initializer:
        graph.initializer.add().CopyFrom(tensor)
        [graph.initializer[-1].name] = named([tensor.name])
    for node in reading.graph.node:
        copied = graph.node.add()
        copied.CopyFrom(node)
        copied.name = f"read/{node.name}"
        copied.input[:], copied.output[:] = named(node.input), named(node.output)
    whole.producer_name = "onehead"
    return whole


class _Network(nn.Module):
    def __init__(self, model: OneHead, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tasks = model, tasks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.model(image.permute(2, 0, 1)[None].float() / 255)
        return tuple(maps[task] for task in self.tasks)


class _Readings(nn.Module):
    def __init__(self, readings: Mapping[str, MapReading], side: int, fit: Literal["resize", "letterbox"]) -> None:
        super().__init__()
        self.readings = nn.ModuleList(readings.values())
        self.side, self.fit = side, fit

    def forward(self, size: Tensor, mask_size: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        place = PlaceInInput.of(size, self.side, self.fit)
        own, maps = list(inputs[: -len(self.readings)]), inputs[-len(self.readings) :]
        found: list[Tensor] = []
        for reading, task_map in zip(self.readings, maps, strict=True):
            assert isinstance(reading, MapReading)
            mine, own = own[: len(reading.inputs)], own[len(reading.inputs) :]
            found += reading(task_map, place, mask_size, *mine)
        return tuple(found)


def _map_of(task: str) -> str:
    return f"{task}_map"


def _exported(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    table: Mapping[Any, Callable[..., Any]] | None = None,
    *,
    folded: bool = True,
) -> ModelProto:
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table=dict(table or {}),
            optimize=folded,
            verbose=False,
        )
        assert program is not None
        if not folded:
            for _ in range(2):  # what the first leaves behind of sequences, the second folds
                fold_constants(program.model, onnx_shape_inference=True)
                remove_unused_nodes(program.model)
    graph: ModelProto = program.model_proto
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks on itself are nothing that a user could act on."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
