"""The runner without torch, against `predict`; and what both write for other tools."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onehead_cli import runner as onehead_runner
from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.coco_results import CocoResults, run_lengths
from onehead_cli.data import images as images_module
from onehead_cli.data.layout import IMAGE_SUFFIXES

#: Refuses what an edge device has not, before the runner begins.
WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "onehead_cli", "onnx", "scipy", "pycocotools"):
            raise ImportError(f"{name} is not on this device")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def runner(file, *arguments, **options):
    script = file.with_name("onehead_runner.py")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(script), str(file), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Of many kinds: turned, grey, 16 bits, palette, transparent, tiny, and with a name that is not UTF-8."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("L").save(folder / "grey.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    image.quantize(16).save(folder / "palette.png")
    image.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.bmp")
    (folder / "below").mkdir()
    image.resize((200, 500)).save(folder / "below" / os.fsdecode(b"caf\xe9.png"))
    (folder / "notes.txt").touch()
    return folder


def found_in(document):
    """The annotations of each image by its name, without ids."""
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found = {name: [] for name in names.values()}
    for annotation in document["annotations"]:
        plain = {key: value for key, value in annotation.items() if key not in ("id", "image_id")}
        found[names[annotation["image_id"]]].append(plain)
    return found


def test_what_the_runner_knows_of_images_is_what_the_package_knows():
    known = (images_module.FORMATS, images_module.MAX_PIXELS, images_module._TURNS, frozenset(IMAGE_SUFFIXES))
    assert known == (
        onehead_runner.FORMATS,
        onehead_runner.MAX_PIXELS,
        onehead_runner.TURNS,
        set(onehead_runner.SUFFIXES),
    )


def test_the_runner_says_what_predict_says(exported, images, tmp_path):
    """The same records from the same file, torch nowhere in reach; masks and COCO files have the same content."""
    where = ["--checkpoint", str(exported), "--output", str(tmp_path / "out"), "--quiet", "--no-overlays"]
    where += ["--score-threshold", "0.02"]  # little is found in noise
    assert run(["predict", str(images), *where, "--coco", str(tmp_path / "predict.json"), "--coco-masks"]) == 0
    coco = ["--coco", tmp_path / "runner.json", "--coco-masks"]
    done = runner(exported, images, "--masks", tmp_path / "masks", *coco, "--score-threshold", "0.02")
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    mine = {record["file"]: record for record in map(json.loads, done.stdout.splitlines())}
    lines = (tmp_path / "out" / "predictions" / "predictions.jsonl").read_text().splitlines()
    its = {record["file"]: record for record in map(json.loads, lines)}
    assert len(mine) == 7 and mine.keys() == its.keys()
    for file, record in mine.items():
        theirs = its[file]
        one = Image.open(tmp_path / "masks" / record["mask"].pop("file"))
        other = Image.open(tmp_path / "out" / "predictions" / theirs["mask"].pop("file"))
        assert one.mode == "P" and np.array_equal(one, other) and one.getpalette() == other.getpalette()
        assert record == theirs
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("runner", "predict"))
    assert one["categories"] == other["categories"]
    # Only the order of the images differs.
    assert found_in(one) == found_in(other) and sum(map(len, found_in(one).values())) > 0


def test_pycocotools_and_the_records_agree_on_a_coco_file(exported, images, tmp_path, capsys):
    done = runner(
        exported,
        images / "grey.png",
        images / "palette.png",
        "--coco",
        tmp_path / "found.json",
        "--coco-masks",
        "--masks",
        tmp_path / "masks",
        "--score-threshold",
        "0.01",
    )
    assert done.returncode == 0
    coco = COCO(tmp_path / "found.json")
    capsys.readouterr()
    for image, line in zip(coco.dataset["images"], done.stdout.splitlines(), strict=True):
        record = json.loads(line)
        assert (image["file_name"], image["width"]) == (record["file"], record["width"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        boxes = [each for each in found if "score" in each]
        assert len(boxes) == len(record["boxes"]) > 0
        for box, mine in zip(boxes, record["boxes"], strict=True):
            x, y, width, height = box["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(mine["box"], abs=2e-3)
            assert coco.cats[box["category_id"]]["name"] == mine["label"] and box["score"] == mine["score"]
        names = coco.cats
        mask = np.asarray(Image.open(tmp_path / "masks" / record["mask"]["file"]))
        regions = [each for each in found if "segmentation" in each]
        assert len(regions) == len(set(mask.flat) - {0})
        for region in regions:
            pixels = record["mask"]["pixels"][names[region["category_id"]]["name"]]
            assert coco.annToMask(region).sum() == region["area"] == pixels
    scored = coco.loadRes([each for each in coco.dataset["annotations"] if "score" in each])
    assert len(scored.anns) == sum("score" in each for each in coco.dataset["annotations"])


def labels_of(folder, names):
    """A COCO file of labels with ids of its own for the images, and the categories in another order."""
    classes = load_checkpoint(shipped_student()).architecture.classes["det"]
    return {
        "images": [
            {"id": 700 + i, "file_name": f"{folder.name}/{name}", "width": 270, "height": 180}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": 90 - i, "name": name} for i, name in enumerate(classes)] + [{"id": 7, "name": "kite"}],
        "annotations": [
            {"id": 1, "image_id": 700, "category_id": 90, "bbox": [5, 5, 60, 60], "area": 3600, "iscrowd": 0}
        ],
    }


def test_results_with_the_ids_of_the_labels_go_straight_into_cocoeval(exported, images, tmp_path, capsys):
    """loadRes takes the file as it is, of predict and of the runner alike; an image that the labels do not have is left
    out with a line."""
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(labels_of(images, ["palette.png", "grey.png"])))
    common = ["--coco-masks", "--coco-ids", str(labels), "--score-threshold", "0.01"]
    paths = [str(images / name) for name in ("grey.png", "deep.png", "palette.png")]
    done = runner(exported, *paths, "--coco", tmp_path / "runner.json", *common)
    assert done.returncode == 0 and done.stderr.decode().splitlines() == [
        f"warning: {images / 'deep.png'}: not among the images of {labels}, so it is not in the COCO file"
    ]
    where = ["--checkpoint", str(exported), "--output", str(tmp_path / "out"), "--quiet"]
    assert run(["predict", *paths, "--coco", str(tmp_path / "predict.json"), *common, *where]) == 0
    assert f"{images / 'deep.png'}: not among the images of" in capsys.readouterr().err
    mine, its = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("runner", "predict"))
    assert isinstance(mine, list) and sorted(map(repr, mine)) == sorted(map(repr, its))
    truth = COCO(labels)
    results = truth.loadRes(str(tmp_path / "predict.json"))
    assert set(results.getImgIds()) == {700, 701} and {each["image_id"] for each in mine} == {700, 701}
    records = {record["file"]: record for record in map(json.loads, done.stdout.splitlines())}
    boxes = [each for each in results.anns.values() if each["image_id"] == 700 and each["iscrowd"] == 0]
    assert [truth.cats[each["category_id"]]["name"] for each in boxes if each["score"] < 1] == [
        box["label"] for box in records[str(images / "palette.png")]["boxes"]
    ]
    for kind in ("bbox", "segm"):
        if kind == "segm":
            truth.anns[1]["segmentation"] = [[5, 5, 65, 5, 65, 65, 5, 65]]
        scores = COCOeval(truth, results, kind)
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
        assert 0 <= scores.stats[0] <= 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"{", "Expecting property name"),
        (b"null", "images with file_name and id, and named categories"),
        (
            b'{"images": [], "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "car"}]}',
            "two categories have the name car",
        ),
        (b"[1]", "not a COCO file: it needs images with file_name and id, and named categories"),
        (b'{"images": [], "categories": [{"id": 1, "name": "kite"}]}', "none of its categories is a class of the"),
    ],
)
def test_labels_whose_ids_cannot_be_taken_are_one_line(content, said, exported, images, tmp_path, capsys):
    labels = tmp_path / "labels.json"
    if content is not None:
        labels.write_bytes(content)
    common = [str(images / "grey.png"), "--coco", str(tmp_path / "found.json"), "--coco-ids", str(labels)]
    done = runner(exported, *common)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and said in done.stderr.decode()
    assert run(["predict", *common, "--checkpoint", str(exported), "--output", str(tmp_path), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(labels) in error
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("program", ["predict", "runner"])
def test_what_a_coco_file_would_destroy_or_lose_is_refused_first(program, exported, images, tmp_path, capsys):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(labels_of(images, ["grey.png"])))
    (tmp_path / "folder.json").mkdir()
    before = labels.read_bytes()

    def refused(*options):
        common = [str(images / "grey.png"), *map(str, options)]
        if program == "runner":
            done = runner(exported, *common)
            return done.returncode, done.stdout, done.stderr.decode()
        code = run(["predict", *common, "--checkpoint", str(exported), "--output", str(tmp_path / "out"), "--json"])
        return code, *capsys.readouterr()

    for code, said, options in (
        (
            2,
            "--coco-ids names the same file",
            ("--coco-ids", labels, "--coco", tmp_path / "folder.json" / ".." / labels.name),
        ),
        (None, "a folder has this name", ("--coco", tmp_path / "folder.json")),
        (None, "--coco", ("--coco", labels / "found.json")),
        (2, "threads", ("--threads", "100000")),
        (2, "threads", ("--threads", "0")),
    ):
        found, out, error = refused(*options)
        assert found in ((code,) if code else (1, 2)) and not out and error.count("\n") == 1 and said in error
    assert labels.read_bytes() == before and not list(tmp_path.glob(".*"))


def test_an_image_of_the_labels_is_taken_once(exported, images, tmp_path, capsys):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({**labels_of(images, []), "images": [{"id": 5, "file_name": "grey.png"}]}))
    (tmp_path / "again").mkdir()
    shutil.copy(images / "grey.png", tmp_path / "again")
    one, two = str(images / "grey.png"), str(tmp_path / "again" / "grey.png")
    common = ["--score-threshold", "0.01", "--coco-ids", str(labels), "--coco"]
    done = runner(exported, one, two, *common, tmp_path / "runner.json")
    where = ["--checkpoint", str(exported), "--output", str(tmp_path / "out"), "--quiet"]
    assert run(["predict", one, two, *common, str(tmp_path / "predict.json"), *where]) == 0
    said = f"warning: {two}: {one} was taken for grey.png of {labels}, so it is not in the COCO file"
    assert done.returncode == 0 and done.stderr.decode().splitlines() == [said]
    assert said in " ".join(capsys.readouterr().err.split())
    assert run(["predict", one, *common, str(tmp_path / "one.json"), *where]) == 0
    alone = json.loads((tmp_path / "one.json").read_text())
    assert alone and all(json.loads((tmp_path / f"{name}.json").read_text()) == alone for name in ("runner", "predict"))


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_run_lengths_are_those_of_pycocotools(region):
    height, width = region.shape
    [packed] = [rle.frPyObjects({"size": [height, width], "counts": run_lengths(region)}, height, width)]
    assert np.array_equal(rle.decode(packed), region)


def test_a_coco_file_by_hand():
    results = CocoResults(["cat", "dog", "cat"])
    results.add_image("a.jpg", 4, 3)
    results.add_box("dog", 0.5, [1, 0, 3, 2.5])
    results.add_mask(np.array([[0, 2, 2, 0]] * 3, np.uint8), ["nothing", "x", "cat"])
    assert results.document() == {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}],
        "categories": [
            {"id": 1, "name": "cat", "supercategory": "none"},
            {"id": 2, "name": "dog", "supercategory": "none"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 0, 2, 2.5], "area": 5, "iscrowd": 0, "score": 0.5},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 0, 2, 3],
                "area": 6,
                "iscrowd": 1,
                "segmentation": {"size": [3, 4], "counts": [3, 6, 3]},
            },
        ],
    }


def test_fault_108_a_bad_image_for_the_runner(exported, images, tmp_path):
    """The runner names each file that it cannot read, does all the others, and exits with 1."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8nonsense")
    (tmp_path / "empty.png").touch()
    listed = b"\0".join(
        os.fsencode(path) for path in [tmp_path / "broken.jpg", images / "grey.png", tmp_path / "empty.png"]
    )
    done = runner(exported, "-", input=listed)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and ["error" in record for record in records] == [True, False, True]
    *warnings, last = done.stderr.decode().splitlines()
    assert len(warnings) == 2 and all(line.startswith("warning: ") for line in warnings)
    assert last == "error: 2 of 3 images failed"


