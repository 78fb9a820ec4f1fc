"""Several runs of `predict` into one folder, one after the other, side by side, and killed."""

import errno
import hashlib
import json
import os
import resource
import signal
import time

import forked
import pytest
from PIL import Image

from onehead_cli.files.lock import locked
from onehead_cli.prediction import predict as predict_module


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_fault_61_two_runs_into_one_folder(predict, image, small_network, tmp_path):
    """A second `predict` into a folder replaces the records of its own images and keeps those of others; each record
    names its checkpoint's hash, and no image takes the files of another or of the user."""
    first, second = image("x/a.jpg", seed=1), image("y/a.jpg", seed=2)
    assert predict.with_overlays(first) == 0
    own = predict.folder / "b.png"
    own.write_bytes(b"the user's")
    assert predict.with_overlays(second, image("b.jpg", seed=3)) == 0
    records = predict.records()
    assert [record["file"] for record in records] == [str(first), str(second), str(tmp_path / "b.jpg")]
    assert [record["overlay"] for record in records] == ["a.png", "a-2.png", "b-2.png"]
    assert [record["mask"]["file"] for record in records] == ["a_mask.png", "a-2_mask.png", "b-2_mask.png"]
    assert own.read_bytes() == b"the user's"
    sha256 = hashlib.sha256(small_network.read_bytes()).hexdigest()
    assert {record["checkpoint"] for record in records} == {sha256[:12]}

    # In the other order every image keeps its names; its outputs are those of the last run.
    image("y/a.jpg", 30, 20, seed=4)
    assert predict.with_overlays(tmp_path / "y", tmp_path / "x") == 0
    records = {record["file"]: record for record in predict.records()}
    assert list(records) == [str(tmp_path / "b.jpg"), str(second), str(first)]
    assert (records[str(first)]["overlay"], records[str(second)]["overlay"]) == ("a.png", "a-2.png")
    with Image.open(predict.folder / "a-2_mask.png") as mask:
        assert mask.size == (30, 20)


def test_what_a_run_does_not_write_stays_the_images_own(predict, image):
    picture = image("a.jpg")
    bad = image("b.jpg")
    assert predict.with_overlays(picture, bad) == 0
    bad.write_bytes(b"")
    assert predict.with_overlays(picture, bad, "--no-masks") == 1
    records = predict.records()
    assert records[0]["earlier"] == {"name": "a", "files": ["a_mask.png"]}
    assert records[1]["earlier"] == {"name": "b", "files": ["b.png", "b_mask.png"]}
    for _ in range(2):  # also where all that is left is of earlier runs
        assert predict.with_overlays(picture, "--no-masks", "--no-overlays") == 0
    assert predict.records()[1]["earlier"] == {"name": "a", "files": ["a.png", "a_mask.png"]}
    assert predict.with_overlays(picture) == 0
    record = predict.records()[1]
    assert (record["overlay"], record["mask"]["file"]) == ("a.png", "a_mask.png") and "earlier" not in record


def test_the_same_relative_name_in_two_folders_is_two_images(predict, image, tmp_path, monkeypatch):
    for folder in ("one", "two"):
        image(f"{folder}/a.jpg")
        monkeypatch.chdir(tmp_path / folder)
        assert predict.with_overlays("a.jpg") == 0
    assert predict.with_overlays(tmp_path / "one" / "a.jpg") == 0  # the first again
    records = predict.records()
    assert [record["overlay"] for record in records] == ["a-2.png", "a.png"]
    where = [predict.folder / record.get("relative_to", "") / record["file"] for record in records]
    assert [path.resolve() for path in where] == [tmp_path / "two/a.jpg", tmp_path / "one/a.jpg"]


@pytest.mark.parametrize("content", ["of another program\n", "of another program", '{"file": 3}\n', "[1]\n"])
def test_a_file_that_holds_no_records_is_left_alone(content, predict, image, capsys):
    predict.folder.mkdir(parents=True)
    records = predict.folder / "predictions.jsonl"
    records.write_text(content)
    assert predict(image("a.jpg")) == 1
    assert "line 1 is not a record of predict" in capsys.readouterr().err
    assert list(predict.folder.iterdir()) == [records] and records.read_text() == content


