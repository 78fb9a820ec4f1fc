"""In what numbers an exported network is stored and computed: weights of 16 bits, or all of it in 8."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from onehead_cli.tasks.exported import IMAGE

Operators = Literal["all", "convolutions"]
#: Convolutions: the stem and the first blocks, in EfficientNet-Lite0 as far as stride 4.
_FIRST = 9
#: SiLU ends with Mul.
_ACTIVATIONS = ("Clip", "HardSwish", "Mul", "Relu")


def with_half_weights(network: ModelProto) -> ModelProto:
    """The same with its weights stored in float16, which are made float32 when the file is loaded.

    What is computed stays float32: runtimes have kernels for it, and sums of squares overflow in float16.
    """
    half = ModelProto()
    half.CopyFrom(network)
    graph, casts = half.graph, []
    for initializer in graph.initializer:
        weights = numpy_helper.to_array(initializer)
        if weights.dtype == np.float32 and weights.ndim > 1:
            name = initializer.name
            initializer.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), f"{name} float16"))
            casts.append(
                helper.make_node("Cast", [initializer.name], [name], name=f"{name} cast", to=TensorProto.FLOAT)
            )
    for place, cast in enumerate(casts):
        graph.node.insert(place, cast)
    return half


def to_int8(network: ModelProto, images: Iterable[NDArray[np.uint8]], *, operators: Operators = "all") -> ModelProto:
    """The same in 8 bits: weights signed, per channel; what lies between, unsigned, by the least and the largest value
    that the images give.

    Nearly everything is computed in 8 bits, ReLU6 and additions too: else the range of a convolution is that before the
    clipping, and most of it is never used. Not so the first blocks, which have few channels and lose most: in floats
    they make the file a little slower, and all tasks agree better. Nor what comes behind the last activations: a map
    holds logits and sizes of boxes in one scale, which 8 bits are too coarse for.

    Args:
        images: uint8 [S, S, 3], to calibrate by.
        operators: convolutions: only convolutions and matrix products, as is usual elsewhere.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[NDArray[np.uint8]] = iter(images)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            image = next(self._images, None)
            return None if image is None else {IMAGE: image}

    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it writes its remarks to the root
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, prepared, written = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
            onnx.save(network, plain)
            quant_pre_process(plain, prepared)
            chosen: dict[str, Any] = {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]}
            if operators == "all":
                chosen = {"nodes_to_exclude": _in_floats(onnx.load(prepared).graph)}
            quantize_static(
                prepared,
                written,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                **chosen,
            )
            return onnx.load(written)
    finally:
        logging.root.setLevel(before)


def _in_floats(graph: GraphProto) -> list[str]:
    """The nodes as far as the last of the first convolutions, and those behind the last activations."""
    nodes = list(graph.node)
    last = [place for place, node in enumerate(nodes) if node.op_type == "Conv"][:_FIRST][-1]
    beginning = {node.name for node in nodes[: last + 1]}
    beginning |= {node.name for node in nodes[last + 1 : last + 2] if node.op_type in _ACTIVATIONS}
    made_by = {output: node for node in nodes for output in node.output}
    end: set[str] = set()
    wanted = [output.name for output in graph.output]
    while wanted:
        node = made_by.get(wanted.pop())
        if node is not None and node.name not in end and node.op_type not in _ACTIVATIONS:
            end.add(node.name)
            wanted += node.input
    return sorted(beginning | end)