def test_a_list_in_utf_16_and_a_mask_that_cannot_be_written(exported, images, tmp_path):
    """The list is as PowerShell writes it. The name of the mask is too long for a file: what else was found stands in
    the record."""
    long = tmp_path / f"{'x' * 248}.png"
    shutil.copy(images / "grey.png", long)
    listed = f"{images / 'grey.png'}\r\n{long}\r\n".encode("utf-16")
    done = runner(exported, "-", "--masks", tmp_path / "masks", "--coco", tmp_path / "found.json", input=listed)
    whole, partly = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1 and "error" not in whole and "cannot be written" in partly.pop("error")
    del whole["mask"]["file"]
    assert {**partly, "file": ""} == {**whole, "file": ""}
    assert len(json.loads((tmp_path / "found.json").read_text())["images"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.jpg"], 2, "no such file or folder: nowhere.jpg"),
        (["."], 2, "no images ("),
        ([".", "--thread", "x"], 2, "invalid int value: 'x'; see --help"),
        ([], 2, "the following arguments are required: PATH"),
    ],
)
def test_what_cannot_be_done_is_one_line(exported, tmp_path, arguments, code, said):
    done = runner(exported, *arguments, cwd=tmp_path)
    assert done.returncode == code and done.stdout == b"" and done.stderr.count(b"\n") == 1
    assert said in done.stderr.decode() and done.stderr.startswith(b"error: ")


