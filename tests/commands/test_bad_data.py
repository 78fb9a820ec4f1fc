"""Faults 1 to 31 of the data as the commands meet them, mostly in `prepare-data --check`, on data made on the spot."""

import json
import os
import shutil
import struct
import sys
import zlib

import numpy as np
import pytest
from loading import load_split
from PIL import Image
from tiny import SMALL, TINY

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.images import open_image
from onehead_cli.data.listings import Listings

CLS, SEG, DET = "imagenette-160", "mini_voc_seg", "mini_coco_det"


def make_image(path, size=(40, 32), **options):
    """An image unlike any other of the test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode())
    Image.effect_noise(size, 20 + seed % 200).convert("RGB").save(path, **options)


def annotations(root, split="train"):
    return root / DET / "annotations" / f"instances_{split}.json"


def change(root, split="train", **sections):
    """Replace sections of a COCO JSON."""
    path = annotations(root, split)
    path.write_text(json.dumps({**json.loads(path.read_text()), **sections}))


@pytest.fixture
def data(tmp_path):
    """Two classes and three images per task in each of train and val."""
    root = tmp_path / "data"
    (root / DET / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        for name in ("ant/a", "ant/b", "bee/c"):
            make_image(root / CLS / split / f"{name}.jpg")
        masks = root / SEG / split / "SegmentationClass"
        masks.mkdir(parents=True)
        for name in "abc":
            make_image(root / SEG / split / "JPEGImages" / f"{name}.jpg")
            mask = np.zeros((32, 40), np.uint8)
            mask[:9], mask[-9:] = 1, 255
            Image.fromarray(mask).save(masks / f"{name}.png")
            make_image(root / DET / split / f"{name}.jpg")
        images = [{"id": i, "file_name": f"{n}.jpg", "width": 40, "height": 32} for i, n in enumerate("abc", 1)]
        boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 9, 9]} for i in (1, 2)]
        categories = [{"id": 2, "name": "bee"}, {"id": 1, "name": "ant"}]
        document = {"images": images, "annotations": boxes, "categories": categories}
        annotations(root, split).write_text(json.dumps(document))
    (root / SEG / "classes.yaml").write_text("- ground\n- thing\n")
    return root


@pytest.fixture
def check(data, capsys):
    """Runs the check; the exit code, the document and the lines of stderr."""

    def look(*options):
        code = run(["prepare-data", "--check", str(data), "--json", *options])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err.splitlines()

    return look


def problems(document):
    """(task, split, kind, name of the file) of each."""
    names = [p["path"].rpartition("/")[2] if p["path"] else None for p in document["problems"]]
    return [(p["task"], p["split"], p["kind"], n) for p, n in zip(document["problems"], names, strict=True)]


def three_images(root):
    return root / CLS / "train/ant/b.jpg", root / SEG / "val/JPEGImages/b.jpg", root / DET / "train/b.jpg"


def spoil(root, content):
    """Change one image per task; `content`: old bytes -> new bytes."""
    for path in three_images(root):
        path.write_bytes(content(path.read_bytes()))


def everywhere(kind):
    return [("cls", "train", kind, "b.jpg"), ("seg", "val", kind, "b.jpg"), ("det", "train", kind, "b.jpg")]


def test_data_in_order_is_one_note(data, check):
    code, document, err = check()
    assert code == 0 and document["problems"] == [] and len(err) == 1 and "18 images" in err[0]
    assert document["pictures"] == {task: {"train": 3, "val": 3} for task in ("cls", "seg", "det")}
    assert document["bad"] == {task: {"train": 0, "val": 0} for task in ("cls", "seg", "det")}
    assert document["warnings"] == document["notes"] == [] and document["headers_only"] is False


# Without the two bytes of its end marker alone a JPEG may be whole: no pixel is missing.
@pytest.mark.parametrize("cut", [lambda old: old[: len(old) // 2], lambda old: old[:-10]])
def test_fault_01_truncated_images(data, check, cut):
    """Every JPEG that was cut short is listed in one run, and the command fails."""
    spoil(data, cut)
    code, document, err = check()
    assert code == 1 and problems(document) == everywhere("damaged")
    assert [line for line in err if "b.jpg" in line and "truncated" in line] == err[:3] and len(err) == 4
    assert err[-1] == "error: 3 problems in the data; fix them, or skip them with --skip-bad"


def test_fault_02_empty_files(data, check):
    """Every image of zero bytes is listed in one run, and the command fails."""
    spoil(data, lambda old: b"")
    code, document, _ = check()
    assert code == 1 and problems(document) == everywhere("empty")


def test_fault_03_files_that_are_no_images(data, check):
    """Every file that is an image by name only, such as a saved web page, is listed, and the command fails."""
    spoil(data, lambda old: b"<html><body>404 Not found</body></html>")
    code, document, _ = check()
    assert code == 1 and problems(document) == everywhere("not_a_picture")


def test_fault_04_pixel_bomb(data, check):
    """An image over the limit of 100 million pixels is refused by its header alone, before anything is decoded."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    # No pixels follow the header: decoding would say that the file is damaged.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    spoil(data, lambda old: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    code, document, err = check()
    assert code == 1 and problems(document) == everywhere("too_large")
    assert "60000 x 60000 pixels are over the limit" in err[0]


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "LA", "I;16", "1"])
def test_fault_05_grey_cmyk_alpha_palette_and_16_bit(data, check, mode):
    """Grey, CMYK, palette, alpha and 16-bit images are read as RGB."""
    path = data / CLS / "train" / "ant" / ("b.jpg" if mode == "CMYK" else "b.png")
    if mode == "I;16":
        made = Image.fromarray(np.full((32, 40), 65535, np.uint16))
    else:
        made = Image.effect_noise((40, 32), 99).convert("RGB").convert(mode)
    made.save(path)
    assert check()[0] == 0
    shown = open_image(path)
    assert shown.mode == "RGB" and shown.size == (40, 32)
    if mode == "I;16":
        assert np.asarray(shown).min() == 255


