"""Fixtures: tiny datasets made on the spot, a tiny trained chain, and one thread a test process."""

from __future__ import annotations

import os

# Several test processes share the cores; threads of theirs that wait for each other would slow all of them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three synthetic datasets, 12 / 10 / 10 pictures of about 72 px a task."""
    from onehead_cli.datasets.prepare import prepare_synthetic

    root = tmp_path_factory.mktemp("data")
    prepare_synthetic(root, sizes=(12, 10, 10), image_size=72, seed=3)
    return root


TINY = ["--image-size", "64", "--set", "teacher.batch_size=4", "--set", "student.batch_size=2", "--quiet"]


@pytest.fixture(scope="session")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with three teachers and a student, trained for two epochs through the real commands."""
    from onehead_cli.app import run

    output = tmp_path_factory.mktemp("output")
    where = ["--data", str(tiny_data), "--output", str(output), "--epochs", "2", *TINY]
    assert run(["train-teacher", "--task", "all", *where]) == 0
    assert run(["train-unified", *where]) == 0
    return output
