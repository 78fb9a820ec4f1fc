"""Monocular depth: metres per pixel. One channel, the logarithm of the metres."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from onehead_cli.coco_results import CocoResults
from onehead_cli.config.sections import Config, EvaluationConfig
from onehead_cli.data.augment import Seen
from onehead_cli.data.batch import Target
from onehead_cli.data.format import Listing
from onehead_cli.data.geometry import Fit
from onehead_cli.data.images import fit_mask, resize_mask
from onehead_cli.data.split import Loading, Split
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.canvas import Canvas
from onehead_cli.tasks.labels import Label
from onehead_cli.tasks.reader import Reader, Row
from onehead_cli.tasks.task import Metric, Reading, Setting, Task
from onehead_depth.format import MILLIMETRES, DepthListing, settings

NAME = "depth"


@dataclass
class Depths(Target):
    """metres: float [B, S, S], 0 = unknown."""

    metres: Tensor

    def seen_through(self, seen: Seen) -> Depths:
        return nearer(seen.nearest(self.metres, 0), seen)

    def covered(self, area: Tensor) -> Depths:
        return Depths(self.metres.masked_fill(area, 0))


@dataclass
class KeptDepths(Target):
    """metres: float [h, w] per image, of the size of its kept image."""

    metres: list[Tensor]

    def take(self, count: int) -> KeptDepths:
        return KeptDepths(self.metres[:count])

    def seen_through(self, seen: Seen) -> Depths:
        return nearer(seen.nearest(self.metres, 0), seen)


def nearer(metres: Tensor, seen: Seen) -> Depths:
    """What is seen twice as large looks half as far."""
    zoom = (seen.view.zoom_x * seen.view.zoom_y).sqrt().to(metres)
    return Depths(metres / zoom[:, None, None])


class DepthSplit(Split):
    """Images with depths; the fitted depths are read from disk each time."""

    task = NAME
    bytes_per_pixel = 3

    def __init__(self, listing: DepthListing, *args: Any, **options: Any) -> None:
        super().__init__(listing, *args, **options)
        self.listing = listing

    def metres(self, index: int) -> NDArray[np.float32]:
        fit = self.fit(index)
        return self.listing.depth(index, (fit.width, fit.height))

    def target(self, indices: Sequence[int]) -> Depths:
        return Depths(torch.stack([torch.tensor(fit_mask(self.metres(i), self.fit(i), 0)) for i in indices]))

    def kept_target(self, indices: Sequence[int]) -> KeptDepths:
        return KeptDepths([torch.tensor(resize_mask(self.metres(i), self.kept_size(i))) for i in indices])


@dataclass(frozen=True)
class DepthResult:
    """squared: summed squared error in square metres, float64 [n]. pixels: known ones, int64 [n]; of n images."""

    squared: NDArray[np.float64]
    pixels: NDArray[np.int64]
    task: ClassVar[str] = NAME

    def __len__(self) -> int:
        return len(self.pixels)

    def scores(self) -> dict[str, float | None]:
        """The root of the mean squared error over all known pixels, in metres."""
        known = int(self.pixels.sum())
        return {"rmse": math.sqrt(float(self.squared.sum()) / known) if known else None}

    def per_class(self) -> list[Row]:
        return []

    def resampled(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.sqrt((counts @ self.squared) / (counts @ self.pixels))

    def curves(self) -> dict[str, list[list[Any]]]:
        return {}


@dataclass
class DepthReader(Reader):
    """Reads metres out of the map. near, far: what they are clipped to."""

    near: float
    far: float

    def observe(
        self, maps: Tensor, split: Split, indices: Sequence[int], *, choosing: bool = False
    ) -> list[tuple[float, int]]:
        """The summed squared error and the known pixels of each image, at its own size."""
        assert isinstance(split, DepthSplit)
        observed = []
        for one, index in zip(maps, indices, strict=True):
            truth = split.metres(index)
            known = truth > 0
            error = (self.read(one, split.fit(index)) - truth)[known].astype(np.float64)
            observed.append((float((error**2).sum()), int(known.sum())))
        return observed

    def result(self, observations: Sequence[tuple[float, int]], splits: Sequence[Split]) -> DepthResult:
        squared, pixels = zip(*observations, strict=True)
        return DepthResult(np.array(squared), np.array(pixels, dtype=np.int64))

    def predict(self, maps: Tensor, fits: Sequence[Fit]) -> Iterator[FoundDepth]:
        return (FoundDepth(self.read(one, fit)) for one, fit in zip(maps, fits, strict=True))

    def read(self, one: Tensor, fit: Fit) -> NDArray[np.float32]:
        """Metres of one image, float32 [height, width]. Args: one: its map, float [1, h, w]."""
        whole = F.interpolate(one[None].float(), size=(fit.size, fit.size), mode="bilinear", align_corners=False)
        width, height = fit.inner
        inner = whole[:, :, fit.offset_y : fit.offset_y + height, fit.offset_x : fit.offset_x + width]
        own = F.interpolate(inner, size=(fit.height, fit.width), mode="bilinear", align_corners=False)[0, 0]
        metres: NDArray[np.float32] = own.exp().clamp(self.near, self.far).cpu().numpy()
        return metres


@dataclass(frozen=True)
class FoundDepth:
    """metres: float32 [height, width]."""

    metres: NDArray[np.float32]

    def record(self, save: Callable[[str, Image.Image], str | None]) -> dict[str, Any]:
        file = save(NAME, Image.fromarray((self.metres * MILLIMETRES).round().astype(np.uint16)))
        span = {"nearest": round(float(self.metres.min()), 3), "farthest": round(float(self.metres.max()), 3)}
        return {NAME: span if file is None else {"file": file, **span}}

    def add_to_coco(self, results: CocoResults, *, masks: bool) -> None:
        return None  # COCO has no depth

    def paint(self, canvas: Canvas) -> None:
        canvas.panels.append(drawn(self.metres))


def drawn(metres: NDArray[np.float32]) -> Image.Image:
    """RGB: near is bright, unknown black."""
    known = metres > 0
    low, high = (float(found) for found in (metres[known].min(), metres[known].max())) if known.any() else (0.0, 0.0)
    grey = 255 - 215 * (metres - low) / max(high - low, 1e-6)
    return Image.fromarray(np.where(known, grey, 0).astype(np.uint8)).convert("RGB")


class Depth(Task):
    """Root mean squared error of metres; less is better."""

    name = NAME
    title = "Depth"
    metrics = (Metric("rmse", "RMSE", higher_is_better=False, unit="m"),)
    files = (NAME,)
    section = NAME
    reference_classes = 0

    def channels(self, architecture: Architecture) -> int:
        return 1

    def load(self, listing: Listing, config: Config, loading: Loading) -> DepthSplit:
        assert isinstance(listing, DepthListing)
        return DepthSplit(listing, config.data, loading)

    def loss(self, task_map: Tensor, target: Target, image_size: int, setting: Setting) -> Tensor:
        """The mean difference of the logarithms over the known pixels of each image; 0 where none is known."""
        assert isinstance(target, Depths)
        size = target.metres.shape[-2:]
        found = F.interpolate(task_map.float(), size=size, mode="bilinear", align_corners=False)[:, 0]
        known = target.metres > 0
        error = (found - target.metres.clamp(min=settings(setting.config).near).log()).abs() * known
        return error.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)

    def distil(self, student_map: Tensor, teacher_map: Tensor, setting: Setting) -> Tensor:
        return (student_map.float() - teacher_map.float()).abs().flatten(1).mean(1)

    def reader(self, reading: Reading) -> DepthReader:
        return DepthReader(reading.values["depth_near"], reading.values["depth_far"])

    def first_reading(self, config: Config) -> dict[str, Any]:
        return {"depth_near": settings(config).near, "depth_far": settings(config).far}

    def changed_reading(self, stored: Mapping[str, Any], config: EvaluationConfig) -> dict[str, Any]:
        return {key: stored[key] for key in ("depth_near", "depth_far") if key in stored}

    record_column = "Depth"

    def record_cell(self, record: Mapping[str, Any]) -> str:
        found = record.get(NAME)
        return f"{found['nearest']:.1f} to {found['farthest']:.1f} m" if found else ""

    def show_label(self, split: Split, index: int) -> Label:
        assert isinstance(split, DepthSplit)
        metres = split.metres(index)
        known = metres[metres > 0]
        text = f"{known.min():.1f} to {known.max():.1f} m" if known.size else "unknown"
        return Label(text=text, panel=drawn(metres))


DEPTH = Depth()
