"""Views of images that are kept larger than the input, sampled from there at once.

A view is read in two steps: what it sees of the image is cut out and, where it would shrink it, resized to the view's
own resolution with antialiasing; then one bilinear sampling of the whole batch puts it in its exact place. So a
zoomed-in view is sharp and a zoomed-out one does not alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import DataConfig
from onehead_cli.data.augment import Seen, View, apply_colours, draw_colours
from onehead_cli.data.batch import Target, TaskBatch, images_to_float
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import BAR_GREY

#: Pixels that are read on each side of a view, for the filters: of the view where it shrinks the image, else the image.
_MARGIN = 2
#: How many pixels more than S a view may so read, and for rounding to whole ones.
_SPARE = 2 * _MARGIN + 3


@dataclass
class KeptBatch:
    """A mini-batch before it is viewed, each image at the size that it is kept at.

    images: uint8 [h, w, 3] each, without letterbox bars.
    fits: the place of each in an input of `data.image_size`, which boxes are in pixels of.
    target, names, total, also: as in `TaskBatch`; labels per pixel are of the size of their kept image.
    """

    images: list[Tensor]
    fits: list[Fit]
    target: Target
    names: list[str]
    total: int = 0
    also: Mapping[str, Target] = field(default_factory=dict)

    def take(self, count: int) -> KeptBatch:
        """The first images of the batch."""
        return KeptBatch(
            self.images[:count],
            self.fits[:count],
            self.target.take(count),
            self.names[:count],
            also={task: target.take(count) for task, target in self.also.items()},
        )


def augment_kept(
    batch: KeptBatch,
    data: DataConfig,
    generator: torch.Generator,
    fill: Tensor,
    *,
    side: int,
    rows: slice = slice(None),
) -> TaskBatch:
    """What `augment.augment` does, with the same views, for images of any size; the input is side x side.

    Args: generator, fill, rows: as for `augment`; the batch comes on the device of `fill`.
    """
    view = View.draw(batch.total, data, generator, rows)
    matrix, offset = draw_colours(data.colour, generator, batch.total, rows)
    across, down = _axes(batch, view, side)
    if batch.names:
        images = _view_images(batch.images, across, down, matrix, offset, fill)
    else:
        images = fill.new_zeros(0, 3, side, side)
    seen = _SeenKept(view, data.image_size, side, across, down, fill.device)
    return TaskBatch(
        images,
        batch.target.seen_through(seen).to(fill.device),
        batch.names,
        batch.total,
        {task: target.seen_through(seen).to(fill.device) for task, target in batch.also.items()},
    )


@dataclass
class _Axis:
    """Where a view reads each kept image along one axis, in its pixels from 0 at the outer edge of the first.

    at: under the centre of each output pixel, float64 [B, S].
    step: from one output pixel to the next, float64 [B].
    length: pixels of the image, float64 [B].
    before, after: pixels from the edges of the image to those of the input, the letterbox bars, float64 [B].
    """

    at: Tensor
    step: Tensor
    length: Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, turn: Tensor, shift: Tensor, place: Sequence[tuple[int, int, int, int]], side: int) -> _Axis:
        """Args:
        turn, shift: output n -> input n * turn + shift, both in -1..1; float [B].
        place: per image its length, and the offset, the length and the side of its place in the input.
        """
        length, offset, inner, size = torch.tensor(place, dtype=torch.float64).reshape(-1, 4).unbind(1)
        centres = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
        seen = centres * turn.double()[:, None] + shift.double()[:, None]
        density = length / inner  # kept pixels per pixel of the input
        at = ((seen + 1) * size[:, None] / 2 - offset[:, None]) * density[:, None]
        step = turn.double().abs() * size / side * density
        return cls(at, step, length, offset * density, (size - offset - inner) * density)

    def in_image(self) -> Tensor:
        """Output pixels that show the image, bool [B, S]."""
        return (self.at >= 0) & (self.at < self.length[:, None])

    def in_input(self) -> Tensor:
        """Output pixels that show the image or its bars, bool [B, S]."""
        return (self.at >= -self.before[:, None]) & (self.at < (self.length + self.after)[:, None])

    def nearest(self) -> Tensor:
        """The nearest pixel of the image, int64 [B, S]."""
        return self.at.floor().clamp(min=0).minimum(self.length[:, None] - 1).long()

    def windows(self) -> list[tuple[int, int, int]]:
        """First and last + 1 pixel that the view reads, and how many it shrinks them to, at most S + _SPARE; with a
        margin for the filters."""
        margin = _MARGIN * self.step.clamp(min=1)
        first = (self.at.amin(1) - margin).floor().clamp(min=0).minimum(self.length - 1)
        end = (self.at.amax(1) + margin).ceil().maximum(first + 1).minimum(self.length)
        count = ((end - first) / self.step).round().clamp(min=1).minimum(end - first)
        return [(int(a), int(b), int(n)) for a, b, n in zip(first, end, count, strict=True)]

    def grid(self, windows: Sequence[tuple[int, int, int]], length: int) -> Tensor:
        """Where in a row of `length` pixels that begins with the shrunk window, in -1..1; float [B, S]. The outermost
        pixels go on beyond the image's edges."""
        first, end, count = torch.tensor(windows, dtype=torch.float64).unbind(1)
        at = (self.at - first[:, None]) * (count / (end - first))[:, None]
        return (at.maximum(at.new_tensor(0.5)).minimum(count[:, None] - 0.5) * 2 / length - 1).float()


