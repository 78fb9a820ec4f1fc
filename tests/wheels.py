"""Builds the package's wheel, as an installation does and without the network."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_sources(folder: Path) -> Path:
    """Copy what a wheel is built from, for building leaves files beside it."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "onehead_cli", folder / "onehead_cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def build_wheel(sources: Path) -> Path:
    script = "from setuptools import build_meta; print(build_meta.build_wheel('wheels'))"
    built = subprocess.run([sys.executable, "-c", script], cwd=sources, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = (sources / "wheels").iterdir()
    return wheel
