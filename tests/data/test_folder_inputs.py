"""Folders, masks and class lists as people have them: what is read is what was saved, nothing is left out in silence,
and what is nearly there is named."""

import json
import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from loading import load_split
from PIL import Image
from png import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, write_png
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data import nearest
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.images import open_mask
from onehead_cli.data.listings import Listings
from onehead_cli.data.mask_folders import doubtful_labels, read_mask_classes
from onehead_cli.data.nearest import Nearest, near_folder
from onehead_cli.data.scan.probe import probe
from onehead_cli.errors import DataError

CLS, SEG, COCO = "imagenette-160", "mini_voc_seg", "mini_coco_det"
WIDTH, HEIGHT = 40, 32


def noise(path, **options):
    """An image unlike any other of the test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.parent.parent.name + path.parent.name + path.name))
    Image.effect_noise((WIDTH, HEIGHT), 20 + seed % 200).convert("RGB").save(path, **options)


class Own:
    """Three images in each of train and val for masks, and for class folders of two; what a command says of them."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys

    def make_classes(self):
        for split in ("train", "val"):
            for name in ("ant/a", "ant/b", "bee/c"):
                noise(self.root / CLS / split / f"{name}.jpg")
        return self

    def make_masks(self, *classes, mask=None):
        """mask: [H, W], the same for all images."""
        (self.root / SEG).mkdir(parents=True)
        (self.root / SEG / "classes.yaml").write_text("".join(f"- {name}\n" for name in classes or ("ground", "thing")))
        values = mask if mask is not None else np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2
        for split in ("train", "val"):
            for name in "abc":
                noise(self.root / SEG / split / "JPEGImages" / f"{name}.jpg")
                self.mask(name, split).parent.mkdir(exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(self.mask(name, split))
        return self

    def mask(self, name="b", split="train"):
        return self.root / SEG / split / "SegmentationClass" / f"{name}.png"

    def image(self, name="b", split="train"):
        return self.root / SEG / split / "JPEGImages" / f"{name}.jpg"

    def check(self, *options):
        """The exit code and the document of `prepare-data --check`."""
        code = run(["prepare-data", "--check", str(self.root), "--json", "--quiet", *options])
        document = json.loads(self.capsys.readouterr().out)
        document["notes"] = [note for note in document["notes"] if not note.endswith(" is not there")]
        return code, document

    def problems(self):
        """(kind, name of the file, reason) of each."""
        _, document = self.check()
        return [(p["kind"], Path(p["path"] or "").name, p["reason"]) for p in document["problems"]]

    def train(self, task, *options):
        """The exit code of a short training with --quiet, and what it says on stderr."""
        where = ["--data", str(self.root), "--output", str(self.root.parent / "out"), "--epochs", "1"]
        where += ["--set", f"data.tasks=[{task}]"]
        code = run(["train-teacher", "--task", task, *where, *SMALL, *options])
        return code, self.capsys.readouterr().err


@pytest.fixture
def own(tmp_path, capsys):
    return Own(tmp_path / "data", capsys)


def filled(**shares):
    """A mask of WIDTH x HEIGHT whose first pixels have the values; shares in percent, as v255=20."""
    values = [int(name[1:]) for name, share in shares.items() for _ in range(share)]
    return np.resize(np.array(values), WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("shares", "classes", "kind", "words"),
    [
        ({"v0": 80, "v255": 20}, ("ground", "thing"), "one_label", "if that stands for thing, write 1 instead"),
        ({"v0": 99, "v255": 1}, ("ground", "thing"), "one_label", "if that stands for thing, write 1 instead"),
        ({"v0": 60, "v1": 20, "v255": 20}, ("ground", "a", "b"), "absent_label", "no pixel is b; "),
        ({"v1": 20, "v2": 20, "v255": 60}, ("ground", "a", "b"), "absent_label", "no pixel is ground; "),
        ({"v255": 100}, ("ground", "thing"), "no_labels", "no pixel has a class"),
        ({"v0": 100}, ("ground", "thing"), "one_label", "every pixel with a class is ground"),
    ],
)
def test_fault_69_class_that_was_written_as_void(own, shares, classes, kind, words):
    """If a class has no pixel in a whole split while void is common, or all labelled pixels are of one class, `--check`
    fails and says which value to write; a training warns, also with --quiet; a test split may be so."""
    own.make_masks(*classes, mask=filled(**shares))
    shutil.copytree(own.root / SEG / "val", own.root / SEG / "test")
    for path in own.root.rglob("test/JPEGImages/*"):
        noise(path)
    found = own.problems()
    assert [(each[0], each[1]) for each in found] == [(kind, "SegmentationClass")] * 2 and words in found[0][2]
    if 255 not in filled(**shares):
        assert "255" not in found[0][2]
    code, said = own.train("seg")
    assert code == 0 and said.count("SegmentationClass: ") == 2 and words in said


@pytest.mark.parametrize(
    ("shares", "classes"),
    [
        ({"v0": 75, "v1": 20, "v255": 5}, ("ground", "a", "rare")),  # VOC's outlines
        ({"v0": 40, "v1": 20, "v255": 40}, ("ground", "thing")),
        ({"v0": 80, "v1": 20}, ("ground", "a", "rare")),
    ],
)
def test_masks_with_void_of_which_there_is_no_doubt(own, shares, classes):
    assert own.make_masks(*classes, mask=filled(**shares)).problems() == []


def test_what_is_said_of_void_is_counted_over_the_split():
    """Against the share by hand; an ignore index among the classes is not missed."""
    said = doubtful_labels({0: 70, 1: 5, 255: 25}, ["ground", "a", "b"], 255, whole=True)
    assert said is not None and said[0] == "absent_label" and "25.0% of the pixels are 255" in said[1]
    assert doubtful_labels({0: 70, 1: 20, 2: 10}, ["void", "a", "b"], 0, whole=True) is None
    assert doubtful_labels({}, ["ground", "a"], 255, whole=True) is None


def test_a_sample_of_masks_is_looked_at_where_there_are_too_many(own, monkeypatch):
    """Headers do not show that a class is written as void; a sample does, and what it lacks may only be rare."""
    monkeypatch.setattr("onehead_cli.data.scan.scan.MANY", 3)
    monkeypatch.setattr("onehead_cli.data.scan.scan.SAMPLE", 2)
    own.make_masks("ground", "thing", mask=filled(v0=80, v255=20))
    found = own.problems()
    assert [kind for kind, *_ in found] == ["one_label"] * 2 and found[0][2].startswith("in 2 sampled masks: ")
    shutil.rmtree(own.root)
    own.make_masks("ground", "a", "rare", mask=filled(v0=60, v1=20, v255=20))
    assert own.problems() == []
    # A mask that is decoded for its end alone does not stand for the others.
    shutil.rmtree(own.root)
    own.make_masks("ground", "thing", mask=filled(v0=60, v1=40))
    Image.fromarray(filled(v0=80, v255=20).astype(np.uint8)).save(own.mask("c"))
    with own.mask("c").open("ab") as file:
        file.write(bytes(40))
    assert own.problems() == []


def test_fault_70_two_files_for_one(own):
    """Two images that have one mask, and two masks of one image, are listed with both names."""
    own.make_masks()
    noise(own.image("a").with_suffix(".png"))
    shutil.copy(own.mask("c"), own.mask("c").with_suffix(".PNG"))
    kinds = [(kind, name, reason.partition(";")[0]) for kind, name, reason in own.problems()]
    assert kinds == [
        ("two_images_of_a_mask", "a.jpg", "a.png has the same mask, a.png"),
        ("two_images_of_a_mask", "a.png", "a.jpg has the same mask, a.png"),
        ("two_masks_of_an_image", "c.png", "c.PNG is a mask of c.jpg too"),
    ]
    code, document = own.check("--skip-bad")
    assert code == 0 and document["bad"]["seg"] == {"train": 3, "val": 0}


def test_names_that_differ_in_case_only(own):
    """They are two masks, or one where the file system takes both names for one file."""
    own.make_masks()
    noise(own.image("A"))
    Image.fromarray(1 - np.asarray(Image.open(own.mask("a")))).save(own.mask("A"))
    assert own.problems() == []
    own.mask("A").unlink()
    os.link(own.mask("a"), own.mask("A"))
    kinds = [(kind, name) for kind, name, _ in own.problems()]
    assert kinds == [("two_images_of_a_mask", "A.jpg"), ("two_images_of_a_mask", "a.jpg")]


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 100}), ("WEBP", {"lossless": True}), ("BMP", {})])
def test_fault_71_mask_that_is_no_png_by_its_content(own, kind, options):
    """A mask that is a JPEG, WebP or BMP under the name of a PNG is listed: JPEG compression changes labels."""
    own.make_masks()
    with Image.open(own.mask()) as image:
        image.load()
    image.save(own.mask(), format=kind, **options)
    [(found, name, reason)] = own.problems()
    assert (found, name) == ("mask_wrong_mode", "b.png") and f"this is a {kind}" in reason
    assert ("compression" in reason) == (kind == "JPEG")
    code, said = own.train("seg")
    assert code == 1 and said.count("\n") == 1 and "b.png" in said