def test_records_of_0_1_0_and_a_line_that_is_cut_off(predict, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    predict.folder.mkdir(parents=True)
    old = [{"file": "a.jpg", "overlay": "a.png"}, {"file": "b.jpg", "overlay": "b.png"}]
    lines = "".join(json.dumps(record) + "\n" for record in old)
    (predict.folder / "predictions.jsonl").write_text(lines + '{"file": "c.j')
    image("a.jpg")
    assert predict.with_overlays(tmp_path / "a.jpg") == 0
    assert "its last line is incomplete" in capsys.readouterr().err
    assert predict.files() == ["b.jpg", str(tmp_path / "a.jpg")] and predict.records()[1]["overlay"] == "a.png"
    # A last line without its end is whole nevertheless.
    records = predict.folder / "predictions.jsonl"
    records.write_bytes(records.read_bytes().rstrip())
    assert predict.with_overlays(image("c.jpg")) == 0
    assert len(predict.records()) == 3


def test_fault_66_two_runs_side_by_side(predict, image, tmp_path):
    """A `predict` waits while another one writes into its folder, says so once, and then continues: the records of both
    are there, each line whole."""
    folders = [image(f"{name}/{number}.jpg", seed=number).parent for name in "xy" for number in range(4)][::4]
    error = tmp_path / "error"
    predict.folder.mkdir(parents=True)
    with locked(predict.folder) as held:
        assert held
        processes = [forked.start(*predict.command(folders[0], "-q"), stderr=error)]
        wait_until(lambda: "waiting" in (error.read_text() if error.exists() else ""))
        time.sleep(0.3)
        assert not (predict.folder / "predictions.jsonl").exists()
    processes += [forked.start(*predict.command(folder, "-q")) for folder in folders[1:]]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert error.read_text() == f"{predict.folder}: process {os.getpid()} is writing into it; waiting for it to end\n"
    assert sorted(predict.files()) == sorted(str(folder / f"{n}.jpg") for folder in folders for n in range(4))
    masks = [record["mask"]["file"] for record in predict.records()]
    assert len(set(masks)) == 8 and all((predict.folder / mask).is_file() for mask in masks)
    assert not list(predict.folder.glob(".*"))


def test_a_run_never_waits_for_itself(predict, image, capsys):
    predict.folder.mkdir(parents=True)
    with locked(predict.folder):
        assert predict(image("a.jpg")) == 1
    assert "another run is using it" in capsys.readouterr().err


#: What a run does after so many records.
STOP = """
import os, sys
from onehead_cli.app import main
from onehead_cli.prediction.records import Records

add, added = Records.add, []

def add_and_stop(self, *args):
    add(self, *args)
    added.append(args)
    if len(added) == {after}:
        os.kill(os.getpid(), {number})

Records.add = add_and_stop
main({command!r})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_fault_63_a_run_that_is_killed_or_stopped(number, predict, image, tmp_path):
    """Killed or stopped in the middle, `predict` keeps every record of earlier runs and its own of all finished images,
    with no line cut off; the next run ends as if nothing had happened."""
    before = [str(image(f"in/{index}.jpg", seed=index)) for index in range(6)]
    assert predict(tmp_path / "in", image("other.jpg"), "-q") == 0
    image("in/1.jpg", 20, 10)
    command = predict.command(tmp_path / "in", "--batch-size", "2", "-q")
    result = forked.run("-c", STOP.format(after=3, number=int(number), command=command))
    everything = [*before, str(tmp_path / "other.jpg")]
    assert {record["file"]: record["width"] for record in predict.records()}[before[1]] == 20
    if number == signal.SIGKILL:
        assert result.returncode == -number and predict.files() == [*everything, *before[:3]]
    else:
        assert result.returncode == 128 + number and result.stderr == f"error: stopped by {number.name}\n"
        assert predict.files() == [*before[3:], everything[-1], *before[:3]]
        assert not list(predict.folder.glob(".*"))
    assert predict(tmp_path / "in", "-q") == 0
    assert predict.files() == [everything[-1], *before]
    masks = [f"{path}_mask.png" for path in ("0", "1", "2", "3", "4", "5", "other")]
    assert sorted(path.name for path in predict.folder.iterdir()) == [*masks, "predictions.jsonl"]


def test_fault_64_one_output_that_cannot_be_written(predict, image, tmp_path, capsys):
    """An overlay or mask that cannot be written is named in a warning and in its record, with what was found; all
    other images are done, and the exit code is 1. A name that is too long is shortened."""
    long = "é" * 120 + "x" * 11  # with .jpg, the longest name there may be
    names = ["a", "b", long, "z"]
    pictures = [image(f"in/{name}.jpg", seed=number) for number, name in enumerate(names)]
    assert predict.with_overlays(tmp_path / "in") == 0
    overlays = {record["file"]: record["overlay"] for record in predict.records()}
    shortened = overlays[str(pictures[2])]
    assert long.startswith(shortened.removesuffix(".png")) and shortened.startswith("é" * 100)

    (predict.folder / "b.png").unlink()
    (predict.folder / "b.png").mkdir()
    (predict.folder / shortened.replace(".png", "_mask.png")).unlink()
    (predict.folder / shortened.replace(".png", "_mask.png")).mkdir()
    capsys.readouterr()
    assert predict.with_overlays(tmp_path / "in", "--batch-size", "1") == 1
    shown = capsys.readouterr()
    warnings = [line for line in shown.err.splitlines() if line.startswith("warning: ")]
    bad = f"{predict.folder / 'b.png'}: cannot be written (Is a directory)"
    assert warnings[0] == f"warning: {pictures[1]}: {bad}" and len(warnings) == 2
    assert shown.err.splitlines()[-1] == "error: 2 of 4 images failed"
    records = {record["file"]: record for record in predict.records()}
    assert list(records) == sorted(map(str, pictures))
    failed = records[str(pictures[1])]
    assert failed["error"] == bad and "overlay" not in failed and failed["mask"]["file"] == "b_mask.png"
    assert failed["class"]["name"] in ("cat", "dog")
    assert records[str(pictures[2])]["overlay"] == shortened and "file" not in records[str(pictures[2])]["mask"]
    assert "error" not in records[str(pictures[3])]


def test_long_names_stay_apart(predict, image):
    pictures = [image(f"in/{'m' * 250}{end}", seed=number) for number, end in enumerate((".jpg", ".png"))]
    pictures.append(image("in/" + "m" * 246 + ".jpg", seed=3))
    assert predict.with_overlays(*pictures) == 0
    files = [file for record in predict.records() for file in (record["overlay"], record["mask"]["file"])]
    assert len(set(files)) == 6 and max(map(len, files)) == 255
    assert all((predict.folder / file).is_file() for file in files)


def test_a_full_disk_ends_the_run_and_keeps_what_was_done(predict, image, tmp_path, monkeypatch, capsys):
    pictures = [image(f"in/{name}.jpg") for name in "abc"]
    write = predict_module.write_whole

    def full(path, content, **options):
        if path.name.startswith("b"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content, **options)

    monkeypatch.setattr(predict_module, "write_whole", full)
    assert predict.with_overlays(tmp_path / "in", "-q") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {predict.folder / 'b.png'}: cannot be written (No space left on device)")
    assert predict.files() == [str(pictures[0])]


def test_a_record_that_does_not_fit_leaves_no_half_line(predict, image, tmp_path):
    """With a real limit of the system's for the size of files."""
    for name in "abcdef":
        image(f"in/{name}.jpg")
    assert predict(tmp_path / "in/a.jpg", "--no-masks") == 0
    record = (predict.folder / "predictions.jsonl").stat().st_size
    limit = 3 * record + record // 2
    command = predict.command(tmp_path / "in", "--no-masks", "-q")
    script = (
        "import resource; from onehead_cli.app import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))\n"
        f"main({command!r})\n"
    )
    result = forked.run("-c", script)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert "cannot be written (File too large)" in result.stderr
    assert set(predict.files()) == {str(tmp_path / f"in/{name}.jpg") for name in "ab"}
