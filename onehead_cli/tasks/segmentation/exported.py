"""Segmentation in an exported file, which gives the mask at the size that its caller asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.data.geometry import Fit
from onehead_cli.errors import CheckpointError
from onehead_cli.tasks.exported import MapReading, PlaceInInput
from onehead_cli.tasks.segmentation.reader import FoundMask, SegmentationReader
from onehead_cli.tasks.segmentation.reading import contenders
from onehead_cli.tasks.segmentation.scores import confusion_matrix

#: Above every class.
_NONE = torch.tensor(255, dtype=torch.uint8)


class MaskReading(MapReading):
    """What `read_mask` does, for all pixels at once."""

    tolerances: ClassVar[Mapping[str, tuple[float, float]]] = {"mask": (1e-4, 2e-3)}
    int8_limits: ClassVar[Mapping[str, float]] = {"mask_iou": 0.85}

    def __init__(self, classes: int) -> None:
        super().__init__({"mask": ["mask height", "mask width"]})
        self.classes = classes

    def differences(self, torch_says: FoundMask, file_says: FoundMask) -> dict[str, float]:
        """The share of the pixels that are given another class."""
        return {"mask": float((torch_says.mask != file_says.mask).mean())}

    def compared(self, torch_says: FoundMask, file_says: FoundMask) -> NDArray[np.int64]:
        """The pixels of each class by torch (row) that the file gave each class (column)."""
        return confusion_matrix(file_says.mask, torch_says.mask, self.classes, ignore_index=-1)

    def agreement(self, compared: Sequence[NDArray[np.int64]]) -> dict[str, float]:
        """The IoU of the two masks, over the pixels of all images and averaged over the classes that either has."""
        counts: NDArray[np.int64] = np.sum(compared, axis=0)
        both = np.diag(counts)
        either = counts.sum(0) + counts.sum(1) - both
        return {"mask_iou": float((both[either > 0] / either[either > 0]).mean())}

    def forward(self, task_map: Tensor, place: PlaceInInput, mask_size: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        labels = contenders(task_map[0])
        logits = task_map[0][labels]
        height, width = mask_size[0].item(), mask_size[1].item()
        rows = _interpolation(height, place.height * place.scale_y, place.offset_y, place.side, logits.shape[1])
        columns = _interpolation(width, place.width * place.scale_x, place.offset_x, place.side, logits.shape[2])
        upsampled = rows @ logits @ columns.T
        # Not argmax, which onnxruntime computes three times as slowly.
        is_best = upsampled == upsampled.amax(0)
        return (torch.where(is_best, labels.to(torch.uint8)[:, None, None], _NONE).amin(0),)


def _interpolation(pixels: Any, inner: Tensor, offset: Tensor, side: int, cells: int) -> Tensor:
    """What each cell of a row adds to each pixel, float [pixels, cells]: bilinear, at the pixels' centres.

    Args:
        inner: how long the image is in the input, in pixels of it.
    """
    centres = (torch.arange(pixels, dtype=torch.float64) + 0.5) * (inner / pixels) + offset
    place = (centres * (cells / side) - 0.5).clamp(0, cells - 1)
    # A tent round each cell: 1 at its centre and 0 at those beside it.
    weights: Tensor = (1 - (place[:, None] - torch.arange(cells, dtype=torch.float64)).abs()).clamp(min=0)
    return weights.float()


class ExportedMasks(SegmentationReader):
    """Takes the masks as the file gives them."""

    reads_pixels = True

    def masks(self, maps: Any, fits: Iterable[Fit]) -> Iterator[NDArray[np.uint8]]:
        for each in maps:
            if each["mask"].max() >= len(self.classes):
                raise CheckpointError("the exported file gives a pixel no class: its outputs are not finite")
            yield each["mask"]
