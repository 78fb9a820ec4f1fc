"""Augmentation of whole batches on the training device: one affine sampling, one colour matrix a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.config.sections import DataConfig
from onehead_cli.types import IGNORE_INDEX, DetectionTarget, Task, TaskBatch

#: A box cut to less than this share of itself is neither wanted nor wrong: it becomes a region to ignore.
_MIN_VISIBLE = 0.25

_MIN_SIDE = 2.0

#: Luminance of red, green and blue (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclass
class View:
    """Where each picture of a batch is seen from, in -1..1: output -> input is x * flip / zoom_x + shift_x and
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
        """Zoom log-uniform, mirrored or not; zoomed in, the window stays in the picture; zoomed out, the reverse.

        With `data.aspect` a, the zoom of x is times and that of y is divided by a factor log-uniform in
        1/sqrt(a)..sqrt(a), so that width to height changes by at most a.

        Args:
            total: pictures of the mini-batch, all of which are drawn for.
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


def to_float(batch: TaskBatch, device: torch.device) -> TaskBatch:
    """The batch on the device, pictures in 0..1."""
    return replace(
        batch,
        images=pictures_to_float(batch.images, device),
        target=target_to(batch.target, device),
        mask_boxes=None if batch.mask_boxes is None else boxes_to(batch.mask_boxes, device),
    )


def take(batch: TaskBatch, count: int) -> TaskBatch:
    """The first pictures of a batch; all targets are tensors over the pictures."""
    return TaskBatch(
        batch.images[:count],
        take_target(batch.target, count),
        batch.names[:count],
        mask_boxes=None if batch.mask_boxes is None else take_boxes(batch.mask_boxes, count),
    )


def take_target(target: Tensor | DetectionTarget, count: int) -> Tensor | DetectionTarget:
    return take_boxes(target, count) if isinstance(target, DetectionTarget) else target[:count]


def take_boxes(target: DetectionTarget, count: int) -> DetectionTarget:
    return DetectionTarget(target.boxes[:count], target.labels[:count], target.crowd[:count])


def pictures_to_float(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, 3, S, S] -> float in 0..1 on the device, channels last."""
    return images.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


def augment(
    batch: TaskBatch,
    task: Task,
    data: DataConfig,
    generator: torch.Generator,
    fill: Tensor,
    *,
    rows: slice = slice(None),
) -> TaskBatch:
    """Zoom, shift, mirror and recolour a float batch, the targets along with the pictures.

    Args:
        generator: on the CPU, so that a seed means the same on every device.
        fill: colour outside the picture, float [1, 3, 1, 1].
        rows: where the batch stands in the mini-batch of all processes, so that a picture gets the same view however
            many there are.
    """
    if not batch.names:
        return batch
    view = View.draw(batch.total, data, generator, rows)
    images = recolour(batch.images, data.colour, generator, total=batch.total, rows=rows)
    grid = _grid(view, batch.images.shape[-1], batch.images.device)
    images = F.grid_sample(images - fill, grid, align_corners=False).add_(fill)
    target = batch.target
    if task is Task.SEG:
        assert isinstance(target, Tensor)
        target = view_masks(target, grid)
    elif task is Task.DET:
        assert isinstance(target, DetectionTarget)
        target = view_boxes(target, view, batch.images.shape[-1])
    boxes = None if batch.mask_boxes is None else view_boxes(batch.mask_boxes, view, batch.images.shape[-1])
    images = images.contiguous(memory_format=torch.channels_last)
    return replace(batch, images=images, target=target, mask_boxes=boxes)


def view_masks(masks: Tensor, grid: Tensor) -> Tensor:
    """Masks int64 [B, S, S] sampled at the nearest pixel; 255 outside."""
    # grid_sample pads with 0, so void is made 0 for its sake.
    shifted = (masks - IGNORE_INDEX).float()[:, None]
    return F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].round().long() + IGNORE_INDEX


def view_boxes(target: DetectionTarget, view: View, size: int, side: int | None = None) -> DetectionTarget:
    """Boxes as the view shows them, clipped; those mostly outside become regions to ignore, the rest go.

    Args:
        size: side of the input that the boxes are in, in pixels.
        side: side of the view; unset, the same.
    """
    side = side or size
    device = target.boxes.device
    zoom_x, zoom_y, flip = (v.to(device)[:, None] for v in (view.zoom_x, view.zoom_y, view.flip))
    boxes = target.boxes * 2 / size - 1  # [B, M, 4] in -1..1
    x = (boxes[..., 0::2] - view.shift_x.to(device)[:, None, None]) * (zoom_x * flip)[..., None]
    y = (boxes[..., 1::2] - view.shift_y.to(device)[:, None, None]) * zoom_y[..., None]
    whole = torch.stack([x.amin(-1), y.amin(-1), x.amax(-1), y.amax(-1)], dim=-1)
    whole = (whole + 1) * side / 2
    clipped = whole.clamp(0, side)
    sides = clipped[..., 2:] - clipped[..., :2]
    share = sides.prod(-1) / (whole[..., 2:] - whole[..., :2]).prod(-1).clamp(min=1e-6)
    gone = (sides <= 0).any(-1)
    doubtful = (share < _MIN_VISIBLE) | (sides < _MIN_SIDE).any(-1)
    labels = torch.where(gone, -1, target.labels)
    return DetectionTarget(clipped, labels, (target.crowd | doubtful) & (labels >= 0))


def recolour(
    images: Tensor,
    strength: float,
    generator: torch.Generator,
    *,
    total: int | None = None,
    rows: slice = slice(None),
) -> Tensor:
    """Brightness, contrast and saturation changed by up to `strength` a picture; float [B, 3, S, S] in 0..1.

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


def target_to(target: Tensor | DetectionTarget, device: torch.device) -> Tensor | DetectionTarget:
    return boxes_to(target, device) if isinstance(target, DetectionTarget) else target.to(device)


def boxes_to(target: DetectionTarget, device: torch.device) -> DetectionTarget:
    return DetectionTarget(target.boxes.to(device), target.labels.to(device), target.crowd.to(device))


def _grid(view: View, size: int, device: torch.device) -> Tensor:
    """Where each output pixel is read in the input, float [B, S, S, 2]."""
    theta = torch.zeros(len(view.zoom_x), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = view.flip / view.zoom_x, view.shift_x
    theta[:, 1, 1], theta[:, 1, 2] = 1 / view.zoom_y, view.shift_y
    return F.affine_grid(theta.to(device), [len(theta), 1, size, size], align_corners=False)