TRANSPARENT = chunk(b"tRNS", bytes([0, 128]))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize(("colour", "more"), [(GREY, ()), (PALETTE, ()), (PALETTE, (TRANSPARENT,))])
def test_fault_72_masks_of_few_bits(own, depth, colour, more):
    """Grey and palette masks of 1, 2 and 4 bits are read with the labels as written, like those of 8 bits."""
    top = min(2**depth, 9)
    own.make_masks(*(f"c{i}" for i in range(top)))
    expected = np.random.default_rng(depth).integers(0, top, (HEIGHT, WIDTH)).astype(np.uint8)
    for split in ("train", "val"):
        for name in "abc":
            write_png(own.mask(name, split), expected.tolist(), depth=depth, colour=colour, more=more)
    assert (open_mask(own.mask()) == expected).all()
    assert probe(own.mask(), decode=True, is_mask=True).labels == Counter(expected.ravel().tolist())
    code, document = own.check()
    assert code == 0 and document["problems"] == []
    data = load_split("seg", "train", DataConfig(root=own.root, image_size=64), budget=CacheBudget(1))
    assert (data.mask(1) == expected).all()


@pytest.mark.parametrize(("depth", "colour"), [(16, GREY), (8, GREY_ALPHA), (8, RGB), (8, RGBA), (16, RGB)])
def test_masks_of_more_than_a_byte_per_pixel_are_refused(own, depth, colour):
    own.make_masks()
    channels = {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGBA: 4}[colour]
    write_png(own.mask(), [[1] * WIDTH * channels] * HEIGHT, depth=depth, colour=colour)
    assert [(kind, name) for kind, name, _ in own.problems()] == [("mask_wrong_mode", "b.png")]


