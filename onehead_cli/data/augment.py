"""Augmentation of whole batches on the training device: one affine sampling, one colour matrix per image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.batch import TaskBatch

#: Luminance of red, green and blue (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclass
class View:
    """Where each image of a batch is seen from, in -1..1: output -> input is x * flip / zoom_x + shift_x and
    y / zoom_y + shift_y.

    zoom_x, zoom_y, flip (1 or -1), shift_x, shift_y: float [B].
    """

    zoom_x: Tensor
    zoom_y: Tensor
    flip: Tensor
    shift_x: Tensor
    shift_y: Tensor

    @classmethod
    def draw(cls, total: int, data: DataConfig, generator: torch.Generator, rows: slice = slice(None)) -> View:
        """Zoom log-uniform, mirrored or not; zoomed in, the window stays in the image; zoomed out, the reverse.

        With `data.aspect` a, the zoom of x is times and that of y is divided by a factor log-uniform in
        1/sqrt(a)..sqrt(a), so that width to height changes by at most a.

        Args:
            total: images of the mini-batch, all of which are drawn for.
            rows: those that are wanted.
        """
        u = torch.rand(4, total, generator=generator)[:, rows]
        low, high = math.log(data.scale_min), math.log(data.scale_max)
        zoom_x = zoom_y = (low + u[0] * (high - low)).exp()
        if data.aspect > 1:
            drawn = torch.rand(total, generator=generator)[rows]
            stretch = ((drawn - 0.5) * math.log(data.aspect)).exp()
            zoom_x, zoom_y = zoom_x * stretch, zoom_y / stretch
        reach_x, reach_y = (1 - 1 / zoom_x).abs(), (1 - 1 / zoom_y).abs()
        flip = torch.where(u[1] < data.flip, -1.0, 1.0)
        return cls(zoom_x, zoom_y, flip, (u[2] * 2 - 1) * reach_x, (u[3] * 2 - 1) * reach_y)


class Seen(ABC):
    """How the images of a batch are seen, for their labels.

    view: where each is seen from. size: side in pixels of the input that boxes are in. side: of what is seen.
    """

    view: View
    size: int
    side: int

    @abstractmethod
    def nearest(self, maps: Tensor | list[Tensor], fill: int) -> Tensor:
        """A value per pixel of each image, seen at the nearest pixel: [B, side, side], `fill` beyond the image."""


@dataclass
class SeenFitted(Seen):
    """grid: where each output pixel is read in the fitted images, float [B, S, S, 2]."""

    view: View
    size: int
    side: int
    grid: Tensor

    def nearest(self, maps: Tensor | list[Tensor], fill: int) -> Tensor:
        """Args: maps: [B, S, S], whole numbers or floats."""
        assert isinstance(maps, Tensor)
        # grid_sample pads with 0, so `fill` is made 0 for its sake.
        shifted = (maps - fill).float()[:, None]
        seen = F.grid_sample(shifted, self.grid, mode="nearest", align_corners=False)[:, 0]
        return seen + fill if maps.is_floating_point() else seen.round().long() + fill


def augment(
    batch: TaskBatch, data: DataConfig, generator: torch.Generator, fill: Tensor, *, rows: slice = slice(None)
) -> TaskBatch:
    """Zoom, shift, mirror and recolour a float batch, the labels along with the images.

    Args:
        generator: on the CPU, so that a seed means the same on every device.
        fill: colour outside the image, float [1, 3, 1, 1].
        rows: where the batch stands in the mini-batch of all processes, so that an image gets the same view however
            many there are.
    """
    if not batch.names:
        return batch
    size = batch.images.shape[-1]
    view = View.draw(batch.total, data, generator, rows)
    images = recolour(batch.images, data.colour, generator, total=batch.total, rows=rows)
    grid = _grid(view, size, batch.images.device)
    images = F.grid_sample(images - fill, grid, align_corners=False).add_(fill)
    seen = SeenFitted(view, size, size, grid)
    return replace(
        batch,
        images=images.contiguous(memory_format=torch.channels_last),
        target=batch.target.seen_through(seen),
        also={task: target.seen_through(seen) for task, target in batch.also.items()},
    )


def recolour(
    images: Tensor,
    strength: float,
    generator: torch.Generator,
    *,
    total: int | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """Brightness, contrast and saturation changed by up to `strength` an image; float [B, 3, S, S] in 0..1.

    Args: total, rows: as for `View.draw`; without them the images are the whole mini-batch.
    """
    return apply_colours(images, *draw_colours(strength, generator, total or len(images), rows))


def draw_colours(strength: float, generator: torch.Generator, total: int, rows: slice) -> tuple[Tensor, Tensor]:
    """What `apply_colours` takes: a matrix and an offset per image, float [B, 3, 3] and [B, 3, 1]."""
    drawn = torch.rand(3, total, generator=generator)[:, rows]
    brightness, contrast, saturation = 1 + (drawn * 2 - 1) * strength
    grey = torch.tensor(_LUMINANCE).expand(3, 3)
    matrix = saturation[:, None, None] * torch.eye(3) + (1 - saturation)[:, None, None] * grey  # [B, 3, 3]
    gain = (brightness * contrast)[:, None, None]
    offset = (0.5 * (1 - contrast) * brightness)[:, None, None].expand(-1, 3, 1)
    return gain * matrix, offset


def apply_colours(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Each pixel as matrix @ colour + offset, clipped to 0..1; float [B, 3, H, W]."""
    flat = images.flatten(2)
    changed = torch.baddbmm(offset.to(flat.device), matrix.to(flat.device), flat)
    return changed.clamp_(0, 1).view_as(images)


def _grid(view: View, size: int, device: torch.device) -> Tensor:
    """Where each output pixel is read in the input, float [B, S, S, 2]."""
    theta = torch.zeros(len(view.zoom_x), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = view.flip / view.zoom_x, view.shift_x
    theta[:, 1, 1], theta[:, 1, 2] = 1 / view.zoom_y, view.shift_y
    return F.affine_grid(theta.to(device), [len(theta), 1, size, size], align_corners=False)
