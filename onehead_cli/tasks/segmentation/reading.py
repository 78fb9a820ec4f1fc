"""Reading the segmentation map: the class of each pixel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onehead_cli.data.geometry import Fit

#: Pixels whose logits are upsampled at once when a mask is read.
_BAND_PIXELS = 1_000_000
#: Numbers that are held at once to find the classes that are nowhere the best.
_COMPARED = 8_000_000


def read_mask(segmentation_map: Tensor, fit: Fit) -> NDArray[np.uint8]:
    """The class of each pixel of the original image.

    Args:
        segmentation_map: logits of one image, float [C, h, w], h = w = S / 16.
        fit: how the image was fitted into the input.

    Returns:
        uint8 [height, width], class indices; the logits are upsampled bilinearly at the pixel centres.
    """
    logits = segmentation_map.float()
    across = _interpolation(fit.width, fit.scale_x, fit.offset_x, fit.size, logits.shape[2]).to(logits.device)
    down = _interpolation(fit.height, fit.scale_y, fit.offset_y, fit.size, logits.shape[1]).to(logits.device)
    first, *others = contenders(logits).tolist()
    bands = []
    # In bands: a whole photo of 20 megapixels would take a lot of memory.
    for band in torch.split(down, max(1, _BAND_PIXELS // fit.width)):
        # Class by class, which is five times as fast as an argmax over the classes of each pixel.
        best = band @ logits[first] @ across.T
        labels = torch.full(best.shape, first, dtype=torch.uint8, device=best.device)
        for label in others:
            upsampled = band @ logits[label] @ across.T
            labels.masked_fill_(upsampled > best, label)
            torch.maximum(best, upsampled, out=best)
        bands.append(labels.cpu())
    mask: NDArray[np.uint8] = torch.cat(bands).numpy()
    return mask


def contenders(logits: Tensor) -> Tensor:
    """The classes that may be the best of some pixel, int64 [k]: no other class is above them in every cell of logits
    [C, h, w]. A pixel is a mean of cells with the same weights for all classes, so that no class but these is best.

    Of very large maps of many classes, only the likeliest are asked whether they are above; then some are kept in vain.
    """
    cells = logits.flatten(1)
    count = min(len(cells), max(1, _COMPARED // cells.numel()))
    rivals = cells if count == len(cells) else cells[cells.mean(1).topk(count).indices]
    leads = (rivals[:, None] - cells).amin(2)  # of each rival over each class, in the cell where it is least
    return (~(leads.amax(0) > 0)).nonzero().flatten()


def _interpolation(pixels: int, scale: float, offset: int, size: int, cells: int) -> Tensor:
    """What each cell of a row adds to each pixel, float [pixels, cells]: bilinear, at the pixels' centres."""
    place = ((torch.arange(pixels) + 0.5) * scale + offset) * cells / size - 0.5
    place = place.clamp(0, cells - 1)
    low = place.long()
    weights, row = torch.zeros(pixels, cells), torch.arange(pixels)
    weights[row, low] = 1 - (place - low)
    weights[row, (low + 1).clamp(max=cells - 1)] += place - low
    return weights
