"""The final results, through the scripts' real entry points on tiny data."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import run
from PIL import Image

from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.registry import TASKS

#: With `make bench-quick`.
pytestmark = [pytest.mark.benchmark, pytest.mark.xdist_group("results")]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: results.py with specialists of one epoch.
SHORT = """
import sys
import results
for task, schedule in results.specialists.SCHEDULES.items():
    results.specialists.SCHEDULES[task] = schedule.model_copy(update={"epochs": 1})
sys.exit(results.main())
"""
#: Of the data that a test below writes.
DATA_OF_0_1_0 = "7f9df91d6c6da1997e9967550cc55c9385fd923d1d100818de9e788da921af56"
METRICS = {"cls": "top1", "seg": "miou", "det": "map"}


def test_the_hash_of_the_data_is_that_of_0_1_0(tmp_path):
    """By it a kept result is known; names and bytes count, whatever they are."""
    from common import data_hashes

    from onehead_cli.config.sections import Config

    def write(path, content):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)

    for name in ("ant/b.jpg", "ant/a.jpg", "bee/a.jpg"):
        write(f"imagenette-160/train/{name}", name)
    write("mini_voc_seg/classes.yaml", "[ground, cat]")
    write("mini_voc_seg/train/JPEGImages/a.jpg", "an image")
    write("mini_voc_seg/train/SegmentationClass/a.png", "a mask")
    write("mini_coco_det/train/a.jpg", "an image")
    boxes = [
        {"bbox": [-5, 10, 30, 20], "category_id": 3, "area": 11.5, "iscrowd": 0},
        {"bbox": [0.123456789, 1e-7, 10.000000001, 12], "category_id": 7, "iscrowd": 1},
        {"bbox": [1, 1, 0, 5], "category_id": 7},  # dropped
    ]
    document = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": i, "image_id": 5, **box} for i, box in enumerate(boxes)],
        "categories": [{"id": 7, "name": "kite"}, {"id": 3, "name": "boat"}],
    }
    write("mini_coco_det/annotations/instances_train.json", json.dumps(document))
    config = Config.model_validate({"data": {"root": tmp_path}})
    assert data_hashes(config, ["train"]) == {"train": DATA_OF_0_1_0}


def test_the_mean_of_an_epoch_is_taken_over_its_steps(tmp_path):
    from report.measure import read_epochs

    step = {"kind": "step", "epoch": 1, "weights": {"cls": 0.25}}
    epoch = {"kind": "epoch", "epoch": 1, "scores": {"top1": 0.5, "miou": None}, "best": True, "seconds": 2.04}
    lines = [
        {"kind": "scan", "step": 0, "skipped": {}},
        {**step, "losses": {"cls": 1.0}},
        {"kind": "resumed", "epoch": 1, "step": 1, "message": ""},
        {**step, "losses": {"cls": 3.0}, "weights": {"cls": 0.75}},
        epoch,
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_epochs(tmp_path / "all.jsonl") == [
        {
            "epoch": 1,
            "seconds": 2.0,
            "best": True,
            "val": {"top1": 0.5, "miou": None},
            "losses": {"cls": 2.0},
            "weights": {"cls": 0.5},
        }
    ]


def test_the_imagenet_classifier_is_timms_own_cut_to_the_classes(tiny_data, tmp_path):
    import timm
    import torch
    from report.measure import imagenet_top1

    from onehead_cli.commands.console import Console
    from onehead_cli.config.load import load_config
    from onehead_cli.network.weights import load_pretrained

    names = {"n01440764": 0, "n03888257": 701}  # tench and parachute, with their places in ImageNet
    sources = sorted((tiny_data / "imagenette-160").rglob("*.jpg"))[:8]
    for index, path in enumerate(sources):
        folder = tmp_path / "imagenette-160" / ("val" if index < 4 else "test") / list(names)[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.resize((64, 64)).save(folder / f"{index}.png")
    settings = {"data.root": tmp_path, "data.image_size": 64, "model.precision": "fp32"}
    said = imagenet_top1(load_config(None, settings), Console(quiet=True))

    model = timm.create_model("tf_efficientnet_lite0").eval()
    load_pretrained(model, "tf_efficientnet_lite0", None)
    hits = {}
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as picture:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            logits = model((pixels - 0.5) / 0.5)[0, list(names.values())]
        right = path.parent.name == list(names)[int(logits.argmax())]
        hits.setdefault(path.parts[-3], []).append(right)
    means = {split: np.mean(found) for split, found in hits.items()}
    assert said == pytest.approx({**means, "pooled": np.mean(hits["val"] + hits["test"])})


@pytest.fixture(scope="module")
def units(tiny_data, tmp_path_factory):
    """The whole run on tiny data: the teachers first, without a test split in sight, then all the rest."""
    root = tmp_path_factory.mktemp("results")
    (root / "tiny.yaml").write_text(
        "data: {image_size: 64}\nmodel: {backbone: mobilenetv3_small_050, pretrained: false}\n"
        "teacher: {epochs: 1, batch_size: 6, boxes_from_masks: true}\n"
        "student: {epochs: 1, batch_size: 6, boxes_from_masks: true}\n"
        "distill: {images: all}\nevaluation: {resamples: 10}\n"
    )
    shutil.copytree(tiny_data, root / "blind", ignore=shutil.ignore_patterns("test", "instances_test.json"))
    early = _results(root, "--only", "students", data=tiny_data)
    teachers = _results(root, "--only", "teachers", "--recipe", "full", data=root / "blind")
    whole = _results(root, data=tiny_data)
    assert teachers.returncode == 0, teachers.stderr
    assert whole.returncode == 0, whole.stderr
    return root, early, whole


def _results(root, *options, data):
    command = ["-c", SHORT, "--config", root / "tiny.yaml", "--data", data, "--seeds", "0"]
    command += ["--output", root / "out", "--results", root / "kept", "--pictures", root / "docs" / "results", *options]
    return run(*command, cwd=BENCHMARKS)


def test_a_student_whose_teachers_are_not_trained_is_one_line(units):
    _, early, _ = units
    assert early.returncode == 1 and early.stderr.count("\n") == 1
    assert "full-seed0: not trained yet: cls, seg, det" in early.stderr and "--only teachers" in early.stderr


def test_a_unit_keeps_what_evaluate_says(units):
    root, _, whole = units
    for recipe in ("full", "plain"):
        path = root / "kept" / f"tiny-{recipe}-seed0.json"
        assert path.stat().st_size < 300_000
        document = json.loads(path.read_text())
        assert str(root) not in path.read_text()  # no folder of this machine
        assert document["config"]["teacher"]["boxes_from_masks"] == (recipe == "full")
        for report, pictures in {"val": 10, "test": 10, "pooled": 20}.items():
            folder = root / "out" / f"{recipe}-seed0" / f"evaluate-{report}"
            said = json.loads((folder / "evaluate.json").read_text())
            kept = document["evaluation"][report]
            for task in TASKS:
                rows = json.loads((folder / f"per_class_{task}.json").read_text())
                assert rows == {"task": task, **kept["per_class"][task]}
            assert kept["pictures"] == dict.fromkeys(TASKS, pictures)
            for who in ("unified", "baseline"):
                assert kept[who] == said[who] and kept[who][METRICS["seg"]] is not None
                assert sum(row["count"] for row in kept["per_class"]["cls"][who]) == pictures
        for task in ("cls", "seg"):
            [names, *rows] = csv.reader((folder / f"confusion_{task}_unified.csv").read_text().splitlines())
            counted = {(row[0], given): n for row in rows for given, n in zip(names[1:], row[1:], strict=True)}
            pairs = document["errors"][task]
            assert pairs and [str(pair["count"]) for pair in pairs] == [
                counted[pair["true"], pair["given"]] for pair in pairs
            ]
        boxes = sum(row["count"] for row in document["evaluation"]["pooled"]["per_class"]["det"]["unified"])
        errors = document["errors"]["det"]
        assert sum(row["true"] for row in errors["classes"]) == boxes
        # Counted a second time, by error_analysis.
        given = errors["correct"] + sum(errors["false_positives"].values())
        shown = document["evaluation"]["pooled"]["shown_boxes"]
        assert shown["precision"] == (pytest.approx(errors["correct"] / given) if given else None)
        assert shown["recall"] == pytest.approx(errors["correct"] / boxes)
        assert list(document["networks"]) == ["cls", "seg", "det", "all"]
        assert all(len(network["epochs"]) == 1 and network["seconds"] > 0 for network in document["networks"].values())
        assert document["imagenet_classifier"] is None  # its classes are not ImageNet's
    assert "not an ImageNet class" in whole.stderr


def test_plain_takes_over_the_teachers_that_masks_and_boxes_do_not_reach(units):
    root, _, _ = units
    full, plain = root / "out" / "full-seed0", root / "out" / "plain-seed0"
    for task in ("cls", "seg"):
        assert (full / f"{task}_best.pth").read_bytes() == (plain / f"{task}_best.pth").read_bytes()
    assert (full / "det_best.pth").read_bytes() != (plain / "det_best.pth").read_bytes()
    networks = json.loads((root / "kept" / "tiny-plain-seed0.json").read_text())["networks"]
    assert [networks[name]["copied_from"] for name in networks] == ["full-seed0", "full-seed0", None, None]


def test_finished_units_are_not_done_again(units, tiny_data):
    root, _, _ = units
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    again = _results(root, data=tiny_data)
    assert again.returncode == 0 and again.stderr.count("done already") == 8
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_a_result_that_was_read_in_another_way_is_measured_again(units, tiny_data):
    """The training is not: how boxes are read, and where the drop check's limit is, matters to no weight."""
    from common import finished, kept
    from report.units import NETWORKS, unit_of

    root, _, _ = units
    unit = unit_of(root / "tiny.yaml", "full", seed=0, data=tiny_data, output=root / "out")
    found = []
    for change in ({"batch_size": 3}, {"nms_iou": 0.9}, {"drop_limit": 0.01}):
        evaluation = unit.config.evaluation.model_copy(update=change)
        config = unit.config.model_copy(update={"evaluation": evaluation})
        assert finished(unit.marker("all"), config, ["all"])
        found.append(kept(root / "kept", root / "tiny.yaml", unit.name, config, NETWORKS))
    assert found == [root / "kept" / "tiny-full-seed0.json", None, None]


