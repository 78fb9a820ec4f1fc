"""Images by whatever names and of whatever kinds people have: what is found, counted, turned, and how it is shown."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from png import RGB, write_png

from onehead_cli.prediction.names import in_json, of_json, short_names

ODD = [b"caf\xe9.jpg", b"a\nb\t\x1b[31mred.jpg", "日本 😀 é.jpg".encode(), b" spaces  inside .jpg", b":cat:[bold].jpg"]


def test_fault_65_names_of_any_bytes(predict, image, tmp_path, capsys):
    """File names with any bytes are read and shown, with unprintable characters escaped; the bytes of a name are those
    of `record["file"].encode("utf-8", "surrogateescape")`, and records and documents are valid UTF-8."""
    folder = image("in/x.jpg").parent
    for name in ODD:
        (folder / os.fsdecode(name)).write_bytes((folder / "x.jpg").read_bytes())
    (folder / "x.jpg").unlink()
    (folder / os.fsdecode(b"bad\xff\x1b.jpg")).write_bytes(b"")
    assert predict(folder, "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["failed"] == 1 and shown.out.isascii()
    for record in predict.records():
        path = Path(os.fsdecode(record["file"].encode("utf-8", "surrogateescape")))
        assert path.parent == folder and path.exists()
        if "error" not in record:
            mask = record["mask"]["file"].encode("utf-8", "surrogateescape")
            assert (predict.folder / os.fsdecode(mask)).exists()
    assert {os.fsencode(Path(file).name) for file in predict.files()} == {*ODD, b"bad\xff\x1b.jpg"}
    assert predict(folder) == 1
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "\x1b" not in text and "\t" not in text
        text.encode("utf-8")
    for name in (r"caf\xe9.jpg", r"a\nb\t\x1b[31mred.jpg", "日本 😀 é.jpg", " spaces  inside .jpg", ":cat:[bold].jpg"):
        assert name in shown.out
    assert f"warning: {folder}/bad\\xff\\x1b.jpg: the file is empty" in shown.err
    assert len(predict.files()) == 6  # the second run has known them all again


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_a_name_in_a_record_gives_its_bytes(name):
    written = json.loads(json.dumps(in_json(os.fsdecode(name))))
    assert written.encode("utf-8", "surrogateescape") == name and os.fsencode(of_json(written)) == name


def stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("separator", "form"),
    [(b"\n", "lines"), (b"\r\n", "lines"), (b"\0", "NULs"), (b"\n\n  \n", "blank lines"), (b"\r\n", "BOM")],
)
def test_a_list_of_paths_on_stdin(separator, form, predict, image, tmp_path, monkeypatch):
    names = [b"a b.jpg", b"\xe9 .jpg", "é.jpg".encode(), *([b"new\nline.jpg"] if form == "NULs" else [])]
    paths = [image(f"in/{os.fsdecode(name)}") for name in names]
    listed = separator.join(map(os.fsencode, paths)) + separator
    stdin(monkeypatch, ("\ufeff".encode() if form == "BOM" else b"") + listed)
    last = image("last.jpg")
    assert predict("-", last, "-q") == 0
    assert [os.fsencode(of_json(file)) for file in predict.files()] == [os.fsencode(path) for path in (*paths, last)]


def test_a_list_as_powershell_writes_it(predict, image, monkeypatch):
    path = image("é.jpg")
    stdin(monkeypatch, f"{path}\r\n".encode("utf-16"))
    assert predict("-") == 0


def test_a_listed_path_is_no_pattern(predict, image, monkeypatch, capsys):
    image("photo1.jpg")
    monkeypatch.setenv("HOME", str(image("a.jpg").parent))
    monkeypatch.chdir(Path.home())
    stdin(monkeypatch, b"photo[1].jpg\n~/a.jpg\n")
    assert predict("-") == 2
    assert capsys.readouterr().err == "error: no such file or folder: photo[1].jpg, ~/a.jpg\n"
    assert predict("photo[1].jpg", "~/a.jpg") == 0  # what the shell might have filled in


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\0\0", None])
def test_an_empty_list_is_one_line_and_exit_2(content, predict, monkeypatch, capsys):
    if content is None:
        monkeypatch.setattr(sys, "stdin", None)
    else:
        stdin(monkeypatch, content)
    assert predict("-") == 2
    assert "stdin" in capsys.readouterr().err and not predict.output.exists()


def test_what_is_listed_and_not_there_is_counted_in_one_line(predict, image, monkeypatch, capsys):
    stdin(monkeypatch, "".join(f"gone{number}.jpg\n" for number in range(2000)).encode())
    assert predict("-", image("a.jpg")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: no such file or folder: " + ", ".join(f"gone{n}.jpg" for n in range(5)) + " and 1995 more"


def test_fault_67_what_is_no_image_is_counted(predict, image, tmp_path, capsys):
    """`predict` says what it ignores in a folder or pattern, by kind, in one note each, and counts it in the document:
    files with other suffixes, broken links, sub-folders that it does not search."""
    for name in ("c/a.jpg", "c/b.jfif", "c/sub/d.JPE", "c/.hidden.gif", "away/e.jpg"):
        image(name)
    folder = tmp_path / "c"
    for name in ("1.gif", "2.gif", "sub/3.GIF", "x.tif", "README"):
        (folder / name).write_bytes(b"x")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "linked").symlink_to(tmp_path / "away")
    os.mkfifo(folder / "pipe.png")
    assert predict(folder, f"{folder}/*[!g]", "--json") == 0
    shown = capsys.readouterr()
    notes = [line for line in shown.err.splitlines() if line.startswith("ignored in")]
    kinds = "3 .gif, 1 .tif, 1 file without a suffix, 1 link to nothing, 1 special file, 1 sub-folder"
    assert notes[0] == f"ignored in {folder}: {kinds}"
    assert notes[1] == f"ignored in {folder}/*[!g]: 2 .gif, 1 .tif, 1 file without a suffix, 2 sub-folders"
    counts = {".gif": 3, ".tif": 1, "file without a suffix": 1, "link to nothing": 1, "special file": 1}
    assert json.loads(shown.out)["passed_over"] == {**counts, "sub-folder": 2}
    assert predict(folder, "-q") == 0 and capsys.readouterr().err == ""
    assert predict(folder / "README") == 1  # what is named itself is taken, and it is no image


def test_an_argument_without_images_says_what_it_has(predict, tmp_path, capsys):
    (tmp_path / "x.gif").write_bytes(b"x")
    assert predict(tmp_path) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"in: {tmp_path}; ignored: 1 .gif")


def test_home_and_variables_in_quotes(predict, image, tmp_path, monkeypatch):
    image("a.jpg")
    image("~/b.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert predict("~/a.jpg", "$HOME/a.jpg", "~/b.jpg") == 0
    assert predict.files() == [str(tmp_path / "a.jpg"), "~/b.jpg"]  # what is there by its name is meant


def test_short_names_by_hand(tmp_path):
    paths = map(Path, ("x/1/a.jpg", "y/1/a.jpg", "y/2/a.jpg", "b.jpg", "/a.jpg", "a.jpg"))
    assert short_names(list(paths)) == ["x/1/a.jpg", "y/1/a.jpg", "2/a.jpg", "b.jpg", "//a.jpg", "a.jpg"]


def test_equal_names_are_told_apart_in_the_table(predict, image, tmp_path, capsys):
    for name in ("x/a.jpg", "y/a.jpg", "y/b.jpg"):
        image(name)
    assert predict(tmp_path / "x", tmp_path / "y") == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if ".jpg" in line]
    assert shown == ["x/a.jpg", "y/a.jpg", "b.jpg"]


TURNS = {  # what a viewer does with each orientation, as EXIF's standard says, on [height, width, 3]
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def test_images_of_12_bits_in_16_are_warned_about(predict, tmp_path, capsys):
    """`predict` warns of images that are nearly black, also with --quiet."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for name, brightest in {"dark": 4095, "darker": 300, "bright": 4370}.items():  # 4095 of 65535 is 15.9 of 255
        values = np.linspace(0, brightest, 48 * 64).reshape(48, 64).astype(np.uint16)
        Image.fromarray(values).save(folder / f"{name}.png")
    for name, high in {"dark-rgb": 15, "bright-rgb": 16}.items():
        write_png(folder / f"{name}.png", [[0, 0, high << 8] * 64] * 48, depth=16, colour=RGB)
    Image.new("RGB", (64, 48)).save(folder / "black-of-8-bits.png")
    assert predict(folder, "--json", "--quiet") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["nearly_black"] == 3
    assert (
        "warning: nearly black: 3 16-bit images with no value above 4095 of 65535; "
        "stretch the values to 16 bits, or save them in 8"
    ) in shown.err.splitlines()


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_every_exif_orientation_is_followed_and_counted(form, predict, image, tmp_path, capsys):
    for orientation, turn in TURNS.items():
        base = Image.open(image(f"{form}/base.png", 64, 48))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if form == "webp" else {"quality": 95} if form == "jpg" else {}
        stored = tmp_path / form / f"{orientation}.{form}"
        base.save(stored, exif=exif, **options)
        with Image.open(stored) as pixels:  # without the orientation, whatever JPEG has made of them
            upright = turn(np.asarray(pixels.convert("RGB")))
        Image.fromarray(np.ascontiguousarray(upright)).save(tmp_path / form / f"{orientation}-upright.png")
    (tmp_path / form / "base.png").unlink()
    assert predict(tmp_path / form, "--json", "--batch-size", "16") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["turned"] == 7
    assert "turned by the EXIF orientation: 7 images" in shown.err.splitlines()
    records = {Path(record["file"]).stem: record for record in predict.records()}
    assert len(records) == 16 and len(records["1"]["boxes"]) > 0
    for orientation in TURNS:
        stored, upright = records[f"{orientation}"], records[f"{orientation}-upright"]
        for key in ("width", "height", "class", "boxes"):
            assert stored[key] == upright[key], (orientation, key)
        masks = [Image.open(predict.folder / record["mask"]["file"]) for record in (stored, upright)]
        assert masks[0].size == masks[1].size and masks[0].tobytes() == masks[1].tobytes()


