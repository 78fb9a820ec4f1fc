"""The units of the final results: a recipe and a seed, with a folder of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onehead_cli.checkpoint.networks import STUDENT
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.registry import TASKS
from report.data import FULL, PLAIN

#: What differs from the config, by recipe.
RECIPES: dict[str, dict[str, Any]] = {
    FULL: {},
    PLAIN: {"teacher.boxes_from_masks": False, "student.boxes_from_masks": False},
}
NETWORKS = [*(task for task in TASKS), STUDENT]


@dataclass(frozen=True)
class Unit:
    """One recipe and seed; its checkpoints and logs are in `config.output`."""

    recipe: str
    config: Config

    @property
    def name(self) -> str:
        return f"{self.recipe}-seed{self.config.seed}"

    def marker(self, network: str) -> Path:
        """Written when the network is trained: its settings, scores on val, and on what it was trained."""
        return self.config.output / f"{network}_finished.json"


def unit_of(base: Path, recipe: str, *, seed: int, data: Path, output: Path) -> Unit:
    folder = output / f"{recipe}-seed{seed}"
    changes = {"seed": seed, "data.root": data, "output": folder, "distill.teachers": folder}
    return Unit(recipe, load_config(base, {**RECIPES[recipe], **changes}))


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
