from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onehead_cli.errors import OneheadError
from onehead_cli.evaluation.drop_check import Drop
from onehead_cli.evaluation.report import drop_table, write_report
from onehead_cli.tasks.detection.average_precision import DetectionResult
from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.tasks.reader import Row
from onehead_cli.tasks.task import confusion_rows

BASELINE: list[Row] = [
    {"name": "cat", "count": 1200, "iou": 1 / 3},
    {"name": "a|b", "count": 5, "iou": 0.25},
    {"name": "Kuh, schön", "count": 0, "iou": None},
]
UNIFIED: list[Row] = [{**row, "iou": iou} for row, iou in zip(BASELINE, (0.5, 0.125, None), strict=True)]
DROPS = [
    Drop(
        task="cls",
        metric="top1",
        baseline=0.8667,
        unified=0.85,
        limit=0.05,
        relative=False,
        diff=-0.0167,
        low=-0.06,
        high=0.02,
        within_limit=True,
        verdict="INCONCLUSIVE",
    ),
    Drop(
        task="det",
        metric="map",
        baseline=0.1,
        unified=0.0,
        limit=0.05,
        relative=False,
        diff=-0.1,
        low=-0.12,
        high=-0.00001,
        within_limit=False,
        verdict="FAIL",
    ),
]


def _write(folder: Path, **changes: Any) -> list[Path]:
    arguments: dict[str, Any] = {
        "document": {"schema": 1},
        "per_class": {"seg": {"baseline": BASELINE, "unified": UNIFIED}},
        "drops": DROPS,
        "curves": {},
    }
    return write_report(folder, **(arguments | changes))


def test_files_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    paths = _write(folder)
    assert [path.name for path in paths] == [
        "evaluate.json",
        "per_class_seg.json",
        "per_class_seg.csv",
        "per_class_seg.md",
        "drop_check.md",
    ]
    assert sorted(paths) == sorted(folder.iterdir())


def test_drop_table_by_eye() -> None:
    lines = drop_table(DROPS).splitlines()
    assert lines[:4] == [
        "| Task           | Metric | Baseline | Unified |   Diff. | <5% drop? |       95% interval | Verdict      |",
        "| -------------- | ------ | -------: | ------: | ------: | --------- | -----------------: | ------------ |",
        "| Classification | Top-1  |   0.8667 |  0.8500 | -0.0167 | yes       | [-0.0600, +0.0200] | INCONCLUSIVE |",
        "| Detection      | mAP    |   0.1000 |  0.0000 | -0.1000 | NO        | [-0.1200, +0.0000] | FAIL         |",
    ]
    assert "the limit is 5%, absolute" in lines[5]


def test_class_markdown_by_eye(tmp_path: Path) -> None:
    _write(tmp_path)
    assert (tmp_path / "per_class_seg.md").read_text(encoding="utf-8").splitlines() == [
        "# Segmentation, per class",
        "",
        "| Class      | Pixels | Baseline IoU | Unified IoU |",
        "| ---------- | -----: | -----------: | ----------: |",
        "| cat        |   1200 |       0.3333 |      0.5000 |",
        r"| a\|b       |      5 |       0.2500 |      0.1250 |",
        "| Kuh, schön |      0 |            – |           – |",
        "",
        "Not in the split and left out of the mean: Kuh, schön.",
    ]


def test_class_csv_keeps_full_precision(tmp_path: Path) -> None:
    _write(tmp_path)
    with (tmp_path / "per_class_seg.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "count", "baseline_iou", "unified_iou"]
    assert float(rows[0]["baseline_iou"]) == 1 / 3
    assert rows[2] == {"name": "Kuh, schön", "count": "0", "baseline_iou": "", "unified_iou": ""}


def test_class_json_keeps_full_precision(tmp_path: Path) -> None:
    _write(tmp_path)
    table = json.loads((tmp_path / "per_class_seg.json").read_text(encoding="utf-8"))
    assert table == {"task": "seg", "baseline": BASELINE, "unified": UNIFIED}


def test_one_network_alone(tmp_path: Path) -> None:
    per_class = {"seg": {"baseline": None, "unified": UNIFIED}, "det": {"baseline": None, "unified": None}}
    names = {path.name for path in _write(tmp_path, per_class=per_class, drops=[])}
    assert names == {"evaluate.json", "per_class_seg.json", "per_class_seg.csv", "per_class_seg.md"}
    assert (tmp_path / "per_class_seg.csv").read_text(encoding="utf-8").startswith("name,count,unified_iou\n")
    assert json.loads((tmp_path / "per_class_seg.json").read_text(encoding="utf-8"))["baseline"] is None


def test_nan_is_never_written(tmp_path: Path) -> None:
    bad: list[Row] = [{"name": "a", "count": 1, "iou": float("nan")}]
    document = {"a": float("nan"), "b": [np.float64("inf"), {"c": (-np.inf, 0.1)}], "cls": 1}
    _write(tmp_path, document=document, per_class={"seg": {"baseline": bad, "unified": bad}})
    for path in tmp_path.iterdir():
        assert "nan" not in path.read_text(encoding="utf-8").lower().replace("unan", "")
    written = json.loads((tmp_path / "evaluate.json").read_text(encoding="utf-8"))
    assert written == {"a": None, "b": [None, {"c": [None, 0.1]}], "cls": 1}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OneheadError, match=r"evaluate\.json: cannot be written \(No space left on device\)"):
        _write(tmp_path, document={"schema": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OneheadError, match="cannot be written"):
        _write(tmp_path / "file")


def test_curves_are_written_as_numbers(tmp_path: Path) -> None:
    confusion = confusion_rows(np.array([[3, 1], [0, 2]]), ["a", "b, c"])
    # Of class a one of two boxes is found, then nothing, then the other one: precision 1, and 2 of 3 beyond recall .5.
    boxes = np.array([[0.0, 0, 10, 10], [50, 0, 60, 10], [20, 0, 30, 10]])
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "area": 100, "iscrowd": 0} for x in (0, 20)
    ]
    truth = {"images": [{"id": 1}], "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
    found = Detections(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, dtype=np.int64))
    curve = DetectionResult(truth, [found], [1, 2], ["a", "b"]).curves()["precision_recall"]
    _write(tmp_path, curves={"confusion.csv": confusion, "curve.csv": curve})
    with (tmp_path / "confusion.csv").open() as file:
        assert list(csv.reader(file)) == [["true class", "a", "b, c"], ["a", "3", "1"], ["b, c", "0", "2"]]
    with (tmp_path / "curve.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["recall", "a", "b"] and [row[0] for row in rows] == [f"{i / 100:.2f}" for i in range(101)]
    assert [float(row[1]) for row in rows] == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert {row[2] for row in rows} == {""}  # a class without truth


def test_a_report_removes_what_an_earlier_one_left_but_nothing_else(tmp_path: Path) -> None:
    _write(tmp_path, curves={"confusion_seg_unified.csv": [["x"]]})
    own = ["confusion_of_mine.csv", "per_class_notes.txt", "seg_best.pth"]
    for name in own:
        (tmp_path / name).write_text("not of a report")
    _write(tmp_path, per_class={}, drops=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["evaluate.json", *own])