def test_units_of_other_data_are_stale(units, tiny_data, tmp_path):
    root, _, _ = units
    shutil.copytree(root, tmp_path / "own")
    shutil.copytree(tiny_data, tmp_path / "data")
    nothing = _results(tmp_path / "own", "--only", "specialists", "--task", "cls", data=tmp_path / "nothing")
    assert nothing.returncode == 1 and nothing.stderr.count("\n") == 1 and "nothing" in nothing.stderr
    [first, *_] = sorted((tmp_path / "data" / "imagenette-160" / "test").rglob("*.jpg"))
    Image.new("RGB", (80, 60), "red").save(first)
    again = _results(tmp_path / "own", "--only", "specialists", "--task", "cls", data=tmp_path / "data")
    assert again.returncode == 0 and "done already" not in again.stderr
    kept = [
        json.loads((folder / "kept" / "tiny-specialist-cls-seed0.json").read_text())
        for folder in (root, tmp_path / "own")
    ]
    assert [split for split, digest in kept[0]["data"].items() if digest != kept[1]["data"][split]] == ["test"]


def test_a_network_that_learned_from_other_data_is_trained_anew(units, tiny_data, tmp_path):
    """And one that learned from these goes on, here from its end."""
    root, _, _ = units
    shutil.copytree(root, tmp_path / "own")
    shutil.copytree(tiny_data, tmp_path / "data")
    folder = tmp_path / "own" / "out" / "full-seed0"
    before = (folder / "cls_best.pth").read_bytes()
    command = ("--only", "teachers", "--recipe", "full", "--task", "cls")
    [result] = (tmp_path / "own" / "kept").glob("*-full-seed0.json")
    for path in (result, folder / "cls_finished.json"):
        path.unlink()
    assert _results(tmp_path / "own", *command, data=tmp_path / "data").returncode == 0
    assert (folder / "cls_best.pth").read_bytes() == before

    (folder / "cls_finished.json").unlink()
    (tmp_path / "data" / "manifest.json").unlink()
    for path in (tmp_path / "data" / "imagenette-160" / "train").rglob("*.jpg"):
        Image.new("RGB", (80, 60), "red").save(path)
    anew = _results(tmp_path / "own", *command, data=tmp_path / "data")
    assert anew.returncode == 0 and "not known to have learned from these data; it starts anew" in anew.stderr
    assert (folder / "cls_best.pth").read_bytes() != before


