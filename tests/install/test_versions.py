"""The wheel with the oldest libraries that pyproject.toml allows, and with the newest: the chain, outside a clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from tiny import SMALL
from wheels import ROOT, build_wheel, copy_sources

pytestmark = pytest.mark.install

CHAIN = """
import json, sys
from onehead_cli.app import run
for command in json.loads(sys.argv[1]):
    print("$", *command, file=sys.stderr, flush=True)
    if code := run(command):
        sys.exit(code)
"""
TRAINING = ["--data", "data", "--epochs", "1", *SMALL]
COMMANDS = [
    ["prepare-data", "--source", "synthetic", "--data", "data", "--sizes", "12,10,10", "--image-size", "72"],
    ["prepare-data", "--check", "data"],
    ["train-teacher", "--task", "all", *TRAINING],
    ["train-unified", *TRAINING],
    ["evaluate", "--data", "data", "--set", "evaluation.resamples=50"],
    ["profile", "--runs", "2"],
    ["predict", "data/mini_coco_det/test", "--coco", "found.json"],
    ["export", "--data", "data", "--output", "student.onnx", "--runner"],
    ["predict", "data/mini_coco_det/test", "--checkpoint", "student.onnx", "--output", "of the file"],
]


def lowest() -> list[str]:
    """The lower bounds as requirements, but those for other versions of Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [*project["dependencies"], *project["optional-dependencies"]["export"]]
    assert all(">=" in bound for bound in bounds)
    return [bound.replace(">=", "==") for bound in bounds if ";" not in bound]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("versions", ["lowest", "newest"])
def test_the_chain_with_the_oldest_and_with_the_newest_libraries(versions, tmp_path, record_property):
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(environment, symlinks=os.name != "nt")
    wheel = build_wheel(copy_sources(tmp_path))
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(lowest()) if versions == "lowest" else "")
    install = [sys.executable, "-m", "pip", "--python", environment, "install", "--quiet", "--constraint", constraints]
    # conftest.py keeps tests from the network; what is installed comes from there.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*install, f"{wheel}[export]"], capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    empty.mkdir()
    scripts = Path(sysconfig.get_path("scripts", "venv", vars={"base": str(environment)}))
    command = [scripts / "python", "-W", "error::DeprecationWarning:onehead_cli", "-c", CHAIN, json.dumps(COMMANDS)]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    assert {"report.html", "evaluate.json", "predictions", "all_best.pth"} <= {
        path.name for path in (empty / "output").iterdir()
    }
    assert len(json.loads((empty / "found.json").read_text())["images"]) == 10
    assert len((empty / "of the file" / "predictions" / "predictions.jsonl").read_text().splitlines()) == 10
    pip = [sys.executable, "-m", "pip", "--python", environment, "list", "--format", "json"]
    listed = subprocess.run(pip, capture_output=True, text=True, env=clean)
    found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}
    print(versions, {name: found[name] for name in ("torch", "torchvision", "timm", "numpy", "typer", "onnxruntime")})
    if versions == "lowest":
        assert found["torch"].startswith("2.8.0") and found["typer"].startswith("0.16")
