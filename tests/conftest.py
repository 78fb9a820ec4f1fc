"""Fixtures: tiny datasets made on the spot, tiny trained chains, and one thread and no network a test process."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Several test processes share the cores; threads of theirs that wait for each other would slow all of them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test reaches beyond this machine, nor do the processes that it starts.
_NO_NETWORK = str(Path(__file__).parent / "no_network")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_NO_NETWORK, os.environ.get("PYTHONPATH")]))
sys.path.insert(0, _NO_NETWORK)
sys.modules.pop("sitecustomize", None)  # the installation's own, if it has one
import pytest  # noqa: E402
import sitecustomize  # noqa: E402, F401
from filelock import FileLock  # noqa: E402
from tiny import SMALL, TINY  # noqa: E402

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="many more interrupted and killed runs: `make soak`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow folders come first: a slow file that begins last would keep one process busy while the others wait."""
    items.sort(key=lambda item: item.path.parent.name not in ("training", "export"))


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Makes a folder in one test process for all: (name, what fills an empty folder) -> the folder, which no test may
    change."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_data(made_once: MadeOnce) -> Path:
    """The three synthetic datasets, 12 / 10 / 10 images of about 72 px per task."""
    from onehead_cli.data.prepare.settings import Synthetic
    from onehead_cli.data.prepare.synthetic import prepare_synthetic

    return made_once(
        "data", lambda root: prepare_synthetic(Synthetic(root=root, sizes=(12, 10, 10), image_size=72, seed=3))
    )


@pytest.fixture
def own(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of configs/own-data.yaml, with the tiny data where it says."""
    place = tmp_path / "data" / "own"
    for split in ("train", "val", "test"):
        shutil.copytree(tiny_data / "imagenette-160" / split, place / "classes" / split)
        shutil.copytree(tiny_data / "mini_voc_seg" / split / "JPEGImages", place / "scenes" / split)
        shutil.copytree(tiny_data / "mini_voc_seg" / split / "SegmentationClass", place / "masks" / split)
        shutil.copytree(tiny_data / "mini_coco_det" / split, place / "photos", dirs_exist_ok=True)
        shutil.copy(tiny_data / "mini_coco_det/annotations" / f"instances_{split}.json", place / f"photos/{split}.json")
    shutil.copy(tiny_data / "mini_voc_seg" / "classes.yaml", place / "masks")
    (tmp_path / "configs").mkdir()
    return Path(shutil.copy(Path(__file__).parents[1] / "configs" / "own-data.yaml", tmp_path / "configs"))


@pytest.fixture(scope="session")
def trained(tiny_data: Path, made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with three teachers and a student, trained for two epochs through the real commands."""
    from onehead_cli.app import run

    def train(output: Path) -> None:
        where = ["--data", str(tiny_data), "--output", str(output), "--epochs", "2", *TINY]
        assert run(["train-teacher", "--task", "all", *where]) == 0
        assert run(["train-unified", *where]) == 0

    # Each test process its own, for commands write their reports into it.
    return shutil.copytree(made_once("trained", train), tmp_path_factory.mktemp("output") / "trained")


@pytest.fixture(scope="session")
def small_teachers(tiny_data: Path, made_once: MadeOnce) -> Path:
    """An output folder with three small teachers, trained for one epoch."""
    from onehead_cli.app import run

    def train(output: Path) -> None:
        where = ["--data", str(tiny_data), "--output", str(output), "--epochs", "1", *SMALL]
        assert run(["train-teacher", "--task", "all", *where]) == 0

    return made_once("teachers", train)


@pytest.fixture(scope="session")
def teacher_command(tiny_data: Path) -> list[str]:
    """A short training of a small network, without --output: 9 steps in 3 epochs, saved after 2, 3, 4, 6, 8 and 9."""
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--epochs", "3", *SMALL]
    return [*command, "--set", "teacher.save_every=2"]


@pytest.fixture(scope="session")
def undisturbed(teacher_command: list[str], made_once: MadeOnce) -> Path:
    """The output folder of `teacher_command`, never stopped; tests copy what they change."""
    from onehead_cli.app import run

    def train(output: Path) -> None:
        assert run([*teacher_command, "--output", str(output)]) == 0

    return made_once("undisturbed", train)


@pytest.fixture(scope="session")
def stopped(teacher_command: list[str], made_once: MadeOnce) -> Path:
    """The same stopped at step 5: that is the last save, step 4 the one before it. Tests copy it."""
    from runs import at_step  # imports torch

    from onehead_cli.app import run

    def train(output: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert run([*teacher_command, "--output", str(output)]) == 143

    return made_once("stopped", train)
