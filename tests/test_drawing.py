"""Names in any script: what a font of the system can write is written, else the class's number stands there."""

import shutil
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, features

from onehead_cli import fonts
from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.drawing import class_text, draw_boxes, numbers_for_names, shortened, wrapped
from onehead_cli.fonts import Font, can_write, font_files, one_line

#: DejaVu has Greek, Cyrillic and Arabic and no Chinese; matplotlib brings it along.
DEJAVU = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
WRITTEN = ["cat", "café", "собака", "γάτα", "½ × 2"]
CAT, DOG = "猫", "狗"


def forget():
    for cached in (fonts._files, fonts._file_with, fonts._is_own):
        cached.cache_clear()


@pytest.fixture
def only(monkeypatch):
    """Make these the only font files of the system."""

    def install(*files):
        monkeypatch.setattr(fonts, "font_files", lambda: list(files))
        forget()

    yield install
    forget()


@pytest.fixture
def without_raqm(monkeypatch):
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "raqm" and check(name))


def written(text):
    """What a text looks like, cropped."""
    image = Image.new("RGB", (600, 60))
    Font(24).write(ImageDraw.Draw(image), (10, 30), text, fill=(255, 255, 255))
    return np.asarray(image.crop(image.getbbox()))


def test_a_font_is_taken_for_the_letters_that_its_own_table_names(only):
    only(DEJAVU)
    known = set(TTFont(DEJAVU).getBestCmap())
    codes = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0x370, 0x500, 3), *range(0x4E00, 0x9000, 501), 0x1F600]
    codes = [code for code in codes if chr(code).isprintable() and one_line(chr(code)) == chr(code)]
    assert [code for code in codes if can_write(chr(code))] == [code for code in codes if code in known]


def test_the_letters_are_those_of_the_font(only):
    """As Pillow draws the same word with that font alone."""
    from PIL import ImageFont

    only(DEJAVU)
    for word in ("собака", "γάτα"):
        image = Image.new("RGB", (600, 60))
        ImageDraw.Draw(image).text((10, 40), word, font=ImageFont.truetype(DEJAVU, 24), anchor="ls")
        assert np.array_equal(written(word), np.asarray(image.crop(image.getbbox())))


def test_without_a_font_the_number_stands_there(only):
    only()
    assert [class_text(name, 3) for name in ("cat", CAT, "собака", "n01440764")] == ["cat", "#3", "#3", "tench"]
    only(DEJAVU)
    assert [class_text(name, 3) for name in (*WRITTEN, CAT, f"cat {CAT}")] == [*WRITTEN, "#3", "#3"]
    # Names that nothing can show: no letter at all, and a byte that is not UTF-8 where no font has U+FFFD.
    assert [class_text(name, 3) for name in ("\u200b", "\u00ad", "\n")] == ["#3"] * 3
    assert class_text("caf\udce9", 3) == "caf\udce9" and np.array_equal(written("caf\udce9"), written("caf\ufffd"))


def test_arabic_is_joined_or_not_written(only, without_raqm):
    only(DEJAVU)
    assert not can_write("قطة") and not can_write("כלב") and not can_write("e\u0338")
    assert can_write("собака") and can_write("cafe\u0301"), "composed, it is one letter"


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow joins no letters")
def test_arabic_is_written_from_right_to_left(only):
    only(DEJAVU)
    assert can_write("قطة")
    # The first letter, with two dots above, is at the right.
    word, first = written("قط"), written("\ufed7")
    assert np.abs(word[:, -first.shape[1] :].astype(int).sum() - first.astype(int).sum()) < 0.2 * first.sum()


def test_a_script_whose_font_has_no_digits_stands_beside_them(only, tmp_path):
    from fontTools import subset

    alone = TTFont(DEJAVU)
    cut = subset.Subsetter()
    cut.populate(text="собак")
    cut.subset(alone)
    alone.save(tmp_path / "Alone.ttf")
    only(tmp_path / "Alone.ttf")
    assert can_write("собака") and can_write("a собака 2") and not can_write(f"собака {CAT}")
    font = Font(24)
    assert font.length("собака 0.87") == font.length("собака") + font.length(" 0.87")
    assert class_text("собака", 1) == "собака"


