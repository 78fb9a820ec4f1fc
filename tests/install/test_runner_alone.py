"""The runner as a device has it: an environment with numpy, Pillow and onnxruntime, and no torch."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onehead_cli.app import run

pytestmark = pytest.mark.install

#: In bytes, of all that is installed.
LIMIT = 200e6


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment made for the runner: its interpreter, and what its libraries take."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    constraints = Path(__file__).parents[2] / "constraints.txt"
    install = [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--constraint", constraints]
    # conftest.py keeps tests from the network; what is installed comes from there.
    network = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*install, "numpy", "Pillow", "onnxruntime"], capture_output=True, text=True, env=network)
    assert done.returncode == 0, done.stderr
    taken = sum(path.stat().st_size for path in Path(paths["purelib"]).rglob("*") if path.is_file())
    return Path(paths["scripts"]) / "python", taken


def test_the_runner_needs_three_libraries_of_under_200_mb(environment, tmp_path, record_property):
    python, taken = environment
    record_property("megabytes", round(taken / 1e6))
    print(f"numpy, Pillow and onnxruntime take {taken / 1e6:.0f} MB")
    assert 20e6 < taken < LIMIT
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in missing.stderr

    file, image = tmp_path / "student.onnx", tmp_path / "a.png"
    assert run(["export", "--output", str(file), "--runner", "--data", str(tmp_path), "--quiet"]) == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(image)
    done = subprocess.run([python, tmp_path / "onehead_runner.py", file, image], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run(["predict", str(image), "--checkpoint", str(file), "--output", str(tmp_path / "out"), "--quiet"]) == 0
    expected = json.loads((tmp_path / "out" / "predictions" / "predictions.jsonl").read_text())
    found = json.loads(done.stdout)
    assert found["class"] == expected["class"] and found["boxes"] == expected["boxes"]
    assert found["mask"]["pixels"] == expected["mask"]["pixels"]
