"""Images as cameras and programs save them: each kind gives the pixels that one sees, and its labels lie on them."""

import json
import shutil

import numpy as np
import pytest
import torch
from loading import load_split
from PIL import Image, ImageOps
from runs import differences, lines, read, timeless
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.images import image_size, open_image

COCO, SEG = "mini_coco_det", "mini_voc_seg"
#: What a camera does to the upright image, so that EXIF's orientation undoes it.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
SAVED = {"png": {}, "webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}


@pytest.fixture
def upright():
    """Blocks of colours, no two alike, uint8 [48, 64, 3]: flat, so that a JPEG keeps them too."""
    colours = np.random.default_rng(6).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return colours.repeat(8, axis=0).repeat(8, axis=1)


def save_turned(upright, orientation, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = np.ascontiguousarray(STORED[orientation](upright))
    Image.fromarray(turned).save(path, exif=exif, **SAVED[path.suffix[1:]])


@pytest.mark.parametrize("kind", SAVED)
def test_every_orientation_gives_the_pixels_boxes_and_masks_of_the_upright_copy(upright, tmp_path, kind):
    """The reader of boxes and the reader of masks, against an image that was never turned."""
    names = [f"{orientation}.{kind}" for orientation in STORED]
    labels = np.arange(48 * 64).reshape(48, 64) // 1000
    for orientation, name in zip(STORED, names, strict=True):
        for folder in (tmp_path / COCO / "train", tmp_path / SEG / "train" / "JPEGImages"):
            save_turned(upright, orientation, folder / name)
        shown = np.asarray(open_image(tmp_path / COCO / "train" / name)).astype(int)
        assert shown.shape == upright.shape and image_size(tmp_path / COCO / "train" / name) == (64, 48)
        assert abs(shown - upright).max() <= (3 if kind == "jpg" else 0)
        with Image.open(tmp_path / COCO / "train" / name) as image:
            assert (np.asarray(ImageOps.exif_transpose(image).convert("RGB")) == shown).all()
        mask = tmp_path / SEG / "train" / "SegmentationClass" / f"{orientation}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(labels.astype(np.uint8)).save(mask)
    document = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [8, 16, 24, 8]} for i in range(8)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / COCO / "annotations").mkdir()
    (tmp_path / COCO / "annotations" / "instances_train.json").write_text(json.dumps(document))
    data = DataConfig(root=tmp_path, image_size=64, fit="letterbox")
    boxes = load_split("det", "train", data, budget=CacheBudget(9)).batch(range(8))
    masks = load_split("seg", "train", data, budget=CacheBudget(9)).batch(range(8))
    assert torch.equal(boxes.target.boxes, boxes.target.boxes[:1].expand_as(boxes.target.boxes))
    assert torch.equal(masks.target.masks, masks.target.masks[:1].expand_as(masks.target.masks))
    for batch in (boxes, masks):
        spread = (batch.images.int() - batch.images[:1].int()).abs().max()
        assert spread <= (5 if kind == "jpg" else 0)


def test_several_images_in_a_file_give_the_first(upright, tmp_path):
    """MPO is what phones with two lenses save, APNG an animation."""
    first, second = Image.fromarray(upright), Image.fromarray(255 - upright)
    first.save(tmp_path / "alone.jpg", quality=95)
    first.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    first.save(tmp_path / "moving.png", save_all=True, append_images=[second], duration=100)
    with Image.open(tmp_path / "two.jpg") as mpo, Image.open(tmp_path / "moving.png") as apng:
        assert mpo.format == "MPO" and apng.n_frames == 2
    assert (np.asarray(open_image(tmp_path / "two.jpg")) == np.asarray(open_image(tmp_path / "alone.jpg"))).all()
    assert (np.asarray(open_image(tmp_path / "moving.png")) == upright).all()


def test_cmyk_is_read_as_its_colours(tmp_path):
    """By hand: no black, no cyan, all magenta and yellow is red."""
    for name, ink, seen in (("red", (0, 255, 255, 0), (255, 0, 0)), ("grey", (0, 0, 0, 127), (128, 128, 128))):
        Image.new("CMYK", (16, 16), ink).save(tmp_path / f"{name}.jpg", quality=100)
        assert abs(np.asarray(open_image(tmp_path / f"{name}.jpg")).astype(int) - seen).max() <= 2


def test_alpha_is_left_out_and_one_bit_is_black_or_white(upright, tmp_path):
    grey = upright[..., 0]
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)]).save(tmp_path / "la.png")
    assert (np.asarray(open_image(tmp_path / "la.png")) == grey[..., None]).all()
    Image.fromarray(np.dstack([upright, grey])).save(tmp_path / "rgba.png")
    assert (np.asarray(open_image(tmp_path / "rgba.png")) == upright).all()
    Image.fromarray(grey > 99).save(tmp_path / "bit.png")
    assert (np.asarray(open_image(tmp_path / "bit.png")) == 255 * (grey > 99)[..., None]).all()


@pytest.mark.parametrize("kind", SAVED)
def test_a_broken_colour_profile_changes_nothing(upright, tmp_path, kind):
    for name, options in (("with", {"icc_profile": b"no profile at all"}), ("without", {})):
        Image.fromarray(upright).save(tmp_path / f"{name}.{kind}", **SAVED[kind], **options)
    assert (np.asarray(open_image(tmp_path / f"with.{kind}")) == open_image(tmp_path / f"without.{kind}")).all()


def test_a_training_goes_on_after_its_data_and_output_were_moved(
    stopped, undisturbed, teacher_command, tiny_data, tmp_path
):
    """Into folders with spaces and an emoji in their names; it ends as one that was never stopped."""
    data, output = tmp_path / "my data 😀", tmp_path / "the output"
    shutil.copytree(tiny_data, data)
    shutil.copytree(stopped, output)
    command = [*teacher_command, "--output", str(output), "--resume"]
    command[command.index("--data") + 1] = str(data)
    assert run(command) == 0
    for name in ("cls_best.pth", "cls_last.pth"):
        assert differences(read(undisturbed / name)["weights"], read(output / name)["weights"]) == []
    assert timeless(lines(output / "cls.jsonl")) == timeless(lines(undisturbed / "cls.jsonl"))


def test_a_config_of_windows_in_folders_with_spaces(tiny_data, tmp_path, capsys):
    """A byte order mark, Windows' line ends, spaces and an emoji in paths: the check and a training."""
    place = tmp_path / "my own 😀 data"
    shutil.copytree(tiny_data / "imagenette-160", place / "class folders")
    for folder in sorted((place / "class folders").glob("*/*")):
        folder.rename(folder.with_name(f"{folder.name} né ☃"))
    text = "output: the output\ndata:\n  tasks: [cls]\n  cls_root: class folders\n"
    (place / "own config.yaml").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert run(["prepare-data", "--check", str(place / "own config.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"]["cls"]["train"] == 12
    where = ["--config", str(place / "own config.yaml"), "--epochs", "1", *SMALL]
    assert run(["train-teacher", "--task", "cls", *where]) == 0
    assert (place / "the output" / "cls_best.pth").is_file()