def write_deep(path, most, colour=GREY):
    channels = {GREY: 1, RGB: 3, GREY_ALPHA: 2, RGBA: 4}[colour]
    pixel = [most] * channels if colour in (GREY, RGB) else [most] * (channels - 1) + [65535]
    rows = [[value + path.name.encode()[0] - 120 if value == most else value for value in pixel * WIDTH]] * HEIGHT
    write_png(path, rows, depth=16, colour=colour)


@pytest.mark.parametrize("colour", [GREY, RGB, GREY_ALPHA, RGBA])
def test_fault_73_images_of_12_bits_in_16(own, colour):
    """If all 16-bit images of a split stay under 4,096, they are read as nearly black: `--check` fails, and a training
    and `predict` warn, also with --quiet."""
    own.make_classes()
    place = own.root / CLS / "train" / "bee"
    for name in ("d.png", "e.png"):
        write_deep(place / name, 4095)
    [(kind, _, reason)] = own.problems()
    assert kind == "nearly_black" and "2 16-bit images" in reason and "nearly black" in reason
    if colour == GREY:
        code, said = own.train("cls")
        assert code == 0 and said.startswith("warning: cls train: 2 16-bit images")
    write_deep(place / "e.png", 40000, colour)  # the scan remembers the other
    assert own.problems() == []


