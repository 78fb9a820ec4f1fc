from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from official_data import Official
from PIL import Image
from pycocotools.coco import COCO
from pydantic import ValidationError

from onehead_cli.app import run
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.format import get_format
from onehead_cli.data.layout import VOC_CLASSES
from onehead_cli.data.manifest import verify_manifest
from onehead_cli.data.prepare.draw import Draw
from onehead_cli.data.prepare.local import prepare_local
from onehead_cli.data.prepare.official import Copier, copy_coco, kept_categories
from onehead_cli.data.prepare.official_files import FolderFiles
from onehead_cli.data.prepare.outlines import CLASSES
from onehead_cli.data.prepare.scenes import SEGMENTED_CLASSES
from onehead_cli.data.prepare.settings import Local, Synthetic
from onehead_cli.data.prepare.synthetic import prepare_synthetic
from onehead_cli.errors import DataError, OneheadError
from onehead_cli.files.lock import LOCK_FILE
from onehead_cli.registry import TASKS

SIZES = (20, 10, 10)
SPLIT_SIZES = {"train": 20, "val": 10, "test": 10}
PICTURES = {".jpg", ".jpeg"}


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def load_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return prepare_synthetic(Synthetic(root=root, sizes=SIZES, image_size=96, seed=5))


def test_synthetic_lays_out_the_three_datasets(drawn):
    root = drawn.root
    assert {path.name for path in root.iterdir()} == {
        "mini_coco_det",
        "mini_voc_seg",
        "imagenette-160",
        "manifest.json",
    }
    assert (drawn.source, drawn.seed, drawn.manifest) == ("synthetic", 5, root / "manifest.json")
    assert drawn.counts == {"cls": SPLIT_SIZES, "seg": SPLIT_SIZES, "det": SPLIT_SIZES}
    for split, size in SPLIT_SIZES.items():
        assert len(list((root / "mini_coco_det" / split).glob("*.jpg"))) == size
        folder = root / "mini_voc_seg" / split
        images = {path.stem for path in (folder / "JPEGImages").iterdir()}
        assert len(images) == size
        assert images == {path.stem for path in (folder / "SegmentationClass").iterdir()}
        classes = sorted((root / "imagenette-160" / split).iterdir())
        assert [path.name for path in classes] == list(CLASSES)
        assert {len(list(path.iterdir())) for path in classes} == {size // 10}


def test_synthetic_boxes_load_in_pycocotools_and_lie_inside_their_images(drawn):
    crowds = 0
    for split, size in SPLIT_SIZES.items():
        coco = load_coco(drawn.root / "mini_coco_det" / "annotations" / f"instances_{split}.json")
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        assert len(coco.getImgIds()) == size
        assert len({annotation["id"] for annotation in coco.dataset["annotations"]}) == len(coco.getAnnIds())
        for image in coco.loadImgs(coco.getImgIds()):
            with Image.open(drawn.root / "mini_coco_det" / split / image["file_name"]) as opened:
                assert opened.size == (image["width"], image["height"])
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
            assert 1 <= sum(not annotation["iscrowd"] for annotation in annotations) <= 6
            crowds += sum(annotation["iscrowd"] for annotation in annotations)
            for annotation in annotations:
                x, y, width, height = annotation["bbox"]
                assert x >= 0 and y >= 0 and x + width <= image["width"] and y + height <= image["height"]
                assert 0 < annotation["area"] <= width * height
    assert crowds == 4


def test_synthetic_masks_are_palette_images_of_the_listed_classes(drawn):
    root = drawn.root / "mini_voc_seg"
    names = yaml.safe_load((root / "classes.yaml").read_text())
    assert names == list(SEGMENTED_CLASSES) and names[0] == "background"
    values: set[int] = set()
    for path in root.glob("*/SegmentationClass/*.png"):
        with Image.open(path) as mask, Image.open(path.parents[1] / "JPEGImages" / f"{path.stem}.jpg") as image:
            assert mask.mode == "P" and mask.size == image.size
            assert mask.getpalette()[3:6] == [128, 0, 0]
            values |= set(np.unique(np.asarray(mask)).tolist())
    assert values == {*range(len(names)), 255}


def test_synthetic_images_are_all_different(drawn):
    digests = [hashlib.sha256(data).digest() for name, data in files_of(drawn.root).items() if name.endswith(".jpg")]
    assert len(digests) == len(set(digests)) == 3 * sum(SIZES)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_images(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_synthetic(Synthetic(root=tmp_path / name, sizes=(3, 2, 2), image_size=64, seed=seed))
    a, b, c = (files_of(tmp_path / name) for name in "abc")
    assert a == b
    assert not {data for name, data in a.items() if name.endswith(".jpg")} & set(c.values())


def test_a_image_does_not_depend_on_how_many_are_drawn(tmp_path):
    prepare_synthetic(Synthetic(root=tmp_path / "few", sizes=(2, 1, 1), image_size=64))
    prepare_synthetic(Synthetic(root=tmp_path / "more", sizes=(3, 1, 1), image_size=64))
    name = "mini_voc_seg/train/JPEGImages/000002.jpg"
    assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_the_manifest_lists_every_file_and_nothing_of_the_machine(drawn):
    files = files_of(drawn.root)
    text = files.pop("manifest.json").decode()
    manifest = json.loads(text)
    assert manifest["schema"] == 1 and manifest["source"] == "synthetic"
    assert manifest["arguments"] == {"seed": 5, "sizes": list(SIZES), "image_size": 96}
    assert manifest["counts"] == {"cls": SPLIT_SIZES, "seg": SPLIT_SIZES, "det": SPLIT_SIZES}
    paths = [entry["path"] for entry in manifest["files"]]
    assert paths == sorted(paths) and set(paths) == set(files)
    for entry in manifest["files"]:
        data = files[entry["path"]]
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert str(drawn.root) not in text


@pytest.mark.parametrize("field", ["path", "sha256"])
@pytest.mark.parametrize("value", [None, 1, [], "a\0b", "a\nb", "x" * 5000, "..", ""])
def test_a_manifest_of_any_content_is_read_or_refused_in_one_line(tmp_path, capsys, field, value):
    entry = {"path": "a", "sha256": "b", field: value}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [entry]}))
    assert run(["prepare-data", "--verify", "--data", str(tmp_path), "--json"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1 and errors[0].startswith("error: ")


def test_verify_manifest_names_missing_and_changed_files(tmp_path):
    root = prepare_synthetic(Synthetic(root=tmp_path, sizes=(1, 1, 1), image_size=64)).root
    assert verify_manifest(root) == []
    (root / "mini_coco_det/val/000000000002.jpg").unlink()
    (root / "mini_voc_seg/classes.yaml").write_text("- background\n")
    assert verify_manifest(root) == [
        "mini_coco_det/val/000000000002.jpg: missing",
        "mini_voc_seg/classes.yaml: changed",
    ]
    (root / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json"):
        verify_manifest(root)


def test_progress_is_reported_per_split(tmp_path):
    calls: list[tuple[str, int, int]] = []
    prepare_synthetic(
        Synthetic(root=tmp_path, sizes=(2, 1, 1), image_size=64), progress=lambda *call: calls.append(call)
    )
    assert [call for call in calls if call[0] == "mini_voc_seg/train"] == [
        ("mini_voc_seg/train", 1, 2),
        ("mini_voc_seg/train", 2, 2),
    ]
    assert len(calls) == 12


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    (tmp_path / ".gitkeep").touch()

    def stop(label: str, done: int, total: int) -> None:
        if label == "mini_coco_det/test":
            raise KeyboardInterrupt

    for root in (tmp_path, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            prepare_synthetic(Synthetic(root=root, sizes=(1, 1, 1), image_size=64), progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == [".gitkeep"]


def test_standing_datasets_are_kept_unless_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    prepare_synthetic(Synthetic(root=tmp_path, sizes=(1, 1, 1), image_size=64, seed=1))
    before = files_of(tmp_path)
    with pytest.raises(DataError, match=r"already holds .*; choose another folder or overwrite"):
        prepare_synthetic(Synthetic(root=tmp_path, sizes=(1, 1, 1), image_size=64, seed=2))
    assert files_of(tmp_path) == before
    prepare_synthetic(Synthetic(root=tmp_path, sizes=(2, 1, 1), image_size=64, seed=2, overwrite=True))
    after = files_of(tmp_path)
    assert after["notes.txt"] == b"mine" and verify_manifest(tmp_path) == []
    assert json.loads(after["manifest.json"])["arguments"]["seed"] == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("wrong", [{"sizes": (0, 1, 1)}, {"seed": -1}, {"image_size": 8}, {"colour": 1}])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Synthetic(**wrong)


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--image-size", "8"), ("--image-size", "2000")])
def test_a_flag_out_of_range_is_one_line(tmp_path, capsys, flag, value):
    root = tmp_path / "new"
    assert run(["prepare-data", "--source", "synthetic", "--data", str(root), flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag} {value}: Input should be ") and not root.exists()


def test_lock_files_of_killed_runs_are_passed_over(tmp_path):
    arguments = {"sizes": (10, 10, 10), "image_size": 64, "seed": 1}
    root = prepare_synthetic(Synthetic(root=tmp_path / "data", **arguments)).root
    config = Config(data=DataConfig(root=root))

    def listed():
        return [get_format(task).list(config, split) for task in TASKS for split in ("train", "val", "test")]

    before, manifest = listed(), (root / "manifest.json").read_bytes()
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / LOCK_FILE).touch()
    assert listed() == before and verify_manifest(root) == []
    prepare_synthetic(Synthetic(root=root, **arguments))
    assert (root / "manifest.json").read_bytes() == manifest and not (root / LOCK_FILE).exists()


def test_datasets_that_stand_in_a_folder_without_locks_are_still_found(tmp_path):
    """For one, a folder that may only be read."""
    prepare_synthetic(Synthetic(root=tmp_path, sizes=(1, 1, 1), image_size=64))
    (tmp_path / LOCK_FILE).mkdir()
    prepare_synthetic(Synthetic(root=tmp_path, sizes=(1, 1, 1), image_size=64))
    assert list((tmp_path / LOCK_FILE).iterdir()) == []


def test_a_root_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        prepare_synthetic(Synthetic(root=tmp_path / "file", sizes=(1, 1, 1), image_size=64))


def test_preparing_does_not_import_torch():
    modules = ", ".join(f"onehead_cli.data.prepare.{name}" for name in ("synthetic", "local", "fetched", "check"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


# --- official datasets, made up -------------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path):
    return Official(tmp_path / "official")


LOCAL_SIZES = (6, 4, 3)
LOCAL_SPLITS = {"train": 6, "val": 4, "test": 3}


def test_local_takes_train_from_train_and_val_and_test_from_val(official, tmp_path):
    result = prepare_local(Local(root=tmp_path / "data", sizes=LOCAL_SIZES, seed=3, **official.arguments()))
    assert result.counts == {"cls": LOCAL_SPLITS, "seg": LOCAL_SPLITS, "det": LOCAL_SPLITS}
    base = {
        "mini_coco_det": official.coco,
        "mini_voc_seg": official.voc / "VOCdevkit" / "VOC2012" / "JPEGImages",
        "imagenette-160": official.imagenette,
    }
    for folder, source in base.items():
        originals = {path.name: path for path in source.rglob("*") if path.suffix.lower() in PICTURES}
        taken: Counter[str] = Counter()
        for split, size in LOCAL_SPLITS.items():
            copies = [p for p in (result.root / folder / split).rglob("*") if p.suffix.lower() in PICTURES]
            assert len(copies) == size
            for copy in copies:
                number = int(copy.stem.split("_")[-1])
                assert (number > 100) == (split != "train")
                assert not copy.is_symlink() and copy.read_bytes() == originals[copy.name].read_bytes()
                assert copy.stat().st_ino != originals[copy.name].stat().st_ino
                taken[copy.name] += 1
        assert set(taken.values()) == {1}


def test_local_coco_is_cut_to_ten_categories_and_keeps_the_rest_of_the_json(official, tmp_path):
    root = prepare_local(Local(root=tmp_path / "data", sizes=(9, 4, 3), **official.arguments())).root / "mini_coco_det"
    for split in ("train", "val", "test"):
        coco = load_coco(root / "annotations" / f"instances_{split}.json")
        original_split = "train" if split == "train" else "val"
        original = json.loads((official.coco / "annotations" / f"instances_{original_split}2017.json").read_text())
        assert coco.dataset["info"] == original["info"] and coco.dataset["licenses"] == original["licenses"]
        assert coco.dataset["categories"] == [{"id": n, "name": f"c{n}", "supercategory": "s"} for n in range(1, 11)]
        assert {image["file_name"] for image in coco.dataset["images"]} == {p.name for p in (root / split).iterdir()}
        assert all(image in original["images"] for image in coco.dataset["images"])
        ids = set(coco.getImgIds())
        # The three images without a box that counts are passed over; train asked for all nine others.
        assert not ids & {1, 2, 3, 101, 102, 103}
        expected = [a for a in original["annotations"] if a["image_id"] in ids and a["category_id"] <= 10]
        assert coco.dataset["annotations"] == sorted(expected, key=lambda a: a["id"])
        assert any(annotation["iscrowd"] for annotation in coco.dataset["annotations"])


def test_local_masks_follow_their_images(official, tmp_path):
    root = prepare_local(Local(root=tmp_path / "data", sizes=LOCAL_SIZES, **official.arguments())).root / "mini_voc_seg"
    for image in root.glob("*/JPEGImages/*"):
        with Image.open(image.parents[1] / "SegmentationClass" / f"{image.stem}.png") as mask:
            assert mask.getpixel((0, 0)) == int(image.stem[-3:])
    assert yaml.safe_load((root / "classes.yaml").read_text()) == list(VOC_CLASSES)


def test_local_classes_are_balanced(official, tmp_path):
    root = prepare_local(Local(root=tmp_path / "data", sizes=(7, 6, 3), **official.arguments())).root / "imagenette-160"
    for split, expected in (("train", [3, 2, 2]), ("val", [2, 2, 2]), ("test", [1, 1, 1])):
        assert [len(list((root / split / name).iterdir())) for name in ("n01", "n02", "n03")] == expected


def test_local_draw_depends_on_the_seed_and_not_on_the_order_on_disk(tmp_path):
    forwards, backwards = Official(tmp_path / "a"), Official(tmp_path / "b", backwards=True)
    one = prepare_local(Local(root=tmp_path / "one", sizes=LOCAL_SIZES, seed=1, **forwards.arguments()))
    two = prepare_local(Local(root=tmp_path / "two", sizes=LOCAL_SIZES, seed=1, **backwards.arguments()))
    other = prepare_local(Local(root=tmp_path / "other", sizes=LOCAL_SIZES, seed=2, **forwards.arguments()))
    assert files_of(one.root) == files_of(two.root)
    assert set(files_of(one.root)) != set(files_of(other.root))
    assert verify_manifest(one.root) == []


def test_local_passes_over_a_image_that_was_drawn_before(official, tmp_path):
    images = official.voc / "VOCdevkit" / "VOC2012" / "JPEGImages"
    for number in range(1, 12):
        (images / f"2007_{100 + number:06d}.jpg").write_bytes((images / f"2007_{number:06d}.jpg").read_bytes())
    with pytest.raises(DataError, match=r"mini_voc_seg val and test: found 1 unused images in val.txt, asked for 3"):
        prepare_local(Local(root=tmp_path / "data", sizes=(12, 2, 1), **official.arguments()))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((10, 3, 3), r"mini_coco_det train: found 9 unused images in train2017 .*, asked for 10"),
        ((3, 8, 3), r"mini_coco_det val and test: found 9 unused images in val2017 .*, asked for 11"),
        ((13, 3, 3), r"mini_voc_seg train: found 12 unused images in train.txt, asked for 13"),
        ((39, 3, 3), r"imagenette-160 train: found 12 unused images in train/n01, asked for 13"),
    ],
)
def test_too_few_images_name_the_split_and_leave_nothing(official, tmp_path, sizes, message):
    with pytest.raises(DataError, match=message) as caught:
        prepare_local(Local(root=tmp_path / "data", sizes=sizes, **official.arguments()))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "missing",
    [
        "coco/annotations/instances_val2017.json",
        "coco/train2017",
        "voc/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        "voc/VOCdevkit/VOC2012/SegmentationClass/2007_000002.png",
        "voc/VOCdevkit/VOC2012/JPEGImages/2007_000002.jpg",
        "imagenette/val",
        "imagenette/train/n02",
    ],
)
def test_what_is_missing_is_named(official, tmp_path, missing):
    path = official.coco.parent / missing
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="imagenette: train/ and val/" if missing.endswith("n02") else missing):
        prepare_local(Local(root=tmp_path / "data", sizes=(9, 1, 1), **official.arguments()))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"categories": 3}', "no list 'categories'"),
        ('{"categories": [{"id": 1}]}', r"categories\[0\] needs 'name' \(str\)"),
        ('{"categories": [{"id": "1", "name": "c1"}]}', r"categories\[0\] needs 'id' \(int\)"),
    ],
)
def test_a_broken_coco_json_is_named(official, tmp_path, content, message):
    path = official.coco / "annotations" / "instances_train2017.json"
    path.write_text(content)
    with pytest.raises(DataError, match=f"instances_train2017.json.*{message}"):
        prepare_local(Local(root=tmp_path / "data", sizes=(1, 1, 1), **official.arguments()))