def test_what_was_stopped_before_it_began_anew_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    """What belongs to the other data is gone before these are written down."""
    import common

    config = Config.model_validate({"output": tmp_path})
    (tmp_path / "cls_last.pth").touch()
    (tmp_path / "cls_previous.pth").touch()
    for data, goes_on in (({"train": "a"}, False), ({"train": "a"}, False), ({"train": "b"}, False)):
        monkeypatch.setattr(common, "data_hashes", lambda config, splits, data=data: data)
        assert common.goes_on("cls", config, Console(quiet=True)) is goes_on
    (tmp_path / "cls_last.pth").touch()
    assert common.goes_on("cls", config, Console(quiet=True))


def test_a_long_baseline_learns_for_the_epochs_of_teacher_and_student(units):
    root, _, _ = units
    for task in TASKS:
        document = json.loads((root / "kept" / f"tiny-long-baseline-{task}-seed0.json").read_text())
        assert [epoch["epoch"] for epoch in document["epochs"]] == [1, 2]
        said = json.loads((root / "out" / "long-seed0" / "evaluate-pooled" / "evaluate.json").read_text())
        assert document["config"]["teacher"]["epochs"] == 2 and document["config"]["student"]["epochs"] == 1
        assert document["scores"]["val"][METRICS[task]] is not None
        assert sum(row["count"] for row in document["per_class"]["pooled"]) > 0
    assert document["scores"]["pooled"] == said["baseline"]  # the last one that was measured