def test_fault_74_files_that_are_passed_over(own):
    """Unused files in the folders of a split are counted by kind, in a note and in the JSON of `--check`; if they are
    most of a folder it is a warning, also with --quiet."""
    own.make_classes().make_masks()
    train = own.root / CLS / "train"
    for name in ("ant/x.tif", "ant/y.TIF", "ant/.hidden", "bee/LIES", "readme.md"):
        (train / name).touch()
    (train / "ant" / "more").mkdir()
    (train / "dead").symlink_to("nowhere")
    (train / "bee" / "old").symlink_to("nowhere")
    for name in "xy":
        shutil.copy(own.mask("a"), own.mask(name))
    own.mask("a").with_name("list.txt").touch()
    own.image("a").with_name("Thumbs.db").touch()
    code, document = own.check()
    assert code == 0 and document["passed_over"] == {
        "cls": {
            "train": {
                ".tif": 2,
                "file beside the class folders": 1,
                "file without a suffix": 1,
                "link to nothing": 2,
                "sub-folder": 1,
            },
            "val": {},
        },
        "seg": {"train": {".db": 1, ".txt": 1, "mask without an image": 2}, "val": {}},
    }
    assert document["notes"] == [
        "cls train: 2 .tif, 1 file beside the class folders, 1 file without a suffix, 2 links to nothing, 1 sub-folder "
        "ignored",
        "seg train: 1 .db, 1 .txt, 2 masks without an image ignored",
    ]
    # Of ant three of five, of bee two of three.
    assert document["warnings"] == [
        f"{train / 'ant'}: 2 files used, 2 .tif, 1 sub-folder ignored",
        f"{train / 'bee'}: 1 file used, 1 file without a suffix, 1 link to nothing ignored",
    ]
    code, said = own.train("cls")
    assert code == 0 and said.count("warning: ") == 2 and f"warning: {train / 'ant'}: 2 files used" in said


def test_a_folder_of_nothing_that_can_be_read_says_what_is_in_it(own):
    own.make_masks()
    for name in "abc":
        own.image(name).rename(own.image(name).with_suffix(".tif"))
    assert [reason.partition(": ")[2] for _, _, reason in own.problems()] == ["no image in it, only 3 .tif"]


def test_each_folder_is_listed_once_and_nothing_is_read_to_count(own, monkeypatch):
    own.make_classes().make_masks()
    listed, real = Counter(), Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.update([path]) or real(path))
    own.check()
    assert set(listed.values()) == {1} and len(listed) == 2 + 4 + 4