def test_files_of_cameras_and_editors(predict, image, tmp_path):
    base = Image.open(image("base.png", 64, 48))
    grey = base.convert("L")
    folder = tmp_path / "in"
    folder.mkdir()
    base.save(folder / "two.jpg", "MPO", save_all=True, append_images=[base.rotate(180)])
    base.convert("CMYK").save(folder / "cmyk.jpg")
    base.save(folder / "icc.png", icc_profile=b"broken")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    base.save(folder / "icc.jpg", icc_profile=profile[:300])
    base.save(folder / "apng.png", save_all=True, append_images=[base.rotate(180)], default_image=False)
    base.save(folder / "rgb.png")
    Image.merge("LA", (grey, grey)).save(folder / "la.png")
    grey.save(folder / "grey.png")
    grey.point(lambda value: 255 * (value > 127), "1").save(folder / "bit.png")
    grey.point(lambda value: 255 * (value > 127)).save(folder / "bit-grey.png")
    assert predict(folder) == 0
    records = {Path(record["file"]).name: record for record in predict.records()}
    assert len(records) == 10
    for one, other in {"icc": "rgb", "apng": "rgb", "la": "grey", "bit": "bit-grey"}.items():
        for key in ("boxes", "class"):
            assert records[f"{one}.png"][key] == records[f"{other}.png"][key]
