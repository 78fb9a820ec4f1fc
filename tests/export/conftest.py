"""Exported files, written once for all tests through the real command."""

from __future__ import annotations

from pathlib import Path

import pytest

from onehead_cli.app import run


@pytest.fixture(scope="session")
def exported(made_once, tmp_path_factory) -> Path:
    """The shipped student in float32, with the runner beside it; no test may change it."""

    def export(folder: Path) -> None:
        assert (
            run(["export", "--output", str(folder / "student.onnx"), "--runner", "--data", str(folder), "--quiet"]) == 0
        )

    return made_once("exported", export) / "student.onnx"


@pytest.fixture(scope="session")
def small_student(tiny_data, made_once) -> Path:
    """A student with a small network of random weights."""

    def train(output: Path) -> None:
        from tiny import SMALL

        command = ["train-unified", "--data", str(tiny_data), "--output", str(output), "--epochs", "1", *SMALL]
        assert run([*command, "--lambda-distill", "0"]) == 0

    return made_once("small student", train) / "all_best.pth"
