"""Runs a network on images, whether it is one of torch or an exported file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onehead_cli.data.batch import images_to_float
from onehead_cli.data.geometry import Fit
from onehead_cli.network.onehead import OneHead, TaskOutputs
from onehead_cli.runtime.compute import autocast
from onehead_cli.tasks.reader import NO_INPUTS


class Runner(ABC):
    """Gives what the tasks' readers read, by task."""

    @abstractmethod
    def run(
        self, images: Tensor, fits: Sequence[Fit], *, inputs: Mapping[str, float] = NO_INPUTS, pixels: bool = True
    ) -> Mapping[str, Any]:
        """One pass.

        Args:
            images: uint8 [B, 3, S, S].
            fits: of each of them.
            inputs: further inputs of an exported file, from its readers.
            pixels: what an exported file gives per pixel will be read.

        Raises:
            CheckpointError: the network cannot be run.
        """


@dataclass(frozen=True)
class TorchRunner(Runner):
    """Gives maps, float32 on the device.

    model: in eval mode, on `device`.
    precision: of the forward pass.
    """

    model: OneHead
    device: torch.device
    precision: torch.dtype

    def run(
        self, images: Tensor, fits: Sequence[Fit], *, inputs: Mapping[str, float] = NO_INPUTS, pixels: bool = True
    ) -> TaskOutputs:
        batch = images_to_float(images, self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            maps = self.model(batch)
        return {task: each.float() for task, each in maps.items()}
