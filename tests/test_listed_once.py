"""Each split is listed once per run, and each validation runs each image through the network once."""

import shutil
from collections import Counter

import pytest
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.data import cache, class_folders, coco, mask_folders
from onehead_cli.network.onehead import OneHead


@pytest.fixture
def listed(monkeypatch):
    """How often each COCO JSON was parsed and each folder of images listed."""
    counts = Counter()

    def counting(module, name):
        real = getattr(module, name)

        def counted(path, *rest):
            counts[path.name if path.suffix else "/".join(path.parts[-2:])] += 1
            return real(path, *rest)

        monkeypatch.setattr(module, name, counted)

    counting(coco, "read_coco")
    for module in (class_folders, mask_folders):
        counting(module, "images_in")
    return counts


def jsons(counts):
    return {name: count for name, count in counts.items() if name.endswith(".json")}


def test_a_split_is_listed_once_in_the_training_of_all_teachers(tiny_data, tmp_path, listed):
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    more = ["--set", "teacher.boxes_from_masks=true", "--set", "detection.priors=kmeans"]
    assert run(["train-teacher", "--task", "all", *where, *more]) == 0
    assert jsons(listed) == {"instances_train.json": 1, "instances_val.json": 1}
    assert set(listed.values()) == {1}


def test_a_split_is_listed_once_in_evaluation_of_student_and_teachers(trained, tiny_data, tmp_path, listed):
    where = ["--data", str(tiny_data), "--teachers", str(trained), "--output", str(tmp_path), "--quiet"]
    assert (
        run(["evaluate", "--no-report", "--checkpoint", str(trained / "all_best.pth"), "--split", "val,test", *where])
        == 0
    )
    assert jsons(listed) == {"instances_val.json": 1, "instances_test.json": 1}
    assert set(listed.values()) == {1}


def test_a_bad_image_does_not_make_a_split_be_listed_again(tiny_data, tmp_path, listed):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    next((root / "mini_coco_det" / "train").iterdir()).write_bytes(b"")
    where = ["--data", str(root), "--output", str(tmp_path / "out"), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", "det", "--skip-bad", *where]) == 0
    assert jsons(listed) == {"instances_train.json": 1, "instances_val.json": 1}


def test_each_image_of_val_passes_through_the_network_once(tiny_data, tmp_path, monkeypatch):
    """Though detection is read with two NMS, and classification by every threshold."""
    seen = Counter()
    real = OneHead.forward

    def counted(self, images):
        if not self.training:
            seen["images"] += len(images)
        return real(self, images)

    monkeypatch.setattr(OneHead, "forward", counted)
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1", *SMALL]
    assert run(["train-unified", "--lambda-distill", "0", *where]) == 0
    assert seen["images"] == 3 * 10


def test_each_image_is_decoded_once_where_none_is_kept(trained, tiny_data, tmp_path, monkeypatch):
    """By each network that is evaluated, whose input and whose place in it come of one decoding."""
    opened = Counter()
    real = cache.open_image
    monkeypatch.setattr(cache, "open_image", lambda path: opened.update([path]) or real(path))
    where = ["--data", str(tiny_data), "--teachers", str(tmp_path), "--output", str(tmp_path), "--quiet"]
    command = ["evaluate", "--no-report", "--checkpoint", str(trained / "all_best.pth"), "--split", "val", *where]
    assert run([*command, "--set", "data.cache_mb=0"]) == 0
    assert len(opened) == 30 and set(opened.values()) == {1}