def test_a_font_that_cannot_be_read_is_passed_over(only, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(DEJAVU.read_bytes()[:5000])
    (tmp_path / "empty.otf").write_bytes(b"")
    only(tmp_path / "empty.otf", tmp_path / "broken.ttf", tmp_path / "gone.ttc", DEJAVU)
    assert can_write("собака") and not can_write(CAT)


def test_fonts_are_looked_for_in_the_folders_of_the_system_plain_ones_first(monkeypatch, tmp_path):
    for name in ("b/Foo-Bold.ttf", "b/FooSerif.otf", "Foo Sans.TTC", "zero.ttf", "LastResort.otf", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(fonts, "_FOLDERS", (tmp_path, tmp_path / "gone"))
    assert [path.name for path in font_files()] == ["Foo Sans.TTC", "zero.ttf", "Foo-Bold.ttf", "FooSerif.otf"]


def test_one_warning_says_which_number_is_which_class(only):
    only()
    names = {"seg": ["ground", CAT], "det": [*"一二三四五"]}
    assert numbers_for_names(names) == (
        "no installed font can draw 6 class names, so the drawings show numbers: #1 of seg is '猫', #0 of det is '一', "
        "#1 of det is '二', #2 of det is '三', #3 of det is '四' and 1 more; install a font for that script, such as "
        "Noto Sans"
    )
    assert numbers_for_names({"det": ["cat", "dog"]}) is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(text=st.text(max_size=40), width=st.integers(0, 300))
def test_any_text_is_cut_to_any_width(text, width):
    font = Font(16)
    shown = shortened(text, font, width)
    assert shown == one_line(text) or shown == "…" or font.length(shown) <= width
    assert all(font.length(line) <= width or len(line) <= 1 for line in wrapped(text, font, width))
    assert len(wrapped(text, font, width, most=2)) <= 2
    font.write(ImageDraw.Draw(Image.new("RGB", (40, 20))), (0, 10), text, fill=(1, 2, 3))


def test_the_longest_beginning_that_fits_is_shown_and_a_long_name_costs_no_time():
    font = Font(16)
    text = "a long name of a class, and more"
    for width in (40, 111, 200):
        cut = [text[:end] + "…" for end in range(len(text))]
        assert shortened(text, font, width) == [each for each in cut if font.length(each) <= width][-1]
    began = time.perf_counter()
    shortened("x" * 5000, font, 300)
    assert time.perf_counter() - began < 1


def test_no_label_leaves_the_picture():
    image = Image.new("RGB", (200, 100))
    draw_boxes(
        ImageDraw.Draw(image), [(60, 40, 90, 60)], ["w" * 300], [(255, 0, 0)], area=(50, 20, 150, 80), font=Font(14)
    )
    seen = np.asarray(image).astype(int)
    inside = seen[20:81, 50:151].sum()
    assert inside > 0 and seen.sum() == inside


@pytest.fixture
def renamed(tmp_path):
    """The shipped network with a class of each task called by a Chinese name."""
    path = tmp_path / "all.pth"
    checkpoint = load_checkpoint(shipped_student())
    names = checkpoint.architecture.classes
    for task in names:
        names[task] = [*names[task][:1], CAT, *names[task][2:]]
    save_checkpoint(path, checkpoint)
    return path


def overlays(folder):
    return {path.name: np.asarray(Image.open(path)) for path in (folder / "predictions").glob("*.png")}


def test_fault_79_names_that_no_font_can_write(only, renamed, tiny_data, tmp_path, capsys):
    """A name that no system font can write is drawn as the class's number, and one warning says which is which; with
    such a font the name is drawn, in any script."""
    image = min((tiny_data / "mini_coco_det" / "val").iterdir())
    wanted = ["predict", str(image), "--checkpoint", str(renamed), "--score-threshold", "0", "--no-masks"]
    only()
    assert run([*wanted, "--output", str(tmp_path / "a"), "--quiet"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("warning: ") == 1
    assert "no installed font can draw 3 class names" in said and f"#1 of det is '{CAT}'" in said
    numbers = overlays(tmp_path / "a")
    assert run([*wanted, "--output", str(tmp_path / "b"), "--quiet", "--no-overlays"]) == 0
    assert capsys.readouterr().err == "" and not overlays(tmp_path / "b")
    # A font with the letter: that of DejaVu's "Ж", under the number of the Chinese one.
    face = TTFont(DEJAVU)
    for table in face["cmap"].tables:
        if table.isUnicode():
            table.cmap[ord(CAT)] = table.cmap[ord("Ж")]
    face.save(tmp_path / "Chinese.ttf")
    only(tmp_path / "Chinese.ttf")
    assert np.array_equal(written(CAT), written("Ж"))
    assert run([*wanted, "--output", str(tmp_path / "c"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    names = overlays(tmp_path / "c")
    assert any(not np.array_equal(names[name], numbers[name]) for name in numbers)


def test_a_preview_shows_numbers_too(only, tiny_data, tmp_path, capsys):
    only()
    root = tmp_path / "data"
    shutil.copytree(tiny_data / "imagenette-160", root / "imagenette-160")
    for split in (root / "imagenette-160").iterdir():
        if split.is_dir():
            folder = sorted(path for path in split.iterdir() if path.is_dir())[0]
            folder.rename(split / DOG)
    assert run(["prepare-data", "--preview", "--data", str(root), "--quiet"]) == 0
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "no installed font" in line]
    assert "can draw 1 class name," in warning and f"is '{DOG}'" in warning
