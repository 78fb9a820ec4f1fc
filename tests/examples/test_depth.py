"""A fourth task from a package of its own, `examples/depth`, through the real commands and without a change here."""

import html
import json
import shutil
import tomllib
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image
from plugins import install
from runs import assert_same_run
from tiny import SMALL

from onehead_cli.preview.sample_sheet import MARGIN, placed

PACKAGE = Path(__file__).parents[2] / "examples" / "depth"
FOUR = ["--set", "data.tasks=[cls, seg, det, depth]"]
STUDENT = [*FOUR, *SMALL, "--epochs", "1"]

#: After what each command writes.
_END = "-- end --\n"
#: Commands in one process, for the imports take longer than they.
_CHAIN = f"""
import json, sys
from onehead_cli.app import run
for command in json.loads(sys.argv[1]):
    if code := run(command):
        sys.exit(code)
    print({_END!r}, end="", flush=True)
"""
#: Before them: a training is stopped after its first step.
_STOPPED = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pytest import MonkeyPatch
from runs import at_step
at_step(MonkeyPatch(), 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
"""


@pytest.fixture(scope="module")
def onehead(tmp_path_factory):
    """Runs a command with the package installed: its metadata lie on the path, as an installation puts them there."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    path = install(tmp_path_factory.mktemp("site"), project["name"], project["entry-points"], PACKAGE)

    def run(*commands, folder, code=0, stopped=False):
        """What the commands, one after the other in one process, write to stdout; it ends where one fails."""
        given = [json.dumps([list(map(str, command)) for command in commands])]
        begin = ["-c", _STOPPED + _CHAIN if stopped else _CHAIN, *given]
        done = forked.run(*begin, cwd=folder, variables={"PYTHONPATH": path})
        assert done.returncode == code, done.stderr
        return done.stdout.split(_END)[: len(commands)]

    return run


@pytest.fixture(scope="module")
def folder(onehead, tmp_path_factory):
    """Data for four tasks; the nearer to the left, the darker: 1 m to 5 m, and a corner that was not measured."""
    folder = tmp_path_factory.mktemp("depth")
    prepare = ["--source", "synthetic", "--sizes", "10,10,10", "--image-size", "64", "--data", "data", "--quiet"]
    onehead(["prepare-data", *prepare], folder=folder)
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for kind in ("images", "depth"):
            (folder / "data" / "depth" / split / kind).mkdir(parents=True)
        for index in range(count):
            metres = np.tile(np.linspace(1, 5, 60), (40, 1)) + rng.uniform(-0.2, 0.2, (40, 60))
            grey = np.repeat((metres / 6 * 255).astype(np.uint8)[..., None], 3, 2)
            metres[:10, :10] = 0
            name = f"{split}-{index}"
            Image.fromarray(grey).save(folder / "data" / "depth" / split / "images" / f"{name}.jpg")
            depth = Image.fromarray((metres * 1000).astype(np.uint16))
            depth.save(folder / "data" / "depth" / split / "depth" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def trained(onehead, folder):
    """The folder, once four teachers and a student for all tasks were trained."""
    teachers = ["train-teacher", "--task", "all", *FOUR, *SMALL, "--epochs", "1"]
    onehead(teachers, ["train-unified", *STUDENT], folder=folder)
    return folder


def test_the_task_is_known_only_where_its_package_is_installed(onehead, folder):
    shown, listed = onehead(["train-teacher", "--help"], ["evaluate", "--show-config", "--json"], folder=folder)
    assert "depth" in shown
    fields = json.loads(listed)["fields"]
    found = {field["key"]: field for field in fields}
    assert (found["depth.far"]["default"], found["depth.far"]["unit"]) == ("10.0", "m")
    assert found["data.tasks"]["type"] == "list of cls|seg|det|depth"
    assert found["data.tasks"]["default"] == "[cls, seg, det]" and "student.fixed_weights.depth" in found
    refused = forked.run("-m", "onehead_cli", "evaluate", "--show-config", *FOUR, cwd=folder)
    assert refused.returncode == 2 and "'cls', 'seg' or 'det'" in refused.stderr


def test_bad_files_are_found_by_its_format(onehead, folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    place = tmp_path / "data" / "depth" / "train"
    (place / "depth" / "train-0.png").unlink()
    Image.new("L", (60, 40)).save(place / "depth" / "train-1.png")
    Image.new("L", (60, 40)).save(place / "depth" / "spare.png")
    (place / "images" / "train-0.tif").touch()
    (tmp_path / "four.yaml").write_text("data: {tasks: [cls, seg, det, depth], root: data}\n")
    [shown] = onehead(["prepare-data", "--check", "four.yaml", "--json"], code=1, folder=tmp_path)
    document = json.loads(shown)
    kinds = {Path(problem["path"]).name: problem["kind"] for problem in document["problems"]}
    assert kinds == {"train-0.png": "depth_missing", "train-1.png": "depth_wrong_mode"}
    assert document["passed_over"]["depth"]["train"] == {".tif": 1, "mask without an image": 1}


def test_every_command_knows_four_tasks(onehead, trained):
    epochs = [json.loads(line) for line in (trained / "output" / "all.jsonl").read_text().splitlines()]
    steps = [line for line in epochs if line["kind"] == "step"]
    assert steps[0]["weights"].keys() == {"cls", "seg", "det", "depth"}
    assert {"depth", "kd_depth"} <= steps[0]["losses"].keys()

    shown, profiled, _ = onehead(
        ["evaluate", *FOUR, "--quiet"],
        ["profile", *FOUR, "--runs", "1", "--json", "--quiet"],
        ["predict", "data/depth/test/images", "--quiet"],
        folder=trained,
    )
    assert [row.split()[0] for row in shown.splitlines() if "%" not in row and ".." in row] == [
        "Top-1",
        "mIoU",
        "mAP",
        "RMSE",
    ]
    document = json.loads((trained / "output" / "evaluate.json").read_text())
    drop = document["drop"]["depth"]
    before, after = document["baseline"]["rmse"], document["unified"]["rmse"]
    assert drop["diff"] == pytest.approx(after - before) and drop["low"] <= drop["diff"] <= drop["high"]
    assert drop["within_limit"] == (drop["diff"] < 0.05), "less is better: a rise is the drop"

    # Its part of the report is there without a change in the package.
    report = document["report"]
    verdict = next(row for row in report["verdicts"] if row["task"] == "depth")
    assert verdict["unit"] == "m" and verdict["label"] == "RMSE" and verdict["sign"] == -1
    assert len(report["images"]["depth"]) >= 3
    page = html.unescape((trained / "output" / "report.html").read_text())
    assert verdict["sentence"] in page and "gain in m" in page

    profile = json.loads(profiled)
    assert profile["tasks"] == ["cls", "seg", "det", "depth"]
    assert "necks.depth" in {stage["name"] for stage in profile["stages"]} and "depth" in profile["teachers"]["each"]

    folder = trained / "output" / "predictions"
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 4
    for record in records:
        assert {"class", "mask", "boxes", "depth"} <= record.keys(), "four answers of one forward pass"
        metres = np.asarray(Image.open(folder / record["depth"]["file"])) / 1000
        assert metres.shape == (40, 60) and metres.min() == pytest.approx(record["depth"]["nearest"], abs=1e-3)
        overlay = Image.open(folder / record["overlay"])
        assert overlay.width == 2 * 640  # the image and, beside it, its depth


def test_a_student_of_four_tasks_goes_on_where_it_was(onehead, trained, tmp_path):
    folder = tmp_path / "stopped"
    shutil.copytree(trained, folder)
    for file in (folder / "output").glob("all*"):
        file.unlink()
    student = ["train-unified", *STUDENT]
    onehead(student, folder=folder, code=143, stopped=True)
    assert not (folder / "output" / "all_best.pth").exists()
    onehead([*student, "--resume"], folder=folder)
    assert_same_run(trained / "output", folder / "output", "all")


def test_labels_are_drawn_beside_their_images(onehead, folder, tmp_path):
    (tmp_path / "four.yaml").write_text(f"data: {{tasks: [depth], root: {folder / 'data'}}}\noutput: {tmp_path}\n")
    onehead(["prepare-data", "--preview", "--data", tmp_path / "four.yaml", "--quiet"], folder=tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "preview" / "depth.png").convert("L"), dtype=float)
    left, top, width, height = placed((120, 40))
    cell = sheet[MARGIN + top :, MARGIN + left :][:height, :width]
    image, depth = cell[:, : width // 2], cell[:, width // 2 :]
    assert image[-1, 5] < image[-1, -5] and depth[-1, 5] > depth[-1, -5], "dark is near in the image, bright beside it"
    assert depth[2, 2] < 5, "unknown"


def test_a_network_for_a_task_that_is_not_installed_is_one_line(trained):
    command = ["-m", "onehead_cli", "predict", "data/depth/test/images", "--output", "alone"]
    refused = forked.run(*command, "--checkpoint", "output/all_best.pth", cwd=trained)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert "depth" in refused.stderr and "install the package that provides it" in refused.stderr


def test_weights_are_chosen_by_the_smaller_error(onehead, folder):
    where = ["--output", "longer", "--set", "teacher.ema_decay=0", "--set", "teacher.lr=0.02"]
    train = ["train-teacher", "--task", "depth", *FOUR, *SMALL, *where, "--epochs", "6", "--json", "--quiet"]
    [shown] = onehead(train, folder=folder)
    best = json.loads(shown)["networks"]["depth"]
    lines = [json.loads(line) for line in (folder / "longer" / "depth.jsonl").read_text().splitlines()]
    scores = [line["scores"]["rmse"] for line in lines if line["kind"] == "epoch"]
    assert best["val"]["rmse"] == min(scores) and best["epoch"] == 1 + scores.index(min(scores))
    assert len(set(scores)) > 1