def test_voc_may_be_given_as_the_inner_folder(official, tmp_path):
    arguments = {**official.arguments(), "voc": official.voc / "VOCdevkit" / "VOC2012"}
    inner = prepare_local(Local(root=tmp_path / "inner", sizes=(2, 1, 1), **arguments))
    outer = prepare_local(Local(root=tmp_path / "outer", sizes=(2, 1, 1), **official.arguments()))
    assert files_of(inner.root) == files_of(outer.root)


def test_local_through_the_command(tmp_path, capsys):
    official = Official(tmp_path / "official", images=30)
    arguments = [part for key, path in official.arguments().items() for part in (f"--{key}", str(path))]
    command = ["prepare-data", "--source", "local", "--data", str(tmp_path / "data"), *arguments, "--json", "--quiet"]
    assert run([*command, "--sizes", "12,10,10"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {key: {"train": 12, "val": 10, "test": 10} for key in ("cls", "seg", "det")}
    assert verify_manifest(tmp_path / "data") == []
    assert run([*command, "--sizes", "12,10,10"]) == 1  # it is there already
    assert capsys.readouterr().err.count("\n") == 1
    assert run([*command, "--sizes", "5000,10,10", "--overwrite"]) == 1
    assert "asked for 1667" in capsys.readouterr().err  # a third of 5000: there are three class folders
    assert verify_manifest(tmp_path / "data") == []  # what stood there still stands


def test_a_stopped_command_leaves_nothing_behind(tmp_path):
    root = tmp_path / "data"
    command = [sys.executable, "-m", "onehead_cli", "prepare-data", "--source", "synthetic", "--data", str(root), "-q"]
    with subprocess.Popen(command) as process:
        while process.poll() is None and not list(root.rglob("*.jpg")):
            time.sleep(0.02)
        process.terminate()
    assert process.returncode == 143
    assert not root.exists() or not list(root.iterdir())


def test_official_splits_with_other_categories_are_named(official, tmp_path):
    path = official.coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    next(c for c in content["categories"] if c["id"] == 4)["name"] = "zebra"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"instances_train2017\.json: category 4 is not 'c4' as in the val split"):
        prepare_local(Local(root=tmp_path / "data", sizes=(1, 1, 1), **official.arguments()))


def test_annotations_of_odd_types_are_named(official, tmp_path):
    path = official.coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": [*content["annotations"], [1]]}))
    with pytest.raises(DataError, match=r"annotations\[\d+\] needs 'id'"):
        prepare_local(Local(root=tmp_path / "data", sizes=(1, 1, 1), **official.arguments()))


ODD_VALUES = [None, True, -1, 10**400, math.inf, "1", [1], {}]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("section", ["categories", "images", "annotations", "licenses"])
def test_an_official_json_of_any_content_is_read_or_refused_in_one_line(official, tmp_path, split, section):
    path = official.coco / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    entry = content[section][-1]
    odd = [[], None, 3, [None], *([*content[section][:-1], {**entry, key: v}] for key in entry for v in ODD_VALUES)]
    files = FolderFiles("coco", official.coco)
    for number, changed in enumerate(odd):
        path.write_text(json.dumps({**content, section: changed}))
        try:
            draw = Draw("det", (4, 2, 2), 0, set())
            copy_coco(files, draw, Copier(tmp_path / str(number)), kept_categories(files, None))
        except OneheadError as error:
            assert str(error) and "\n" not in str(error), changed