def test_the_sheet_that_is_passed_on_has_no_photograph(units):
    root, _, _ = units
    paths = (root / "out" / "predictions.png", root / "docs" / "results" / "predictions.png")
    with Image.open(paths[0]) as photographs, Image.open(paths[1]) as plain:
        assert photographs.size == plain.size
        # A tile without its photograph has the few colours of ground, tint, contours and text.
        assert _colours(photographs) > 20 * _colours(plain)


def _colours(picture):
    return len(picture.convert("RGB").getcolors(2**24))


def test_the_page_of_the_run_shows_its_pictures(units):
    root, _, _ = units
    command = [BENCHMARKS / "results_page.py", "--config", root / "tiny.yaml", "--seeds", "0,1"]
    command += ["--results", root / "kept"]
    result = run(*command, "--page", root / "docs" / "RESULTS.md")
    assert result.returncode == 0, result.stderr
    text = (root / "docs" / "RESULTS.md").read_text()
    for name in ("predictions.png", "conversions.png", "val.png"):
        assert f"(results/{name})" in text and (root / "docs" / "results" / name).is_file()
    assert "not made yet" not in text and "nan" not in text and str(root) not in text


def test_tiles_are_chosen_by_their_score_alone():
    from report.sheet import Tile, choose

    tiles = [Tile(Path(f"{n}.jpg"), None, n / 10, "", "", "") for n in range(9)]
    chosen = [(rank, tile.path.stem) for rank, tile in choose(tiles)]
    assert chosen == [("best", "8"), ("middle", "3"), ("worst", "0"), ("best", "7"), ("middle", "4"), ("worst", "1")]


@pytest.mark.parametrize("options", [["--task", "cls"], ["--seeds", "0,x"], ["--only", "students", "--task", "seg"]])
def test_options_that_do_not_fit_are_a_usage_error(options, monkeypatch, capsys):
    import results

    monkeypatch.setattr(sys, "argv", ["results.py", *options])
    with pytest.raises(SystemExit) as stopped:
        results.main()
    assert stopped.value.code == 2 and options[-2] in capsys.readouterr().err