def test_fault_06_exif_rotation(data, check, tmp_path):
    """An image is read as its EXIF orientation shows it; boxes or masks for the unturned image are an error."""
    turned = Image.new("RGB", (40, 20), "red")
    turned.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left half comes to the top
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    shown = open_image(tmp_path / "turned.jpg")
    assert shown.size == (20, 40)
    assert shown.getpixel((10, 5))[2] > 200 and shown.getpixel((10, 35))[0] > 200
    for path in three_images(data):
        make_image(path, exif=exif)
    code, document, err = check()
    assert code == 1
    assert problems(document) == [("seg", "val", "mask_wrong_size", "b.png"), ("det", "train", "wrong_size", "b.jpg")]
    assert "40 x 32 pixels, but its image has 32 x 40" in err[0]
    assert "32 x 40 pixels (turned by its EXIF orientation), but its annotations are for 40 x 32" in err[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_fault_07_tiny_and_thin_images(data, check, size):
    """Images of 1 x 1 and 1 x 5000 pixels are read like any other."""
    make_image(data / DET / "train" / "b.jpg", size)
    images = [{"id": 2, "file_name": "b.jpg", "width": size[0], "height": size[1]}]
    change(data, images=images, annotations=[{"id": 1, "image_id": 2, "category_id": 1, "bbox": [0, 0, *size]}])
    assert check()[0] == 0
    for fit in ("resize", "letterbox"):
        settings = DataConfig(root=data, image_size=64, fit=fit)
        loaded = load_split("det", "train", settings, interpolation="bicubic", budget=CacheBudget(1))
        assert loaded.batch([0]).images.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("name", ["../val/a.jpg", "/etc/a.jpg", "link.jpg"])
def test_fault_08_file_name_that_leaves_its_folder(data, check, tmp_path, name):
    """A file_name with `..`, an absolute one, or a symbolic link out of the data's root is listed and never opened."""
    make_image(tmp_path / "elsewhere.jpg")
    (data / DET / "train" / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    images = json.loads(annotations(data).read_text())["images"]
    change(data, images=[{**images[0], "file_name": name}, *images[1:]])
    code, document, err = check()
    assert code == 1 and [p["kind"] for p in document["problems"]] == ["outside_folder"]
    assert len(err) == 1 and "file_name points outside the image folder" in err[0]
    assert ("found a.jpg" in err[0] or "train/a.jpg" in err[0]) == name.startswith("/")
    code, document, _ = check("--skip-bad")
    assert code == 0 and document["bad"]["det"] == {"train": 1, "val": 0}


def test_fault_09_listed_image_that_is_missing(data, check):
    """Every missing image that a JSON names is listed in one run, and the command fails."""
    for split in ("train", "val"):
        (data / DET / split / "c.jpg").unlink()
    code, document, _ = check()
    assert code == 1
    assert problems(document) == [("det", "train", "missing", "c.jpg"), ("det", "val", "missing", "c.jpg")]


def test_fault_10_size_that_differs_from_the_json(data, check):
    """Every image whose size differs from its JSON is listed with both sizes, and the command fails."""
    images = [{"id": i, "file_name": f"{n}.jpg", "width": 7, "height": 5} for i, n in ((1, "a"), (2, "b"))]
    right = {"id": 3, "file_name": "c.jpg", "width": 40, "height": 32}
    boxes = [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [4, 4, 9, 9]}]
    change(data, images=[*images, right], annotations=boxes)
    code, document, err = check()
    assert code == 1 and [p["kind"] for p in document["problems"]] == ["wrong_size"] * 2
    assert "a.jpg: 40 x 32 pixels" in err[0] and "annotations are for 7 x 5" in err[0]


def add_box(root, bbox, category=1):
    """Beside one good box."""
    boxes = [[4, 4, 9, 9], bbox]
    made = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": b}
        for i, (b, c) in enumerate(zip(boxes, (1, category), strict=True))
    ]
    change(root, annotations=made)


