"""A small network of random weights, and what `predict` makes of images with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import Checkpoint, save_checkpoint
from onehead_cli.network.onehead import build_model
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["cat", "dog"], "seg": ["background", "person", "sofa"], "det": ["person", "car"]}


@pytest.fixture(scope="session")
def small_network(tmp_path_factory):
    """Its checkpoint."""
    torch.manual_seed(0)
    architecture = Architecture("mobilenetv3_small_050", CLASSES, tuple(CLASSES), of_tasks={"boxes_per_cell": 2})
    network = build_model(architecture).eval()
    with torch.no_grad():  # else the maps are nearly the same everywhere
        maps = network(torch.rand(8, 3, 64, 64))
        for task, layer in network.identity.items():
            layer.weight.mul_(3 / maps[task].std(dim=(0, 2, 3)).mean())
            layer.bias.zero_()
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "image_size": 64, "fit": "resize"}
    thresholds = {"cells": 0.3, "boxes": [0.05, 0.05]}
    path = tmp_path_factory.mktemp("small") / "small.pth"
    weights = network.state_dict()
    save_checkpoint(path, Checkpoint("all", architecture, weights, preprocess, thresholds, {}, {}, 1, 0))
    return path


class Predicting:
    """`predict` into one folder."""

    def __init__(self, checkpoint, output):
        self.output = output
        self.folder = output / "predictions"
        self.options = ["--checkpoint", str(checkpoint), "--output", str(output), "--device", "cpu"]
        self.options += ["--set", "model.precision=fp32"]

    def __call__(self, *arguments):
        return run(self.command(*arguments))

    def command(self, *arguments, overlays=False):
        """Without overlays, which take the most time."""
        options = self.options if overlays else [*self.options, "--no-overlays"]
        return ["predict", *map(str, arguments), *options]

    def with_overlays(self, *arguments):
        return run(self.command(*arguments, overlays=True))

    def records(self):
        """The records, each line of the file whole."""
        content = (self.folder / "predictions.jsonl").read_bytes()
        assert content.endswith(b"\n")
        return [json.loads(line) for line in content.decode("utf-8").splitlines()]

    def files(self):
        return [record["file"] for record in self.records()]


@pytest.fixture
def predict(small_network, tmp_path):
    return Predicting(small_network, tmp_path / "out")


@pytest.fixture
def image(tmp_path):
    """Makes an image below the test's folder, of another look for each seed."""

    def make(name, width=60, height=40, *, seed=0, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        with path.open("wb") as file:
            picture.save(file, "PNG" if Path(name).suffix == ".png" else "JPEG", **options)
        return path

    return make
