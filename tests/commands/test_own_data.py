"""Datasets under other names, in other places, and of fewer tasks."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from loading import load_split
from PIL import Image
from tiny import TINY

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.manifest import manifest_hash
from onehead_cli.registry import TASKS


def test_each_task_elsewhere_and_other_split_names(tiny_data, tmp_path):
    """Laid out as the official COCO is, and with splits of other names."""
    for split, name in (("train", "learn"), ("val", "choose"), ("test", "report")):
        shutil.copytree(tiny_data / "mini_coco_det" / split, tmp_path / "coco" / f"{name}2017")
        shutil.copytree(tiny_data / "mini_voc_seg" / split, tmp_path / "masks" / name)
        shutil.copytree(tiny_data / "imagenette-160" / split, tmp_path / "folders" / name)
        annotations = tmp_path / "coco" / "annotations"
        annotations.mkdir(exist_ok=True)
        source = tiny_data / "mini_coco_det" / "annotations" / f"instances_{split}.json"
        shutil.copy(source, annotations / f"instances_{name}2017.json")
    shutil.copy(tiny_data / "mini_voc_seg" / "classes.yaml", tmp_path / "masks")
    config = tmp_path / "own.yaml"
    config.write_text(
        "data:\n"
        "  det_images: coco/{split}2017\n"
        "  det_annotations: coco/annotations/instances_{split}2017.json\n"
        "  seg_root: masks\n"
        "  cls_root: folders\n"
        "  train_split: learn\n"
        "  val_split: choose\n"
        "  image_size: 64\n"
        "student: {epochs: 1, batch_size: 4}\n"
        "output: out\n"
    )
    assert run(["train-unified", "--config", str(config), "--lambda-distill", "0", "--quiet"]) == 0
    assert run(["evaluate", "--no-report", "--config", str(config), "--split", "choose,report", "--quiet"]) == 0
    assert (tmp_path / "out" / "evaluate.json").is_file()


def test_the_shipped_config_for_own_data(own, capsys):
    assert run(["prepare-data", "--check", str(own), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == {task: {"train": 12, "val": 10, "test": 10} for task in TASKS}
    output = own.parent.parent / "output" / "own"
    assert [path.name for path in output.iterdir()] == [".scan.json"]
    where = ["--config", str(own), *TINY[:-1]]
    assert run(["train-unified", *where, "--epochs", "1", "--no-pretrained", "--lambda-distill", "0"]) == 0
    assert run(["evaluate", "--no-report", "--config", str(own)]) == 0
    assert json.loads((output / "evaluate.json").read_text())["pictures"] == {"cls": 10, "seg": 10, "det": 10}


def test_a_check_of_a_config_needs_train_and_val_but_not_test(own, capsys):
    place = own.parent.parent / "data" / "own"
    shutil.rmtree(place / "classes" / "test")
    assert run(["prepare-data", "--check", str(own), "--quiet"]) == 0
    shutil.rmtree(place / "masks" / "val")
    assert run(["prepare-data", "--check", str(own), "--quiet"]) == 1
    message = capsys.readouterr().err
    assert (
        message.count("\n") == 1 and "masks/val: no such folder" in message and "leave seg out of data.tasks" in message
    )
    fewer = own.with_name("fewer.yaml")
    fewer.write_text(own.read_text().replace("[cls, seg, det]", "[det, cls]"))
    assert run(["prepare-data", "--check", str(fewer), "--quiet"]) == 0


def test_the_ignore_index_is_read_as_void(own, capsys):
    place = own.parent.parent / "data" / "own"
    expected = {}
    for path in place.glob("masks/*/*.png"):
        mask = np.array(Image.open(path))
        mask[:3] = 255
        expected[path] = mask
        Image.fromarray(np.where(mask == 255, 99, mask).astype(np.uint8)).save(path)
    assert run(["prepare-data", "--check", str(own), "--quiet"]) == 1
    assert "label 99, but there are" in capsys.readouterr().err
    own.write_text(own.read_text().replace("ignore_index: 255", "ignore_index: 99"))
    assert run(["prepare-data", "--check", str(own), "--quiet"]) == 0
    data = load_config(own).data
    read = load_split("seg", "train", data, interpolation="bicubic", budget=CacheBudget(0))
    for index, path in enumerate(read.listing.masks):
        assert (read.mask(index) == expected[path]).all()
    # 255 now means nothing.
    Image.fromarray(expected[path]).save(path)
    assert run(["prepare-data", "--check", str(own), "--quiet"]) == 1


def test_a_manifest_counts_only_for_what_is_read_beside_it(own, tiny_data):
    own_data = load_config(own).data
    elsewhere = Config(data=own_data.model_copy(update={"root": tiny_data}))
    beside = Config(data=DataConfig(root=tiny_data))
    digest = hashlib.sha256((tiny_data / "manifest.json").read_bytes()).hexdigest()
    assert manifest_hash(beside, TASKS) == digest and manifest_hash(elsewhere, TASKS) is None
    partly = Config(data=elsewhere.data.model_copy(update={"det_annotations": None}))
    assert manifest_hash(partly, TASKS) == manifest_hash(partly, ["det"]) == digest
    assert manifest_hash(partly, ["cls", "seg"]) is None
    named = beside.model_copy(update={"cls_root": tiny_data / "imagenette-160"})
    assert manifest_hash(named, ["cls"]) == digest


def test_no_other_data_where_the_root_has_a_manifest_that_nothing_was_read_by(
    own, trained, tiny_data, tmp_path, capsys
):
    """A prepared folder in `data.root` says nothing of images that lie elsewhere."""
    shutil.copy(tiny_data / "manifest.json", tmp_path / "manifest.json")
    with (tmp_path / "manifest.json").open("a") as file:
        file.write(" ")
    where = ["--config", str(own), "--data", str(tmp_path), "--output", str(trained), "--json", "--quiet"]
    assert run(["evaluate", "--no-report", *where, "--task", "cls", "--set", "evaluation.resamples=10"]) == 0
    assert "other data" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def two(tiny_data, tmp_path_factory):
    """Data without detection, and the output of its training: two teachers and a student."""
    root, output = tmp_path_factory.mktemp("two") / "data", tmp_path_factory.mktemp("two-output")
    shutil.copytree(tiny_data, root)
    shutil.rmtree(root / "mini_coco_det")
    where = ["--data", str(root), "--output", str(output), "--set", "data.tasks=[seg, cls]"]
    training = [*where, "--epochs", "1", "--no-pretrained", *TINY]
    assert run(["train-teacher", "--task", "all", *training]) == 0
    assert run(["train-unified", *training]) == 0
    return where, output


def test_two_tasks_train_and_evaluate(two, capsys):
    where, output = two
    assert sorted(path.name for path in output.glob("*_best.pth")) == ["all_best.pth", "cls_best.pth", "seg_best.pth"]
    student, teacher = load_checkpoint(output / "all_best.pth"), load_checkpoint(output / "seg_best.pth")
    assert student.architecture.tasks == ("cls", "seg") and set(student.architecture.classes) == {"cls", "seg"}
    # Two tasks and what they share; a teacher keeps the groups of the student.
    assert student.model().head.grouped.groups == teacher.model().head.grouped.groups == 3
    assert run(["evaluate", "--no-report", *where, "--quiet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == {"cls": 10, "seg": 10} and document["drop"]["det"]["verdict"] is None
    assert document["drop"]["seg"]["verdict"] and document["unified"]["map"] is None
    # The checkpoint knows its tasks: no config is needed to evaluate it.
    assert run(["evaluate", "--no-report", "--checkpoint", str(output / "all_best.pth"), *where[:4], "--quiet"]) == 0


def test_two_tasks_predict_and_profile(two, tmp_path, capsys):
    where, output = two
    image = tmp_path / "x.png"
    Image.new("RGB", (50, 40), (90, 120, 60)).save(image)
    checkpoint = ["--checkpoint", str(output / "all_best.pth")]
    assert run(["predict", str(image), *checkpoint, "--output", str(tmp_path), "--quiet"]) == 0
    record = json.loads((tmp_path / "predictions" / "predictions.jsonl").read_text())
    assert "class" in record and "mask" in record and "boxes" not in record
    capsys.readouterr()
    assert run(["profile", *checkpoint, "--runs", "1", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tasks"] == ["cls", "seg"] and set(document["teachers"]["each"]) == {"cls", "seg"}
    weights = torch.load(output / "all_best.pth", weights_only=True)["weights"]
    learned = sum(w.numel() for k, w in weights.items() if not k.endswith(("mean", "std", "running_var", "tracked")))
    assert document["parameters"] == learned
    assert run(["profile", "--no-pretrained", "--image-size", "64", "--runs", "1", *where[4:], "--quiet"]) == 0
    assert "One student against 2 teachers" in capsys.readouterr().out


def test_a_task_that_the_data_does_not_have(two, capsys):
    where, _ = two
    for command in (["train-teacher"], ["evaluate"]):
        assert run([*command, "--task", "det", *where]) == 2
        assert capsys.readouterr().err == "error: --task det: data.tasks names only cls, seg\n"
    only = ["--set", "data.tasks=[cls]"]
    assert run(["train-unified", *where[:4], *only]) == 2
    assert "needs at least two tasks" in capsys.readouterr().err
    assert run(["train-unified", *where[:4], "--lambda-distill", "0"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "instances_train.json: no such annotation file" in message
    assert "leave det out of data.tasks" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[]", "at least 1"),
        ("[cls, cls]", "named only once"),
        ("[cls, depth]", "'cls', 'seg' or 'det'"),
        ("clss", "did you mean 'cls'"),
    ],
)
def test_the_list_of_tasks_must_be_one(value, words, capsys):
    assert run(["evaluate", "--no-report", "--set", f"data.tasks={value}"]) == 2
    message = capsys.readouterr().err
    assert "data.tasks" in message and words in message and message.count("\n") == 1


def test_the_defaults_find_the_same_images(tiny_data):
    plain = DataConfig(root=tiny_data)
    placed = DataConfig(
        root="/nowhere",
        det_images=tiny_data / "mini_coco_det",
        det_annotations=tiny_data / "mini_coco_det" / "annotations",
        seg_root=tiny_data / "mini_voc_seg",
        cls_root=tiny_data / "imagenette-160" / "{split}",
    )
    for task in TASKS:
        found = [load_split(task, "val", d, interpolation="bicubic", budget=CacheBudget(0)) for d in (plain, placed)]
        assert found[0].paths == found[1].paths and found[0].classes == found[1].classes
