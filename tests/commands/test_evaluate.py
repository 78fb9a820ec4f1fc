"""evaluate through the real entry point, against scores worked out apart from it."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_checkpoint


def evaluate(capsys, data, output, *args):
    code = run(["evaluate", "--no-report", "--data", str(data), "--output", str(output), "--quiet", "--json", *args])
    return code, json.loads(capsys.readouterr().out)


def test_the_pinned_paths_of_the_json(tiny_data, trained, capsys):
    code, document = evaluate(capsys, tiny_data, trained, "--split", "val,test")
    assert code == 0 and document["schema"] == 1
    for network in ("unified", "baseline"):
        assert set(document[network]) == {"top1", "top5", "miou", "map", "map50"}
        assert all(0 <= v <= 1 for v in document[network].values())
    assert document["pictures"] == {"cls": 20, "seg": 20, "det": 20}
    for task, metric in (("cls", "top1"), ("seg", "miou"), ("det", "map")):
        drop = document["drop"][task]
        assert drop["diff"] == pytest.approx(document["unified"][metric] - document["baseline"][metric])
        assert drop["low"] <= drop["high"] and drop["verdict"] in {"PASS", "FAIL", "INCONCLUSIVE"}
    assert json.loads((trained / "evaluate.json").read_text()) == document
    for task in ("cls", "seg", "det"):
        for suffix in ("json", "csv", "md"):
            assert (trained / f"per_class_{task}.{suffix}").stat().st_size > 100
    for network in ("baseline", "unified"):
        with (trained / f"confusion_cls_{network}.csv").open() as file:
            counts = [[int(n) for n in row[1:]] for row in list(csv.reader(file))[1:]]
        right = sum(counts[i][i] for i in range(10))
        assert sum(map(sum, counts)) == 20 and right / 20 == pytest.approx(document[network]["top1"])
        with (trained / f"precision_recall_{network}.csv").open() as file:
            rows = list(csv.reader(file))[1:]
        columns = [[float(row[c]) for row in rows] for c in range(1, 11) if rows[0][c]]
        assert np.mean(columns) == pytest.approx(document[network]["map50"])


def test_scores_equal_a_plain_computation(tiny_data, trained, capsys):
    """Top-1 and mIoU by a loop that shares no code with the command but the network itself."""
    _, document = evaluate(capsys, tiny_data, trained, "--set", "model.precision=fp32")
    checkpoint = load_checkpoint(trained / "all_best.pth")
    model = checkpoint.model()

    def maps(path):
        image = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            return model(images)

    right, folders = [], sorted((tiny_data / "imagenette-160" / "test").iterdir())
    for label, folder in enumerate(folders):
        for path in sorted(folder.iterdir()):
            cells = maps(path)["cls"][0].flatten(1)
            sure = cells.softmax(0).max(0).values >= checkpoint.thresholds["cells"]
            logits = cells[:, sure].mean(1) if sure.any() else cells.mean(1)
            right.append(int(logits.argmax()) == label)
    assert document["unified"]["top1"] == pytest.approx(np.mean(right))

    names = checkpoint.architecture.classes["seg"]
    inter, union, truth = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
    split = tiny_data / "mini_voc_seg" / "test"
    for path in sorted((split / "JPEGImages").iterdir()):
        label = np.array(Image.open(split / "SegmentationClass" / f"{path.stem}.png"))
        logits = F.interpolate(maps(path)["seg"], size=label.shape, mode="bilinear", align_corners=False)
        predicted = logits[0].argmax(0).numpy()
        for c in range(len(names)):
            mine, theirs = (predicted == c) & (label != 255), label == c
            inter[c] += (mine & theirs).sum()
            union[c] += (mine | theirs).sum()
            truth[c] += theirs.sum()
    expected = np.mean([inter[c] / union[c] for c in range(len(names)) if truth[c]])
    assert document["unified"]["miou"] == pytest.approx(expected, abs=2e-4)


def test_one_task_leaves_the_others_null(tiny_data, trained, capsys):
    _, document = evaluate(capsys, tiny_data, trained, "--task", "seg", "--split", "val")
    assert document["unified"]["top1"] is None and document["unified"]["map"] is None
    assert document["unified"]["miou"] is not None
    assert document["drop"]["cls"] == dict.fromkeys(
        ("diff", "low", "high", "within_limit", "verdict", "reason", "images_to_decide")
    )
    assert document["drop"]["seg"]["verdict"]


def test_a_teacher_alone_is_a_baseline(tiny_data, trained, tmp_path, capsys):
    code, document = evaluate(capsys, tiny_data, tmp_path, "--checkpoint", str(trained / "det_best.pth"))
    assert code == 0 and document["baseline"]["map"] is not None
    assert set(document["unified"].values()) == {None}
    code = run(
        [
            "evaluate",
            "--no-report",
            "--data",
            str(tiny_data),
            "--checkpoint",
            str(trained / "det_best.pth"),
            "--task",
            "cls",
        ]
    )
    assert code == 1 and "no output for cls" in capsys.readouterr().err


def test_without_teachers_there_is_no_drop_check(tiny_data, trained, tmp_path, capsys):
    checkpoint = str(trained / "all_best.pth")
    code, document = evaluate(capsys, tiny_data, tmp_path, "--checkpoint", checkpoint)
    assert code == 0 and document["drop"]["det"]["verdict"] is None
    assert not (tmp_path / "drop_check.md").exists()
    # What was not compared is not known to be unharmed.
    assert evaluate(capsys, tiny_data, tmp_path, "--checkpoint", checkpoint, "--strict")[0] == 11
    assert (
        run(["evaluate", "--no-report", "--data", str(tiny_data), "--output", str(trained), "--teachers", "nowhere"])
        == 1
    )
    assert "nowhere: no such folder of teachers" in capsys.readouterr().err


def test_a_network_against_itself_loses_nothing(tiny_data, trained, tmp_path, capsys):
    for task in ("cls", "seg", "det"):
        # The student itself, passed off as each of its teachers.
        shutil.copy(trained / "all_best.pth", tmp_path / f"{task}_best.pth")
    shutil.copy(trained / "all_best.pth", tmp_path)
    code, document = evaluate(capsys, tiny_data, tmp_path, "--strict")
    # The tiny network finds no box, so that of them nothing can be lost.
    assert code == 11 and document["baseline"] == document["unified"] and document["unified"]["map"] == 0
    same = {"diff": 0, "low": 0, "high": 0, "within_limit": True, "verdict": "PASS", "reason": None}
    same["images_to_decide"] = None
    assert document["drop"]["cls"] == document["drop"]["seg"] == same
    reason = "mAP is 0 for both networks: there was nothing to lose"
    assert document["drop"]["det"] == {**same, "verdict": "INCONCLUSIVE", "reason": reason}
    assert f"det: {reason}, so the verdict is INCONCLUSIVE" in document["warnings"]


def test_a_blind_student_fails_and_strict_says_so(tiny_data, trained, tmp_path, capsys):
    # A student whose segmentation output is blind must fail against the teacher, whatever that is worth.
    student = load_checkpoint(trained / "all_best.pth")
    student.weights["identity.seg.bias"][1] = 1e4
    save_checkpoint(tmp_path / "all_best.pth", student)
    options = ["--teachers", str(trained), "--task", "seg", "--set", "evaluation.drop_limit=0.001", "--strict"]
    code, document = evaluate(capsys, tiny_data, tmp_path, *options)
    assert document["drop"]["seg"]["verdict"] == "FAIL" and code == 10


def test_the_relative_limit_is_a_share_of_the_baseline(tiny_data, trained, capsys):
    _, absolute = evaluate(capsys, tiny_data, trained, "--task", "seg", "--set", "evaluation.drop_limit=0.5")
    _, relative = evaluate(
        capsys, tiny_data, trained, "--task", "seg", "--set", "evaluation.drop_limit=0.5", "--relative"
    )
    diff, baseline = relative["drop"]["seg"]["diff"], relative["baseline"]["miou"]
    assert absolute["drop"]["seg"]["within_limit"] == (diff > -0.5)
    assert relative["drop"]["seg"]["within_limit"] == (diff > -0.5 * baseline)


def test_a_split_without_a_box_leaves_the_other_tasks_their_report(tiny_data, trained, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    path = root / "mini_coco_det" / "annotations" / "instances_test.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    code, document = evaluate(capsys, root, trained)
    assert code == 0 and document["unified"]["map"] is None and document["drop"]["det"]["verdict"] is None
    assert document["drop"]["seg"]["verdict"] and any("det" in w for w in document["warnings"])


def test_fault_28_class_absent_from_a_split(tiny_data, trained, tmp_path, capsys):
    """A class without an example in a split is left out of the mean, and notes and reports say so."""
    root, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_data, root)
    path = root / "mini_coco_det" / "annotations" / "instances_test.json"
    document = json.loads(path.read_text())
    absent, kept = document["categories"][0], [a for a in document["annotations"] if a["category_id"] != 1]
    path.write_text(json.dumps({**document, "annotations": kept}))
    where = ["--data", str(root), "--output", str(output), "--task", "det"]
    assert run(["evaluate", "--no-report", *where, "--checkpoint", str(trained / "all_best.pth"), "--json"]) == 0
    captured = capsys.readouterr()
    assert f"det test: no example of {absent['name']}" in captured.err and "left out of the mean" in captured.err
    rows = json.loads((output / "per_class_det.json").read_text())["unified"]
    scores = {row["name"]: row["ap"] for row in rows}
    assert scores.pop(absent["name"]) is None
    present = [score for score in scores.values() if score is not None]
    assert json.loads(captured.out)["unified"]["map"] == pytest.approx(np.mean(present))
    assert f"left out of the mean: {absent['name']}" in (output / "per_class_det.md").read_text()


def test_the_table_of_the_reference(tiny_data, trained, capsys):
    assert run(["evaluate", "--no-report", "--data", str(tiny_data), "--output", str(trained), "--quiet"]) == 0
    shown = capsys.readouterr().out
    for word in ("Baseline", "Unified", "Diff.", "<5% drop?", "95% interval", "Verdict", "Top-1", "mIoU", "mAP"):
        assert word in shown


def test_another_size_of_the_config_does_not_change_how_a_checkpoint_is_read(tiny_data, trained, capsys):
    _, one = evaluate(capsys, tiny_data, trained)
    _, two = evaluate(capsys, tiny_data, trained, "--set", "data.image_size=128", "--set", "data.fit=letterbox")
    assert one["unified"] == two["unified"]


def test_classes_that_differ_from_the_checkpoint_are_an_error(tiny_data, trained, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    folder = sorted((root / "imagenette-160" / "test").iterdir())[0]
    folder.rename(folder.with_name("aardvark"))
    assert run(["evaluate", "--no-report", "--data", str(root), "--output", str(trained), "--quiet"]) == 1
    message = capsys.readouterr().err
    assert "classes of the split test differ" in message and "aardvark" in message


def test_other_data_than_a_checkpoint_was_trained_on_is_said_once_of_each(tiny_data, trained, tmp_path, capsys):
    manifest = tiny_data / "manifest.json"
    trained_on = hashlib.sha256(manifest.read_bytes()).hexdigest()
    for name in ("all", "cls", "seg", "det"):
        for kind in ("best", "last"):
            assert load_checkpoint(trained / f"{name}_{kind}.pth").data == {"manifest": trained_on}

    def warnings_for(content):
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tiny_data, root)
        (root / "manifest.json").unlink()
        if content is not None:
            (root / "manifest.json").write_bytes(content)
        _, document = evaluate(capsys, root, trained, "--task", "cls", "--set", "evaluation.resamples=10")
        return [warning for warning in document["warnings"] if "not trained on the data now in" in warning]

    assert warnings_for(manifest.read_bytes()) == warnings_for(None) == []
    found = warnings_for(manifest.read_bytes() + b" ")
    assert [warning.split(":")[0] for warning in found] == ["all", "cls"], "of those that are measured"
    assert all(trained_on[:12] in warning and str(tmp_path / "data") in warning for warning in found)
    # Another student has the same name, and does not hide what is said of the first.
    root, other = tmp_path / "data", tmp_path / "other.pth"
    now = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    save_checkpoint(other, replace(load_checkpoint(trained / "all_best.pth"), data={"manifest": now}))
    for checkpoint, against, who in ((trained / "all_best.pth", other, "all"), (other, trained, f"cls of {trained}")):
        command = ("--task", "cls", "--checkpoint", str(checkpoint), "--against", str(against))
        _, document = evaluate(capsys, root, tmp_path / "out", *command)
        assert [line.split(":")[0] for line in document["warnings"] if "not trained on" in line] == [who]