NAMES = ["background", "no", "1", "2024-01-01", "a b: é😀"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "- background\n- no\n- 1\n- 2024-01-01\n- 'a b: é😀'\n"),
        ("c.yaml", "[background, no, 1, 2024-01-01, 'a b: é😀']"),
        ("c.yaml", "4: 'a b: é😀'\n3: 2024-01-01\n0: background\n1: no\n2: 1\n"),
        ("c.yaml", "'0': background\n\"1\": no\n'2': '1'\n3: 2024-01-01\n'4': 'a b: é😀'\n"),
        ("c.yaml", "path: x\nnc: 5\nnames:\n  - background\n  - no\n  - 1\n  - 2024-01-01\n  - 'a b: é😀'\n"),
        ("c.yml", "names: {0: background, 1: no, 2: 1, 3: 2024-01-01, 4: 'a b: é😀'}\n"),
        ("c.json", json.dumps(NAMES)),
        ("c.json", json.dumps({str(index): name for index, name in enumerate(NAMES)}, ensure_ascii=False)),
        ("c.txt", "\n".join(NAMES) + "\n\n"),
        ("obj.names", "\n".join(f"{name} " for name in NAMES)),
    ],
)
@pytest.mark.parametrize("written", [lambda text: text, lambda text: "\ufeff" + text.replace("\n", "\r\n")])
def test_class_lists_as_people_write_them(tmp_path, name, text, written):
    """Also with a byte order mark and Windows' line ends; names that YAML would take for something else are text."""
    (tmp_path / name).write_bytes(written(text).encode())
    assert read_mask_classes(DataConfig(seg_classes=tmp_path / name)) == NAMES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.yaml", "- a\n- [b]\n", "class 1 is a list, not a name"),
        ("c.yaml", "- a\n- b: c\n", "class 1 is a mapping, not a name"),
        ("c.yaml", "- a\n-\n- c\n", "class 1 has no name"),
        ("c.yaml", "- a\n- b\n- a\n", "class 2 repeats the name a of class 0"),
        ("c.yaml", '- a\n- "b\\nc"\n', "class 1: 'b\\nc' holds a control character"),
        ("c.yaml", "0: a\n1: b\n3: d\n", "class 2 is missing, and there is a class 3"),
        ("c.yaml", "1: a\n2: b\n", "class 0 is missing, and there is a class 2"),
        ("c.yaml", "0: a\n1: b\n'1': c\n", "class 1 is written twice"),
        ("c.yaml", "0: a\nb: 1\n", "'b' is not a class index"),
        ("c.yaml", "names: [a]\nnames: [b]\n", "'names' is written twice"),
        ("c.yaml", "just text\n", "expected a list of class names"),
        ("c.yaml", "", "expected a list of class names"),
        ("c.yaml", "- a\n- b: [\n", "not valid YAML at line 3"),
        ("c.yaml", "[" + ", ".join(f"c{i}" for i in range(256)) + "]", "256 class names, but a mask has room for 255"),
        ("c.txt", "a\n\nc\n", "class 1 has no name"),
        ("c.txt", "\n", "expected a list of class names"),
    ],
)
def test_fault_75_entry_of_a_class_list_that_is_no_name(own, name, text, message):
    """A class list that cannot be used is one error that names the entry, by its index and content."""
    own.make_masks()
    (own.root / name).write_bytes(text.encode())
    with pytest.raises(DataError) as raised:
        read_mask_classes(DataConfig(seg_classes=own.root / name))
    assert str(raised.value).startswith(f"{own.root / name}: {message}")
    code, said = own.train("seg", "--set", f"data.seg_classes={own.root / name}")
    assert code == 1 and said == f"error: {raised.value}\n"


NFC = unicodedata.normalize("NFC", "é.jpg")
NFD = unicodedata.normalize("NFD", "é.jpg")