def _axes(batch: KeptBatch, view: View, side: int) -> tuple[_Axis, _Axis]:
    """Along x and along y."""
    kept = list(zip(batch.images, batch.fits, strict=True))
    x = [(image.shape[1], fit.offset_x, fit.inner[0], fit.size) for image, fit in kept]
    y = [(image.shape[0], fit.offset_y, fit.inner[1], fit.size) for image, fit in kept]
    across = _Axis.of(view.flip / view.zoom_x, view.shift_x, x, side)
    return across, _Axis.of(1 / view.zoom_y, view.shift_y, y, side)


def _view_images(
    images: Sequence[Tensor], across: _Axis, down: _Axis, matrix: Tensor, offset: Tensor, fill: Tensor
) -> Tensor:
    """Float [B, 3, S, S] in 0..1, recoloured; beyond the image the recoloured grey of its bars, then `fill`."""
    xs, ys = across.windows(), down.windows()
    length = across.at.shape[1] + _SPARE  # not the largest of the batch, so that an image does not depend on the others
    cut = torch.zeros(len(images), 3, length, length, dtype=torch.uint8, device=fill.device)
    for row, (image, (x1, x2, w), (y1, y2, h)) in enumerate(zip(images, xs, ys, strict=True)):
        cut[row, :, :h, :w] = _shrunk(image[y1:y2, x1:x2], w, h)
    inside = _both(across.in_image(), down.in_image())
    coloured = apply_colours(images_to_float(cut, fill.device), matrix, offset)
    columns, lines = across.grid(xs, length).to(fill.device), down.grid(ys, length).to(fill.device)
    places = torch.stack([columns[:, None, :].expand_as(inside), lines[:, :, None].expand_as(inside)], dim=-1)
    seen = F.grid_sample(coloured, places, align_corners=False)
    if not inside.all():
        bars = apply_colours(torch.full((len(images), 3, 1, 1), BAR_GREY / 255), matrix, offset).to(fill.device)
        in_input = _both(across.in_input(), down.in_input())
        beyond = torch.where(in_input[:, None].to(fill.device), bars, fill)
        seen = torch.where(inside[:, None].to(fill.device), seen, beyond)
    return seen.contiguous(memory_format=torch.channels_last)


def _shrunk(image: Tensor, width: int, height: int) -> Tensor:
    """uint8 [h, w, 3] -> uint8 [3, height, width], antialiased."""
    pixels = image.permute(2, 0, 1)[None]
    if pixels.shape[2:] == (height, width):
        return pixels[0]
    if image.device.type != "cpu":  # only the CPU resizes whole numbers
        resized = F.interpolate(pixels.float(), (height, width), mode="bilinear", antialias=True)
        return resized[0].round().to(torch.uint8)
    return F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]


@dataclass
class _SeenKept(Seen):
    """across, down: where the kept images are read along x and y. device: of what is seen."""

    view: View
    size: int
    side: int
    across: _Axis
    down: _Axis
    device: torch.device

    def nearest(self, maps: Tensor | list[Tensor], fill: int) -> Tensor:
        """Args: maps: one [h, w] per image, of the size of its kept image."""
        inside = _both(self.across.in_image(), self.down.in_image()).to(self.device)
        seen = torch.full(inside.shape, fill, device=self.device, dtype=_dtype(maps))
        columns, lines = self.across.nearest().to(self.device), self.down.nearest().to(self.device)
        for row, values in enumerate(maps):
            seen[row] = values[lines[row]][:, columns[row]]
        return seen.masked_fill_(~inside, fill)


def _dtype(maps: Tensor | list[Tensor]) -> torch.dtype:
    """Whole numbers become int64."""
    return torch.float32 if len(maps) and maps[0].is_floating_point() else torch.int64


def _both(across: Tensor, down: Tensor) -> Tensor:
    """[B, S] along x and along y -> [B, S, S] of the pixels where both hold."""
    return down[:, :, None] & across[:, None, :]