def boxes_of(root):
    loaded = load_split("det", "train", DataConfig(root=root), interpolation="bicubic", budget=CacheBudget(1))
    return [annotation["bbox"] for annotation in loaded.listing.annotations]


def dropped(check, why):
    code, document, err = check()
    warning = f"{annotations_name(document)}: 1 box {why}"
    assert code == 0 and document["warnings"] == [warning] and f"warning: {warning}" in err


def annotations_name(document):
    return f"{document['checked']}/{DET}/annotations/instances_train.json"


@pytest.mark.parametrize("bbox", [[5, 5, 0, 4], [5, 5, 4, -1]])
def test_fault_11_box_without_an_area(data, check, bbox):
    """A box whose width or height is not above 0 is dropped, and one warning gives the count."""
    add_box(data, bbox)
    dropped(check, "dropped: no area")
    assert boxes_of(data) == [[4, 4, 9, 9]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fault_12_box_with_nan_or_infinity(data, check, value):
    """A box with NaN or infinity is dropped, and one warning gives the count."""
    add_box(data, [5, value, 4, 4])
    dropped(check, "dropped: NaN or infinite")
    assert boxes_of(data) == [[4, 4, 9, 9]]


def test_fault_13_box_partly_outside(data, check):
    """A box that reaches over the edge is clipped to its image, and one warning gives the count."""
    add_box(data, [-10, 30, 20, 9])
    dropped(check, "clipped to the image")
    assert boxes_of(data) == [[4, 4, 9, 9], [0, 30, 10, 2]]


def test_fault_14_box_wholly_outside(data, check):
    """A box wholly outside its image is dropped, and one warning gives the count."""
    add_box(data, [70, 5, 4, 4])
    dropped(check, "dropped: outside the image")
    assert boxes_of(data) == [[4, 4, 9, 9]]


@pytest.mark.parametrize("bbox", [[1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], [1, 2, 10**400, 4], [1, None, 3, 4]])
def test_fault_15_box_of_wrong_length_or_type(data, check, bbox):
    """A box that is not four numbers is an error that gives its place in the JSON."""
    add_box(data, bbox)
    code, document, err = check()
    assert code == 1 and problems(document) == [("det", "train", "unusable_split", None)]
    assert len(err) == 1 and "annotations[1].bbox must be four numbers" in err[0]


def test_fault_16_box_of_a_category_that_is_not_listed(data, check):
    """A box of a category that the JSON does not list is dropped, and one warning gives the count."""
    add_box(data, [5, 5, 4, 4], category=99)
    dropped(check, "dropped: category not listed")
    assert boxes_of(data) == [[4, 4, 9, 9]]


def test_fault_18_missing_iscrowd(data, check):
    """An annotation without `iscrowd` is an ordinary object."""
    assert "iscrowd" not in annotations(data).read_text() and check()[0] == 0
    loaded = load_split("det", "train", DataConfig(root=data), interpolation="bicubic", budget=CacheBudget(1))
    target = loaded.batch([0, 1, 2]).target
    assert target.labels.tolist() == [[1], [0], [-1]] and not target.crowd.any()


def test_fault_19_image_without_a_box(data, check):
    """An image without any box counts as background only."""
    change(data, annotations=[{"id": 1, "image_id": 2, "category_id": 1, "bbox": [4, 4, 9, 9]}])
    code, document, _ = check()
    assert code == 0 and document["pictures"]["det"]["train"] == 3
    loaded = load_split("det", "train", DataConfig(root=data), interpolation="bicubic", budget=CacheBudget(1))
    assert loaded.batch([0]).target.labels.tolist() == [[-1]]


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_fault_20_duplicate_ids(data, check, section):
    """An id that a JSON uses twice is an error that gives the place and the id."""
    entries = json.loads(annotations(data).read_text())[section]
    change(data, **{section: [*entries, entries[0]]})
    code, document, err = check()
    assert code == 1 and problems(document) == [("det", "train", "unusable_split", None)]
    assert len(err) == 1 and f"{section}[{len(entries)}] repeats the id {entries[0]['id']}" in err[0]


@pytest.mark.parametrize("spoilt", [lambda text: text[:-20], lambda text: "[" * 100_000, lambda text: "[]"])
def test_fault_21_truncated_and_deeply_nested_json(data, check, spoilt):
    """A JSON that was cut short, is nested too deeply or contains something else is one error that names the file."""
    annotations(data).write_text(spoilt(annotations(data).read_text()))
    code, _, err = check()
    assert code == 1 and len(err) == 1 and "instances_train.json: " in err[0] and "Traceback" not in err[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotations": [{"id": 1}]}, "annotations[0] needs 'image_id'"),
        ({"images": []}, "'images' is missing or empty"),
        ({"categories": [{"id": True, "name": "x"}]}, "categories[0] needs 'id'"),
    ],
)
def test_malformed_entries_are_one_error(data, check, entry, message):
    change(data, **entry)
    code, _, err = check()
    assert code == 1 and len(err) == 1 and message in err[0]


