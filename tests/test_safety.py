"""Nothing that is read from a file runs, and nothing is decoded that is larger than expected."""

import io
import json
import os
import pickle
import shutil

import pytest
import torch
import yaml
from PIL import Image
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.load import load_config, parse_assignments
from onehead_cli.config.sections import DataConfig
from onehead_cli.data.images import open_image, open_mask
from onehead_cli.data.mask_folders import read_mask_classes
from onehead_cli.errors import CheckpointError, ConfigError, DataError
from onehead_cli.files.checksum import add_checksum
from onehead_cli.files.json_files import read_json


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def malicious(kind, marker):
    """The bytes of a checkpoint that would run code: a bare pickle, and an archive of torch's with a valid checksum."""
    if kind == "pickle":
        return pickle.dumps(Payload(marker), protocol=2)
    archive = io.BytesIO()
    torch.save({"format": 2, "weights": {"w": torch.zeros(2)}, "more": Payload(marker)}, archive)
    if kind == "archive with checksum":
        add_checksum(archive)
    return archive.getvalue()


KINDS = ["pickle", "archive", "archive with checksum"]


@pytest.mark.parametrize("kind", KINDS)
def test_fault_41_a_malicious_pickle_is_refused_and_not_run(kind, tiny_data, small_teachers, tmp_path, capsys):
    """A checkpoint, teacher or backbone file that would run code is refused in one line, and its code does not run."""
    marker, bad = tmp_path / "ran", tmp_path / "bad.pth"
    bad.write_bytes(malicious(kind, marker))
    # The payload works: whoever trusts the file runs it.
    torch.load(bad, weights_only=False) if kind != "pickle" else pickle.loads(bad.read_bytes())
    assert marker.exists()
    marker.unlink()

    folder = tmp_path / "out"
    folder.mkdir()
    for task in ("cls", "seg", "det"):
        shutil.copy(small_teachers / f"{task}_best.pth", folder)
    for name in ("seg_best", "cls_last"):
        shutil.copy(bad, folder / f"{name}.pth")
    data, output = ["--data", str(tiny_data)], ["--output", str(folder)]
    commands = {
        "bad.pth": [
            ["evaluate", "--checkpoint", str(bad), *data, *output],
            ["predict", str(tiny_data), "--checkpoint", str(bad), *output],
            ["profile", "--checkpoint", str(bad)],
            ["train-teacher", "--task", "cls", *data, *output, "--backbone-weights", str(bad)],
        ],
        "seg_best.pth": [["train-unified", *data, *output, *SMALL]],
        "cls_last.pth": [["train-teacher", "--task", "cls", *data, *output, *SMALL, "--resume"]],
    }
    for name, several in commands.items():
        for command in several:
            assert run(command) == 1
            *notes, line = capsys.readouterr().err.splitlines()
            assert all(note.startswith(("scan: ", "ignored in ")) for note in notes)
            assert line.startswith("error: ") and f"{name}: not a readable " in line
    assert not marker.exists()


def test_yaml_makes_no_objects(tmp_path):
    marker = tmp_path / "ran"
    text = f"!!python/object/apply:os.system ['touch {marker}']"
    assert yaml.unsafe_load(text) == 0 and marker.exists()  # it works where it is trusted
    marker.unlink()
    for name in ("config.yaml", "classes.yaml"):
        (tmp_path / name).write_text(f"data: {text}\n" if name == "config.yaml" else f"- {text}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: not valid YAML"):
        load_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_assignments([f"data.root={text}"])
    with pytest.raises(DataError, match=r"classes\.yaml"):
        read_mask_classes(DataConfig(seg_root=tmp_path))
    assert not marker.exists()


def test_json_makes_plain_values_only(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"__class__": "os.system", "py/object": "os.system", "__reduce__": ["touch x"]}))
    assert {type(value) for value in read_json(path).values()} == {str, list}


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "EPS", "PDF", "TGA"])
def test_only_four_image_formats_are_decoded(kind, tmp_path, monkeypatch):
    """Also under a suffix that is accepted; EPS alone would start another program."""
    path = tmp_path / "x.jpg"
    Image.new("RGB", (64, 64)).save(path, format=kind)
    assert path.stat().st_size > 64
    for read in (open_image, open_mask):
        with pytest.raises(DataError, match=r"x\.jpg: not a JPEG, PNG, WEBP, BMP image"):
            read(path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "JPEG"])
def test_the_size_of_images_and_masks_is_capped_before_decoding(kind, tmp_path, monkeypatch):
    from onehead_cli.data import images as images

    path = tmp_path / "large.png"
    Image.new("L", (300, 200)).save(path, format=kind)
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 200 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
    for read in (open_image, open_mask):
        with pytest.raises(DataError, match="300 x 200 pixels are over the limit of 59999"):
            read(path)


@pytest.mark.parametrize(
    "document",
    [
        {"format": 1},
        [1, 2],
        {"format": 2, "name": "cls"},
        {"format": 2, "architecture": {"backbone": os.sep}, "thresholds": 3},
    ],
)
def test_a_whole_file_that_is_no_checkpoint_is_named(document, tmp_path):
    path, archive = tmp_path / "x.pth", io.BytesIO()
    torch.save(document, archive)
    add_checksum(archive)
    path.write_bytes(archive.getvalue())
    with pytest.raises(CheckpointError, match=r"x\.pth: (not a checkpoint of this version|not a complete checkpoint)"):
        load_checkpoint(path)
