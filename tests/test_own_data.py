"""Datasets under other names and in other places."""

import shutil

from onehead_cli.app import run
from onehead_cli.config import DataConfig
from onehead_cli.datasets.pictures import CacheBudget
from onehead_cli.datasets.sources import load_split
from onehead_cli.types import TASKS


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
    assert run(["evaluate", "--config", str(config), "--split", "choose,report", "--quiet"]) == 0
    assert (tmp_path / "out" / "evaluate.json").is_file()


def test_the_defaults_find_the_same_pictures(tiny_data):
    plain = DataConfig(root=tiny_data)
    placed = DataConfig(
        root="/nowhere",
        det_images=tiny_data / "mini_coco_det",
        det_annotations=tiny_data / "mini_coco_det" / "annotations",
        seg_root=tiny_data / "mini_voc_seg",
        cls_root=tiny_data / "imagenette-160",
    )
    for task in TASKS:
        found = [load_split(task, "val", d, interpolation="bicubic", budget=CacheBudget(0)) for d in (plain, placed)]
        assert found[0].paths == found[1].paths and found[0].classes == found[1].classes
