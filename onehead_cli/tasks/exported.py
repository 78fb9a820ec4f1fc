"""A task inside an exported file, where there is no Python: what reads its map there, and where the image lies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

#: The inputs of an exported file: uint8 [S, S, 3]; height and width of the original, and of the mask, int64 [2].
IMAGE, SIZE, MASK_SIZE = "image", "size", "mask_size"


@dataclass(frozen=True)
class PlaceInInput:
    """`data.geometry.Fit` of an image whose size only the caller of the file knows: tensors float64 [].

    side: S.
    """

    height: Tensor
    width: Tensor
    scale_y: Tensor
    scale_x: Tensor
    offset_y: Tensor
    offset_x: Tensor
    side: int

    @classmethod
    def of(cls, size: Tensor, side: int, mode: Literal["resize", "letterbox"]) -> PlaceInInput:
        """Args: size: height and width in pixels, int64 [2]."""
        size = size.double()
        if mode == "resize":
            inner, offset = torch.full_like(size, side), torch.zeros_like(size)
        else:
            inner = (size * (side / size.max())).round().clamp(min=1)
            offset = ((side - inner) / 2).floor()
        scale = inner / size
        return cls(size[0], size[1], scale[0], scale[1], offset[0], offset[1], side)


class MapReading(nn.Module, ABC):
    """Reads a task's map of one image.

    outputs: the names of what it gives, each with its dimensions: a length, or a name where it is not fixed.
    inputs: further inputs of the file, float32 [], by name with the value of each where the caller gives none.
    """

    outputs: Mapping[str, Sequence[int | str]]
    inputs: Mapping[str, float]

    def operators(self) -> dict[Any, Callable[..., Any]]:
        """What stands in ONNX for operators of its own: functions of onnxscript values, by torch's operator."""
        return {}

    def __init__(self, outputs: Mapping[str, Sequence[int | str]], inputs: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.outputs, self.inputs = outputs, inputs or {}

    #: The largest differences that are allowed of what float32 says in torch, by kind: of a file whose weights are
    #: float32, and float16.
    tolerances: ClassVar[Mapping[str, tuple[float, float]]]
    #: How well a file in int8 must agree at least, by kind, in 0..1.
    int8_limits: ClassVar[Mapping[str, float]]

    @abstractmethod
    def differences(self, torch_says: Any, file_says: Any) -> dict[str, float]:
        """How far apart two readings of an image are, by the kinds of `tolerances`.

        Args: torch_says, file_says: from `Reader.predict`, of boxes and the like all from the lowest score on.
        """

    @abstractmethod
    def compared(self, torch_says: Any, file_says: Any) -> Any:
        """What is kept of how two readings of an image agree, of what is shown."""

    @abstractmethod
    def agreement(self, compared: Sequence[Any]) -> dict[str, float]:
        """How well readings of many images agree, by the kinds of `int8_limits`, 1 where they are the same.

        Args: compared: from `compared`, one per image.
        """

    @abstractmethod
    def forward(self, task_map: Tensor, place: PlaceInInput, mask_size: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in their order.

        Args:
            task_map: float [1, C, h, w].
            mask_size: height and width that maps of pixels are to have, int64 [2].
            inputs: in their order.
        """


#: What an exported file gives for one image, by the outputs' names.
FileOutputs = Mapping[str, Any]
