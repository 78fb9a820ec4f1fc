"""Measures networks on splits, each of which is read once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.config.sections import Config
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.format import check_classes
from onehead_cli.data.listings import Listings
from onehead_cli.data.split import Loading, Split
from onehead_cli.evaluation.evaluator import Evaluator
from onehead_cli.events import Reporter
from onehead_cli.runtime.compute import resolve_device, resolve_precision
from onehead_cli.runtime.memory import keep_freed_memory
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.task import get_task


class Measurer:
    """Measures checkpoints on the splits; a dataset is read once for all networks of the same input."""

    def __init__(self, config: Config, splits: Sequence[str], listings: Listings, reporter: Reporter) -> None:
        self.config = config
        self.splits = splits
        self.listings = listings
        self.reporter = reporter
        self.device = resolve_device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = resolve_precision(config.model.precision, self.device)
        self.budget = CacheBudget(config.data.cache_mb)
        self.warnings: list[str] = []
        #: What a network gave for a task, by identity and task; see `Evaluator.maps`.
        self.maps: dict[tuple[int, str], dict[int, Tensor]] = {}
        self._loaded: dict[tuple[Any, ...], list[Split]] = {}

    def measure(self, label: str, networks: Mapping[str, Checkpoint]) -> dict[str, Result]:
        """The result of each task's network; a network that does several tasks is built once."""
        data = {task: self.load(task, checkpoint) for task, checkpoint in networks.items()}
        results: dict[str, Result] = {}
        models = {id(checkpoint): checkpoint for checkpoint in networks.values()}
        done, total = 0, sum(len(split) for parts in data.values() for split in parts)
        if not total:
            return results
        with self.reporter.track(label, total) as advance:

            def count(images: int) -> None:
                nonlocal done
                done += images
                advance(done, "")

            for identity, checkpoint in models.items():
                runner = checkpoint.runner(self.device, self.precision)
                evaluator = Evaluator(self.config.evaluation, count)
                for task, parts in data.items():
                    if id(networks[task]) == identity:
                        reader = checkpoint.reader(task, self.config.evaluation)
                        results[task] = evaluator.measure(runner, parts, reader)
                        self.maps[identity, task] = dict(evaluator.maps)
        return {task: results[task] for task in networks}

    def forget(self) -> None:
        """Free the memory that images and maps take."""
        self.maps.clear()
        self._loaded.clear()

    def warn(self, message: str) -> None:
        self.reporter.warn(message)
        self.warnings.append(message)

    def load(self, task: str, checkpoint: Checkpoint) -> list[Split]:
        """The splits of a task as the network reads them."""
        stored = checkpoint.preprocess
        key = (task, stored["image_size"], stored["fit"], stored["interpolation"])
        if key not in self._loaded:
            input_ = {"image_size": stored["image_size"], "fit": stored["fit"]}
            config = self.config.model_copy(update={"data": self.config.data.model_copy(update=input_)})
            parts = [
                get_task(task).load(
                    self.listings.get(task, split), config, Loading(stored["interpolation"], self.budget)
                )
                for split in self.splits
            ]
            for warning in [warning for part in parts for warning in part.warnings]:
                self.warn(warning)
            self._loaded[key] = parts
        for split, part in zip(self.splits, self._loaded[key], strict=True):
            check_classes(task, part.classes, checkpoint.architecture.classes[task], f"split {split}")
        return self._loaded[key]
