"""`prepare-data --preview`: the numbers of data made by hand, and where labels are drawn."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from onehead_cli.app import run
from onehead_cli.data.images import image_size, open_image
from onehead_cli.drawing import LIGHT, class_colours, wrapped
from onehead_cli.fonts import Font
from onehead_cli.preview.label_chart import Panel, draw_chart, short_number, split_colours
from onehead_cli.preview.sample_sheet import CELL, COLUMNS, MARGIN, Sample, draw_sheet
from onehead_cli.tasks.labels import Label

GREY = (90, 90, 90)
WIDTH = MARGIN + COLUMNS * (CELL[0] + MARGIN)


def save(path, size=CELL, colour=GREY):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def data(tmp_path):
    """An image or two of 400 x 300 pixels a split, the size of a cell: what is drawn lies where the label says."""
    root = tmp_path / "data"
    for split, names in {"train": ["ant", "ant", "bee"], "val": ["ant", "bee"]}.items():
        for number, name in enumerate(names):
            save(root / "imagenette-160" / split / name / f"{number}.png", size=(40 + 10 * number, 30))
    (root / "mini_voc_seg").mkdir()
    (root / "mini_voc_seg" / "classes.yaml").write_text("[ground, cat, dog]")
    mask = np.zeros((300, 400), np.uint8)
    mask[50:150, 100:300] = 2
    mask[:, 390:] = 255
    for split, own in {"train": mask, "val": np.zeros_like(mask)}.items():
        save(root / "mini_voc_seg" / split / "JPEGImages" / "a.png")
        folder = root / "mini_voc_seg" / split / "SegmentationClass"
        folder.mkdir()
        Image.fromarray(own).save(folder / "a.png")
    boxes = [
        {"bbox": [100, 60, 80, 90], "category_id": 7, "area": 1023},  # small by its area, whatever the box says
        {"bbox": [10, 200, 50, 60], "category_id": 7, "area": 1024},
        {"bbox": [200, 10, 180, 200], "category_id": 3, "area": 9216},
        {"bbox": [90, 220, 300, 70], "category_id": 3, "area": 21000, "iscrowd": 1},
    ]
    for split, own in {"train": boxes, "val": []}.items():
        save(root / "mini_coco_det" / split / "a.png")
        document = {
            "images": [{"id": 5, "file_name": "a.png", "width": 400, "height": 300}],
            "annotations": [{"id": i, "image_id": 5, **box} for i, box in enumerate(own)],
            "categories": [{"id": 7, "name": "kite"}, {"id": 3, "name": "boat"}],
        }
        path = root / "mini_coco_det" / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return root


def preview(root, *arguments):
    return run(["prepare-data", "--preview", "--data", str(root), "--quiet", *map(str, arguments)])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_numbers_are_those_of_data_made_by_hand(data, capsys):
    assert preview(data, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((data / "preview" / "labels.json").read_text())
    assert document["schema"] == 1 and document["seed"] == 0
    assert document["missing"] == ["cls test", "seg test", "det test"]
    size = {"width": {"min": 400, "median": 400, "max": 400}, "height": {"min": 300, "median": 300, "max": 300}}
    splits = {task: found["splits"] for task, found in document["tasks"].items()}
    assert splits["cls"] == {
        "train": {
            "pictures": 3,
            "width": {"min": 40, "median": 50, "max": 60},
            "height": {"min": 30, "median": 30, "max": 30},
            "classes": {"ant": {"pictures": 2}, "bee": {"pictures": 1}},
        },
        "val": {
            "pictures": 2,
            "width": {"min": 40, "median": 45, "max": 50},
            "height": {"min": 30, "median": 30, "max": 30},
            "classes": {"ant": {"pictures": 1}, "bee": {"pictures": 1}},
        },
    }
    assert splits["seg"]["train"] == {
        "pictures": 1,
        **size,
        "classes": {
            "ground": {"pictures": 1, "pixels": 120_000 - 20_000 - 3_000},
            "cat": {"pictures": 0, "pixels": 0},
            "dog": {"pictures": 1, "pixels": 20_000},
        },
        "void": {"pictures": 1, "pixels": 3_000},
    }
    assert splits["seg"]["val"]["classes"]["ground"] == {"pictures": 1, "pixels": 120_000}
    assert splits["seg"]["val"]["void"] == {"pictures": 0, "pixels": 0}
    assert splits["det"]["train"] == {
        "pictures": 1,
        **size,
        "classes": {"boat": {"pictures": 1, "boxes": 1}, "kite": {"pictures": 1, "boxes": 2}},
        "crowd": {"pictures": 1, "regions": 1},
        "box_sizes": {"small": 1, "medium": 1, "large": 1},
        "pictures_without_boxes": 0,
    }
    assert splits["det"]["val"]["pictures_without_boxes"] == 1


def test_boxes_are_drawn_where_they_are(data):
    assert preview(data) == 0
    sheet = pixels(data / "preview" / "det.png")
    assert sheet.shape[1] == WIDTH and sheet.shape[0] > CELL[1] + 2 * MARGIN
    cell = sheet[MARGIN : MARGIN + CELL[1], MARGIN : MARGIN + CELL[0]]
    kite, boat = np.array(class_colours(["boat", "kite"])["kite"]), np.array(class_colours(["boat", "kite"])["boat"])
    # x 100..180, y 60..150: the four edges, its middle and beyond them.
    for x, y in ((100, 100), (179, 100), (140, 149)):
        assert (cell[y, x] == kite).all(), (x, y)
    for x, y in ((140, 100), (94, 100), (140, 156)):
        assert (cell[y, x] == GREY).all(), (x, y)
    assert (cell[100, 379] == boat).all()
    # The crowd region's lower edge has gaps.
    edge = (cell[289, 100:380] == boat).all(-1)
    assert 0.3 < edge.mean() < 0.8
    # val has no box: its cell shows the image alone.
    other = sheet[MARGIN : MARGIN + CELL[1], 2 * MARGIN + CELL[0] : 2 * MARGIN + 2 * CELL[0]]
    assert (other == GREY).all()


def test_masks_are_tinted_and_void_is_shown(data):
    assert preview(data) == 0
    sheet = pixels(data / "preview" / "seg.png")
    cell = sheet[MARGIN : MARGIN + CELL[1], MARGIN : MARGIN + CELL[0]].astype(int)
    dog = np.array(class_colours(["cat", "dog"])["dog"])
    assert (cell[20, 20] == GREY).all()
    assert (cell[50, 200] == dog).all(), "the contour"
    expected = 0.55 * np.array(GREY) + 0.45 * dog
    assert np.abs(cell[100, 200] - expected).max() <= 2
    assert np.abs(cell[100, 396] - (0.55 * np.array(GREY) + 0.45 * np.array(LIGHT))).max() <= 2
    legend = sheet[MARGIN + CELL[1] + 20 :]
    assert (legend == dog).all(-1).any() and (legend == LIGHT).all(-1).any()


def test_every_class_has_its_caption_before_any_comes_twice(data):
    assert preview(data) == 0
    sheet = pixels(data / "preview" / "cls.png")
    # Three of train and two of val: four in the first row, one in the second.
    assert sheet.shape[1] == WIDTH and sheet.shape[0] == MARGIN + 2 * (CELL[1] + MARGIN // 2 + 2 * 22 + MARGIN)
    for column in range(COLUMNS):
        left = MARGIN + column * (CELL[0] + MARGIN)
        caption = sheet[MARGIN + CELL[1] : MARGIN + CELL[1] + 40, left : left + CELL[0]]
        assert (caption == LIGHT).all(-1).any()


def test_bars_are_as_long_as_the_counts_say(data):
    assert preview(data) == 0
    colour = split_colours(["train", "val"])
    chart = pixels(data / "preview" / "cls_histogram.png")
    # Below the legend: ant 2 and 1, bee 1 and 1.
    bars = {split: (chart[84:] == colour[split]).all(-1).sum(1) for split in ("train", "val")}
    lengths = {split: sorted({int(n) for n in found if n > 20}) for split, found in bars.items()}
    assert lengths == {"train": [180, 360], "val": [180]}
    for task in ("seg", "det"):
        assert len(np.unique(pixels(data / "preview" / f"{task}_histogram.png").reshape(-1, 3), axis=0)) > 10


def test_the_seed_alone_chooses_the_samples(tiny_data, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        assert preview(tiny_data, "--preview-dir", tmp_path / name, "--seed", seed) == 0
    sheets = {
        name: [(tmp_path / name / f"{t}.png").read_bytes() for t in ("cls", "seg", "det")]
        for name in ("one", "again", "two")
    }
    assert sheets["one"] == sheets["again"]
    assert all(one != two for one, two in zip(sheets["one"], sheets["two"], strict=True))
    assert not (tiny_data / "preview").exists()


def test_the_tables_fit_80_columns(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert preview(tiny_data, "--preview-dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80 and "…" not in "".join(lines)
    # 12 images of ten classes: two of them twice.
    ball = next(line.split() for line in lines if line.split()[:1] == ["ball"])
    assert ball[1:] == ["2", "1", "1"]


def test_a_dataset_that_is_gone_is_passed_over_and_its_old_images_go(data, capsys):
    assert preview(data) == 0
    shutil.rmtree(data / "mini_coco_det")
    assert run(["prepare-data", "--preview", "--data", str(data)]) == 0
    assert "det train, det val, det test: missing, skipped" in capsys.readouterr().err
    assert {path.name for path in (data / "preview").iterdir()} == {
        *(f"{task}{kind}.png" for task in ("cls", "seg") for kind in ("", "_histogram")),
        "labels.json",
    }


def test_nothing_to_see_is_one_line(tmp_path, capsys):
    assert preview(tmp_path) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: contains none of the datasets; create them with `onehead prepare-data`\n"
    )


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("imagenette-160/train/ant/0.png", b"<html>", "not a JPEG, PNG, WEBP, BMP image"),
        ("mini_coco_det/train/a.png", b"", "the file is empty"),
        ("mini_voc_seg/train/SegmentationClass/a.png", b"\x89PNG\r\n\x1a\n", "not a JPEG, PNG, WEBP, BMP image"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_written(data, capsys, name, content, why):
    (data / name).write_bytes(content)
    assert preview(data) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {data / name}: {why}") and message.count("\n") == 1
    assert not (data / "preview").exists()


def test_a_folder_that_cannot_be_written_is_one_line(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert preview(data, "--preview-dir", tmp_path / "file" / "below") == 1
    assert "choose another folder with --preview-dir" in capsys.readouterr().err


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_upright_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == open_image(tmp_path / "a.jpg").size


@pytest.mark.parametrize("arguments", [["--preview", "--verify"], ["--preview", "--source", "synthetic"]])
def test_one_thing_at_a_time(arguments, tmp_path, capsys):
    assert run(["prepare-data", "--data", str(tmp_path), *arguments]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert run(["prepare-data", "--data", str(tmp_path), "--preview-dir", str(tmp_path)]) == 2


def test_long_names_are_wrapped_rather_than_cut():
    font = Font(16)
    name = "a very long class name of many words " * 4 + "x" * 200
    lines = wrapped(name, font, CELL[0])
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert all(font.length(line) <= CELL[0] for line in lines)
    one_line = draw_sheet([Sample(Image.new("RGB", (1, 5000)), "train · a.jpg", Label("a\nb"))])
    assert draw_sheet([Sample(Image.new("RGB", (5000, 1)), "train · a.jpg", Label(name))]).height > one_line.height


def test_a_chart_of_very_many_classes_shows_the_largest():
    counts = list(range(1000))
    chart = draw_chart([f"class {i}" for i in counts], [Panel("pictures", {"all": counts})], splits={"all": "all"})
    assert chart.height < 3000
    assert draw_chart([], [Panel("pictures", {"all": []})], splits={"all": "x" * 90}).width > chart.width
    assert [short_number(n) for n in (0, 999_999, 1_000_000, 12_345_678, 3 * 10**12)] == [
        "0",
        "999,999",
        "1 M",
        "12.3 M",
        "3,000 G",
    ]