@pytest.mark.parametrize(
    ("listed", "there", "hint"),
    [
        ("x\\a.jpg", ["x/a.jpg"], "x/a.jpg"),
        ("C:\\data\\a.jpg", ["a.jpg"], "a.jpg"),
        ("my%20cat.jpg", ["my cat.jpg"], "my cat.jpg"),
        ("images/a.jpg", ["a.jpg"], "a.jpg"),
        ("data/train/a.jpg", ["train/a.jpg", "b.jpg"], "train/a.jpg"),
        ("a.jpg", ["train2017/a.jpg"], "train2017/a.jpg"),
        ("a.JPG", ["a.jpg"], "a.jpg"),
        ("a.jpg", ["a.png"], "a.png"),
        ("a.jpg", ["a.tif"], "a.tif"),
        (NFC, [NFD], f"{NFD} (its accents are stored in another form of Unicode)"),
        ("/somewhere/a.jpg", ["a.jpg"], "a.jpg"),
        # Nothing near, two that are, and what is no image.
        ("a.jpg", ["b.jpg", "ab.jpg", "a1.jpg"], None),
        ("a.jpg", ["a.png", "a.bmp"], None),
        ("a.jpg", ["x/a.jpg", "y/a.jpg"], None),
        ("a.jpg", ["a.txt", "a.xml"], None),
        ("../a.jpg", ["a.jpg"], None),
    ],
)
def test_fault_76_file_that_is_nearly_there(own, listed, there, hint):
    """If a listed file is missing and one with a similar folder, case, suffix, quoting or Unicode form exists, the
    message names it; it is never used."""
    folder = own.root / COCO / "train"
    for name in ("good.jpg", *there):
        noise(folder / name, format="JPEG")
    document = {
        "images": [
            {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(("good.jpg", listed))
        ],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (own.root / COCO / "annotations").mkdir()
    (own.root / COCO / "annotations" / "instances_train.json").write_text(json.dumps(document))
    [(kind, _, reason)] = own.problems()
    assert kind == ("outside_folder" if listed.startswith(("/", "..")) else "missing")
    expected = None if hint is None else hint if "/" not in listed + hint else str(folder / hint)
    assert reason.partition("; found ")[2] == (expected or "")


@pytest.mark.parametrize(
    ("there", "hint"),
    [
        ("b.PNG", "b.PNG"),
        ("b_mask.png", "b_mask.png"),
        ("b_gt.png", "b_gt.png"),
        ("mask_b.png", "mask_b.png"),
        ("b.jpg.png", "b.jpg.png"),
        ("b.bmp", "b.bmp"),
        ("b.tif", "b.tif"),
        ("b_1.png", None),
        ("bb.png", None),
    ],
)
def test_a_mask_that_is_nearly_there(own, there, hint):
    own.make_masks()
    own.mask().rename(own.mask().with_name(there))
    [(kind, _, reason)] = own.problems()
    assert kind == "mask_missing" and reason == "mask: no such file" + (f"; found {hint}" if hint else "")


def test_what_cannot_be_looked_at_ends_no_search(own):
    """A link that leads to itself beside what is missing, and a name that is too long."""
    own.make_masks("ground", "thing")
    (own.root / SEG / "train" / "SegmentationClass" / "loop.png").symlink_to("loop.png")
    (own.root / SEG / "train" / "loop").symlink_to("loop")
    own.mask().unlink()
    assert [(kind, name) for kind, name, _ in own.problems()] == [("mask_missing", "b.png")]
    near = Nearest()
    assert near.hint(Path("/" + 300 * "q" + ".jpg"), own.root / SEG) == ""
    assert near_folder(own.root / SEG / "train" / "JPEGImagess") == own.root / SEG / "train" / "JPEGImages"
    assert near_folder(own.root / (300 * "q") / "x") is None


def test_a_link_to_nothing_is_called_so(own):
    own.make_masks()
    own.mask().unlink()
    own.mask().symlink_to("nowhere.png")
    assert [reason for _, _, reason in own.problems()] == ["mask: a broken link"]


def test_a_folder_is_looked_into_once_for_all_hints(own, monkeypatch):
    own.make_masks()
    for name in "abc":
        own.mask(name).rename(own.mask(name).with_name(f"{name}_mask.png"))
    looked, real = Counter(), os.scandir
    monkeypatch.setattr(nearest.os, "scandir", lambda folder: looked.update([folder]) or real(folder))
    assert all(f"{name}_mask.png" in str(own.problems()) for name in "abc")
    assert set(looked.values()) == {3}  # once per scan


@pytest.mark.parametrize(
    ("folder", "there", "hint"),
    [
        ("train/JPEGImages", "train/images", True),
        ("train/SegmentationClass", "train/masks", True),
        ("train/JPEGImages", "train/JPEGimages", True),
        ("train/JPEGImages", "train/JPEGImage", True),
        ("train", "Train", True),
        ("val", "valid", True),
        ("train", "train_2", False),
        ("val", "vault", False),
    ],
)
def test_fault_77_folder_that_is_nearly_there(own, folder, there, hint):
    """If a data folder is missing and a similar one exists, the message names it."""
    own.make_masks()
    (own.root / SEG / folder).rename(own.root / SEG / there)
    _, document = own.check()
    said = document["problems"][0]["reason"] if document["problems"] else ""
    if not document["problems"]:  # the whole split is under another name: only a config asks for it
        code, said = own.train("seg")
        assert code == 1 and said.count("\n") == 1
    assert "no such folder" in said and (f"; found {own.root / SEG / there};" in said) == hint


def test_fault_78_images_that_exif_turns_are_counted(own):
    """Images that are turned by EXIF are counted per split, in a note and in the JSON of `--check`."""
    own.make_classes()
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("a.jpg", "b.jpg"):
        noise(own.root / CLS / "train" / "ant" / name, exif=exif)
    exif[0x0112] = 1
    noise(own.root / CLS / "val" / "ant" / "a.jpg", exif=exif)
    for _ in range(2):  # also as the scan remembers it
        code, document = own.check()
        assert code == 0 and document["turned"] == {"cls": {"train": 2, "val": 0}}
        assert document["notes"] == ["cls train: 2 of 3 images turned by EXIF"]


def test_class_folders_of_any_name(own):
    """What cannot stand in a line of text is escaped in the class's name; the same names in several folders are
    different images."""
    names = [b"a\nb", b"caf\xe9", "naïve 😀 dir".encode(), b"tab\tx"]
    for split in ("train", "val"):
        for number, name in enumerate(names):
            folder = os.path.join(os.fsencode(own.root / CLS / split), name)  # noqa: PTH118 - of bytes
            os.makedirs(folder)  # noqa: PTH103 - of bytes
            noise(Path(os.fsdecode(folder)) / "same.jpg", comment=f"{split} {number}")
    listing = Listings(Config(data=DataConfig(root=own.root))).get("cls", "train")
    assert listing.classes == ["a\\nb", "caf\\xe9", "naïve 😀 dir", "tab\\tx"] and listing.labels == [0, 1, 2, 3]
    code, said = own.train("cls")
    assert code == 0 and said == ""
    where = ["--data", str(own.root), "--output", str(own.root.parent / "out"), "--split", "val", "--quiet"]
    assert run(["evaluate", "--no-report", "--checkpoint", str(own.root.parent / "out" / "cls_best.pth"), *where]) == 0


@pytest.mark.parametrize("names", [("caf\u00e9", "cafe\u0301"), (os.fsdecode(b"caf\xe9"), "caf\\xe9")])
def test_two_class_folders_of_one_name_are_refused(own, names):
    own.make_classes()
    for name in names:
        folder = own.root / CLS / "train" / name
        folder.mkdir()
        noise(folder / "x.jpg")
    code, document = own.check()
    assert code == 1 and "are one class by name; rename one" in document["problems"][0]["reason"]
    assert all(ascii(name) in document["problems"][0]["reason"] for name in names)


def test_links_in_folders_are_followed(own):
    """Links to images and to class folders, wherever they lead."""
    own.make_classes()
    elsewhere = own.root.parent / "elsewhere"
    noise(elsewhere / "wasp" / "one.jpg")
    (own.root / CLS / "train" / "wasp").symlink_to(elsewhere / "wasp")
    (own.root / CLS / "train" / "bee" / "linked.jpg").symlink_to(own.root / CLS / "train" / "ant" / "a.jpg")
    code, document = own.check()
    assert code == 0 and document["pictures"]["cls"] == {"train": 5, "val": 3}
