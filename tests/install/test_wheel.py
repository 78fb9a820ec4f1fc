"""The package as somebody has it who has no clone; `make test-install`."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from wheels import build_wheel, copy_sources

from onehead_cli import __version__

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with the wheel of the package, which sees the other libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt")
    wheel = build_wheel(copy_sources(tmp_path_factory.mktemp("sources")))
    install = [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", "--no-index", wheel]
    installed = subprocess.run(install, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    # After its own, and without what .pth files there add: this environment's onehead is not seen.
    libraries = {str(Path(importlib.util.find_spec(name).origin).parents[1]) for name in ("torch", "typer", "filelock")}
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    (Path(paths["purelib"]) / "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def run(environment, elsewhere):
    """Runs a script of the environment in the empty folder; its stdout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # The tests' block of the network, and nothing of the clone.
    clean["PYTHONPATH"] = str(Path(__file__).parents[1] / "no_network")
    scripts = sysconfig.get_path("scripts", "venv", vars={"base": str(environment)})

    def run_one(*command):
        program = Path(scripts) / command[0]
        result = subprocess.run(
            [program, *command[1:]], cwd=elsewhere, env=clean, capture_output=True, encoding="utf-8"
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run_one


def test_the_installed_package_is_run_and_not_the_clone(run, environment):
    where = run("python", "-c", "import onehead_cli; print(onehead_cli.__file__)")
    assert Path(where.strip()).is_relative_to(environment)
    assert (environment / "share" / "onehead" / "configs" / "lite-quick.yaml").is_file()


def test_the_script_says_what_it_is(run):
    assert run("onehead", "--version") == f"onehead {__version__}\n"
    assert "prepare-data" in run("onehead", "--help")
    assert run("python", "-m", "onehead_cli", "--version") == f"onehead {__version__}\n"


def test_data_are_prepared_and_the_student_of_the_package_reads_them(run, environment, elsewhere):
    sizes = ["--sizes", "10,10,10", "--image-size", "96"]
    run("onehead", "prepare-data", "--source", "synthetic", "--data", "data", *sizes)
    assert "manifest.json" in {path.name for path in (elsewhere / "data").iterdir()}
    document = json.loads(run("onehead", "predict", "data/mini_coco_det/test", "--json"))
    assert Path(document["checkpoint"]).is_relative_to(environment) and document["pictures"] == 10
    assert len(list((elsewhere / "output" / "predictions").glob("*_mask.png"))) == 10