def mask_path(root, name="b", split="train"):
    return root / SEG / split / "SegmentationClass" / f"{name}.png"


def test_fault_23_label_above_the_last_class(data, check):
    """Every mask with a label that is neither a class nor the ignore index is listed, and the command fails."""
    for split in ("train", "val"):
        Image.fromarray(np.full((32, 40), 2, np.uint8)).save(mask_path(data, split=split))
    code, document, err = check()
    assert code == 1 and [p[2] for p in problems(document)] == ["mask_unknown_label"] * 2
    assert "b.png: label 2, but there are 2 classes (0 to 1)" in err[0]


def test_fault_24_mask_of_another_size(data, check):
    """Every mask whose size differs from its image is listed with both sizes, and the command fails."""
    Image.new("L", (10, 12)).save(mask_path(data))
    code, document, err = check()
    assert code == 1 and problems(document) == [("seg", "train", "mask_wrong_size", "b.png")]
    assert len(err) == 1 and "10 x 12 pixels, but its image has 40 x 32" in err[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_fault_25_mask_of_colours(data, check, mode):
    """A mask of colours instead of class indices is listed with a hint at what to save instead."""
    Image.new(mode, (40, 32)).save(mask_path(data))
    code, document, err = check()
    assert code == 1 and problems(document) == [("seg", "train", "mask_wrong_mode", "b.png")]
    assert "palette or 8-bit grey" in err[0] and "save class indices" in err[0]


def test_fault_27_missing_mask(data, check):
    """Every image without a mask is listed by the mask's path, and the command fails."""
    mask_path(data).unlink()
    mask_path(data, "c", "val").unlink()
    code, document, err = check()
    assert code == 1
    assert problems(document) == [("seg", "train", "mask_missing", "b.png"), ("seg", "val", "mask_missing", "c.png")]
    assert "SegmentationClass/b.png: mask: no such file" in err[0]


def test_fault_29_empty_class_folder(data, check, tmp_path, capsys):
    """A class folder without an image is a class without an example, in train as well as in val, and a note says so; a
    split without any image is an error."""
    (data / CLS / "train" / "cow").mkdir()
    (data / CLS / "train" / "dog").mkdir()
    code, document, err = check()
    wanted = ["cls train: no example of cow, dog", "cls val: no example of cow, dog"]
    assert code == 0 and [note.partition(";")[0] for note in document["notes"]] == wanted
    assert [line.partition(";")[0] for line in err[:2]] == wanted
    where = ["--data", str(data), "--output", str(tmp_path / "out"), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", "cls", *where]) == 0
    architecture = load_checkpoint(tmp_path / "out" / "cls_best.pth").architecture
    assert architecture.classes["cls"] == ["ant", "bee", "cow", "dog"]
    capsys.readouterr()
    for path in (data / CLS / "val").rglob("*.jpg"):
        path.rename(path.with_suffix(".gif"))
    code, _, err = check()
    assert code == 1 and len(err) == 1 and "val: no image in its class folders, only 3 .gif" in err[-1]


def rename_class(root, task, split):
    if task == "cls":
        (root / CLS / split / "bee").rename(root / CLS / split / "wasp")
    else:
        change(root, split, categories=[{"id": 1, "name": "ant"}, {"id": 2, "name": "wasp"}])


@pytest.mark.parametrize("task", ["cls", "det"])
@pytest.mark.parametrize("command", ["check", "train-teacher", "train-unified"])
def test_fault_30_class_names_that_differ(data, tmp_path, capsys, task, command):
    """A class of a split that train, or a checkpoint, does not have is an error that shows both lists."""
    rename_class(data, task, "val")
    if command == "check":
        args = ["prepare-data", "--check", str(data)]
    else:
        args = [command, "--data", str(data), "--output", str(tmp_path / "out"), *TINY]
        args += ["--task", "all"] if command == "train-teacher" else ["--lambda-distill", "0"]
    assert run(args) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"{task} classes of the split val differ: it has ant, wasp; expected ant, bee" in errors[0]


def test_labels_of_a_split_with_fewer_class_folders_go_by_their_names(data, check, tmp_path):
    """And so they do against a checkpoint that knows more classes than any split that is evaluated."""
    shutil.rmtree(data / CLS / "val" / "ant")
    code, document, _ = check()
    assert code == 0 and [n.partition(";")[0] for n in document["notes"]] == ["cls val: no example of ant"]
    listings = Listings(Config(data=DataConfig(root=data)))
    assert listings.get("cls", "train").classes == ["ant", "bee"]
    val = listings.get("cls", "val")
    assert val.classes == ["ant", "bee"] and val.labels == [1]
    where = ["--data", str(data), "--output", str(tmp_path / "out")]
    assert run(["train-teacher", "--task", "cls", *where, "--epochs", "1", *SMALL]) == 0
    evaluate = ["evaluate", "--no-report", *where, "--task", "cls", "--split", "val", "--quiet"]
    assert run([*evaluate, "--checkpoint", str(tmp_path / "out" / "cls_best.pth")]) == 0


@pytest.mark.parametrize("task", ["cls", "seg", "det"])
def test_fault_31_the_same_image_in_two_splits(data, check, task, tmp_path, capsys):
    """An image that is in two splits of a task, byte for byte, is an error that names both files."""
    folder = {"cls": f"{CLS}/{{}}/ant", "seg": f"{SEG}/{{}}/JPEGImages", "det": f"{DET}/{{}}"}[task]
    shutil.copy(data / folder.format("train") / "a.jpg", data / folder.format("val") / "b.jpg")
    code, document, err = check()
    assert code == 1 and problems(document) == [(task, "val", "in_two_splits", "b.jpg")] and len(err) == 1
    assert "val" in err[0] and "the same image is in the split train" in err[0] and "a.jpg" in err[0]
    assert check("--skip-bad")[0] == 1
    output = tmp_path / "out"
    assert run(["train-teacher", "--task", task, "--data", str(data), "--output", str(output), *TINY]) == 1
    assert "the same image is in the split train" in capsys.readouterr().err
    assert not (output / f"{task}.jsonl").exists()


def test_all_kinds_of_bad_files_in_one_list(data, check):
    (data / CLS / "train/ant/b.jpg").write_bytes(b"")
    mask_path(data).unlink()
    (data / SEG / "train/JPEGImages/b.jpg").write_bytes(b"\xff\xd8")  # an image and its mask: one image
    (data / DET / "val/a.jpg").unlink()
    code, document, err = check()
    assert code == 1 and len(document["problems"]) == 4
    assert {line.split(":")[0] for line in err[:-1]} == {"warning"} and err[-1].startswith("error: 4 problems")
    assert document["bad"] == {
        "cls": {"train": 1, "val": 0},
        "seg": {"train": 1, "val": 0},
        "det": {"train": 0, "val": 1},
    }
    assert all(p["can_be_skipped"] for p in document["problems"])
    code, skipped, err = check("--skip-bad")
    assert code == 0 and skipped["problems"] == document["problems"]
    assert err[0] == f"warning: 3 of 18 images left out, listed in {data / 'skipped.txt'}"
    listed = [line.split("\t")[2] for line in (data / "skipped.txt").read_text().splitlines()]
    assert listed == [problem["path"] for problem in document["problems"]]


def test_a_long_list_is_cut_on_the_terminal_and_whole_in_json(data, check, tmp_path, capsys):
    images = [{"id": i, "file_name": f"x{i}.jpg", "width": 4, "height": 4} for i in range(30)]
    change(data, images=images, annotations=[])
    code, document, err = check()
    assert code == 1 and len(document["problems"]) == 30
    assert len(err) == 22 and err[20] == "warning: and 10 more" and err[21].startswith("error: 30 problems")
    assert f"all in {data / 'bad_files.txt'}" in err[21]
    assert (data / "bad_files.txt").read_text().count("\n") == 30
    output = tmp_path / "out"
    assert run(["train-teacher", "--task", "det", "--data", str(data), "--output", str(output), *TINY]) == 1
    assert f"all in {output / 'bad_files.txt'}" in capsys.readouterr().err
    lines = (output / "bad_files.txt").read_text().splitlines()
    assert len(lines) == 30 and lines[7].split("\t")[:2] == ["det", "train"] and "x7.jpg" in lines[7]


def test_a_split_of_bad_images_only_is_an_error(data, check):
    for name in "abc":
        (data / DET / "val" / f"{name}.jpg").unlink()
    code, _, err = check("--skip-bad")
    assert code == 1 and err == ["error: det val: none of its images can be used (3)"]


def test_skipped_images_are_in_every_report(tiny_data, tmp_path, capsys):
    """Left out by the loaders and of the ground truth, counted in the log, the results and the report, and listed."""
    root, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_data, root)
    bad = sorted((root / DET / "train").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:300])
    for split in ("val", "test"):
        sorted((root / SEG / split / "SegmentationClass").iterdir())[0].unlink()
    where = ["--data", str(root), "--output", str(output), "--skip-bad", "--json", "--set", "data.tasks=[seg, det]"]
    settings = [*where, "--epochs", "1", "--no-pretrained", *TINY]
    train_teacher = ["train-teacher", "--task", "all", *settings]
    assert run([*train_teacher, "--set", "data.skip_bad=false"]) == 0  # the flag comes last
    document = json.loads(capsys.readouterr().out)
    assert document["networks"]["det"]["skipped"] == {"det": {"train": 1, "val": 0}}
    assert document["networks"]["seg"]["skipped"] == {"seg": {"train": 0, "val": 1}}
    first = json.loads((output / "det.jsonl").read_text().splitlines()[0])
    assert first == {"kind": "scan", "step": 0, "skipped": {"det": {"train": 1, "val": 0}}}
    assert run(["train-unified", *settings]) == 0
    capsys.readouterr()
    assert run(["evaluate", "--no-report", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["skipped"] == {"seg": {"test": 1}, "det": {"test": 0}}
    assert document["pictures"] == {"seg": 9, "det": 10}
    assert document["skipped"] == json.loads((output / "evaluate.json").read_text())["skipped"]
    assert "left out because they cannot be used: 1 of seg test" in (output / "drop_check.md").read_text()
    listed = [line.split("\t")[:2] for line in (output / "skipped.txt").read_text().splitlines()]
    assert sorted(listed) == [["det", "train"], ["seg", "test"], ["seg", "val"]]
    assert run(["evaluate", "--no-report", "--data", str(root), "--output", str(output), "--quiet"]) == 1
    assert "--skip-bad" in capsys.readouterr().err


def test_boxes_of_a_skipped_image_are_no_ground_truth(data, check):
    (data / DET / "train" / "a.jpg").unlink()
    settings = DataConfig(root=data, image_size=64)
    skip = {data / DET / "train" / "a.jpg"}
    loaded = load_split("det", "train", settings, interpolation="bicubic", budget=CacheBudget(1), skip=skip)
    assert [path.name for path in loaded.paths] == ["b.jpg", "c.jpg"]
    assert [image["id"] for image in loaded.listing.entries] == [2, 3]
    assert [annotation["image_id"] for annotation in loaded.listing.annotations] == [2]
    assert loaded.batch([0, 1]).target.labels.tolist() == [[0], [-1]]


def test_training_scans_no_other_split(data, tmp_path, capsys):
    """A test split full of faults does not keep a training from its end."""
    for task in (CLS, SEG, DET):
        shutil.copytree(data / task / "train", data / task / "test")
    annotations(data, "test").write_text("{")
    where = ["--data", str(data), "--output", str(tmp_path), "--epochs", "1", "--no-pretrained", *TINY]
    assert run(["train-teacher", "--task", "cls", *where]) == 0
    assert run(["prepare-data", "--check", str(data), "--quiet"]) == 1
    message = capsys.readouterr().err
    assert "instances_test.json" in message and message.count("the same image") == 6


def test_training_opens_nothing_of_the_test_split(tiny_data, tmp_path):
    """Neither the scan nor the loaders: what is opened or listed is recorded by the interpreter."""
    root, opened, recording = tmp_path / "data", [], [True]
    shutil.copytree(tiny_data, root)

    def record(event, arguments):
        if recording and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | os.PathLike):
            opened.append(os.fspath(arguments[0]))

    sys.addaudithook(record)  # there is no way to remove it
    where = ["--data", str(root), "--output", str(tmp_path / "out"), "--epochs", "1", *SMALL]
    try:
        assert run(["train-teacher", "--task", "all", *where]) == 0
        assert run(["train-unified", *where]) == 0
    finally:
        recording.clear()
    read = [path.removeprefix(f"{root}/") for path in opened if path.startswith(f"{root}/")]
    for task in (CLS, SEG, DET):
        assert any(path.startswith(task) and "val" in path for path in read)
    assert not [path for path in read if "/test" in path or "instances_test" in path]


def test_what_is_no_regular_file_is_listed_and_never_read(data, check):
    """A pipe would be waited for without end, and a link that leads to itself cannot be followed."""
    (data / CLS / "train/ant/b.jpg").unlink()
    os.mkfifo(data / CLS / "train/ant/b.jpg")
    (data / SEG / "val/JPEGImages/b.jpg").unlink()
    (data / SEG / "val/JPEGImages/b.jpg").mkdir()
    (data / DET / "train/b.jpg").unlink()
    (data / DET / "train/b.jpg").symlink_to("b.jpg")
    code, document, err = check()
    assert code == 1 and len(err) == 4
    assert problems(document) == [
        ("cls", "train", "not_a_picture", "b.jpg"),
        ("seg", "val", "not_a_picture", "b.jpg"),
        ("det", "train", "damaged", "b.jpg"),
    ]


def test_the_cache_is_read_where_it_can_be_and_passed_over_where_not(data, check):
    cache = data / ".scan.json"
    check()
    assert cache.is_file()
    for text in ("", "[]", '{"format": 1, "files": {"x": [1]}}', '{"format": 99, "files": {}}'):
        cache.write_text(text)
        assert check()[0] == 0
    spoil(data, lambda old: b"x" * len(old))  # the same size: only the time of change tells
    for path in three_images(data):
        os.utime(path, ns=(1, 1))
    assert len(check()[1]["problems"]) == 3 and len(check()[1]["problems"]) == 3
