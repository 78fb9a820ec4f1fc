"""The checkpoint files of a run: what each of them holds, and when one is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from onehead_cli.checkpoint.checkpoint import Checkpoint, save_checkpoint
from onehead_cli.checkpoint.networks import best_path, last_path, previous_path
from onehead_cli.config.sections import Config
from onehead_cli.events import EpochInfo
from onehead_cli.runtime.random_state import random_states
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.training.loop import TrainingLoop
from onehead_cli.training.setup import reading_for


@dataclass
class Saver:
    """Writes the checkpoint files of a run: the weights to keep, the state to go on from, and the state before it."""

    name: str
    architecture: Architecture
    config: Config
    loop: TrainingLoop
    teachers: dict[str, float]
    manifest: str | None
    origin: dict[str, str | bool | None]

    def is_due(self) -> bool:
        """Whether `save_every` asks for a save after this step; at the end of an epoch it waits for the evaluation."""
        every = self.loop.schedule.save_every
        return every > 0 and self.loop.state.step % every == 0 and not self.loop.at_end_of_epoch()

    def is_kept(self, info: EpochInfo) -> bool:
        """Whether `{name}_best` is to hold the weights of this epoch: the best so far, or with `keep: last` the latest
        that were evaluated, so that a stopped run has some too; so too where val could measure nothing."""
        keeps_latest = self.loop.schedule.keep == "last" or info.criterion is None
        return bool(info.scores) if keeps_latest else info.best

    def save_best(self, thresholds: dict[str, Any], scores: dict[str, float | None], epoch: int) -> None:
        save_checkpoint(best_path(self.config.output, self.name), self._checkpoint(thresholds, scores, epoch, {}))

    def save_last(self, thresholds: dict[str, Any], scores: dict[str, float | None]) -> None:
        epoch = self.loop.state.step // self.loop.steps_per_epoch
        training = {
            **self.loop.state_dict(),
            "teachers": self.teachers,
            "random": random_states(self.loop.loader.device),
            "threads": torch.get_num_threads(),
        }
        folder, state = self.config.output, self._checkpoint(thresholds, scores, epoch, training)
        save_checkpoint(last_path(folder, self.name), state, keep=previous_path(folder, self.name))

    def _checkpoint(
        self, thresholds: dict[str, Any], scores: dict[str, float | None], epoch: int, training: dict[str, Any]
    ) -> Checkpoint:
        preprocess = self.loop.objective.model.preprocess
        return Checkpoint(
            name=self.name,
            architecture=self.architecture,
            weights=self.loop.average.model.state_dict(),
            preprocess={
                "mean": list(preprocess.mean),
                "std": list(preprocess.std),
                "interpolation": preprocess.interpolation,
                "image_size": self.config.data.image_size,
                "fit": self.config.data.fit,
            },
            thresholds=thresholds,
            scores=scores,
            config=self.config.model_dump(mode="json", by_alias=True),
            epoch=epoch,
            seed=self.config.seed,
            training=training,
            data={"manifest": self.manifest},
            reading=reading_for(self.config),
            origin=self.origin,
        )