def test_the_runner_refuses_a_damaged_file(exported, images, tmp_path):
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    shutil.copy(exported.with_name("onehead_runner.py"), tmp_path)
    for name, what in (("flipped", bytes(content)), ("cut", bytes(content[:-100])), ("empty", b"")):
        (tmp_path / f"{name}.onnx").write_bytes(what)
        done = runner(tmp_path / f"{name}.onnx", images / "grey.png")
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"its checksum does not match" in done.stderr


def test_what_the_user_has_is_not_overwritten(exported, images, tmp_path):
    label = tmp_path / "masks" / "grey_mask.png"
    label.parent.mkdir()
    label.write_bytes(b"a label")
    done = runner(exported, images / "grey.png", "--masks", label.parent)
    assert done.returncode == 2 and b"there are files in it" in done.stderr and label.read_bytes() == b"a label"
    done = runner(exported, images / "palette.png", "--coco", images / "grey.png")
    assert done.returncode == 2 and b"the name of a COCO file ends in .json" in done.stderr
    assert Image.open(images / "grey.png").mode == "L"
    assert runner(exported, images / "grey.png", "--coco-masks").returncode == 2
    assert runner(exported, images / "grey.png", "--score-threshold", "nan").returncode == 2


def test_another_version_of_the_file_is_refused(exported, images, tmp_path):
    model = onnx.load_from_string(exported.read_bytes()[:-76])
    model.metadata_props[0].value = json.dumps({**json.loads(model.metadata_props[0].value), "export_format": 9})
    (tmp_path / "later.onnx").write_bytes(onehead_runner.with_checksum(model.SerializeToString()))
    shutil.copy(exported.with_name("onehead_runner.py"), tmp_path)
    done = runner(tmp_path / "later.onnx", images / "grey.png")
    assert done.returncode == 1 and b"exported by another version of onehead" in done.stderr


def test_streams_that_are_full_or_left_end_in_a_line(exported, images, tmp_path):
    script = exported.with_name("onehead_runner.py")
    command = f"{sys.executable} {script} {exported} {images}"
    left = subprocess.run(["bash", "-c", f"{command} | head -n 1"], capture_output=True)
    assert left.stdout.count(b"\n") == 1 and b"Traceback" not in left.stderr
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True)
    assert full.returncode == 1 and full.stderr == b"error: stdout: cannot be written (No space left on device)\n"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = runner(exported, images / "below", env=ascii_only)
    assert done.returncode == 0 and os.fsencode(
        json.loads(done.stdout)["file"].encode("utf-8", "surrogateescape")
    ).endswith(b"caf\xe9.png")


def test_a_signal_ends_it_with_its_code(exported, images, tmp_path):
    """Sent once it has said something: before, the imports are Python's own."""
    for number in range(200):
        (tmp_path / f"{number}.png").symlink_to(images / "palette.png")
    command = [sys.executable, str(exported.with_name("onehead_runner.py")), str(exported), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["width"] > 0
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and b"Traceback" not in said
