"""The three loaders and the order of the mini-batches, on files made on the spot."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from onehead_cli.config import DataConfig
from onehead_cli.datasets.loaders import TrainLoader
from onehead_cli.datasets.pictures import CacheBudget, open_picture
from onehead_cli.datasets.sources import check_classes, class_names, load_split
from onehead_cli.errors import DataError
from onehead_cli.types import TASKS, Task


def load(task, root, split="train", cache_mb=100, **fields):
    data = DataConfig(root=root, image_size=64, **fields)
    return load_split(task, split, data, interpolation="bicubic", budget=CacheBudget(cache_mb))


def write_coco(root, annotations, *, images=None, categories=None, size=(64, 32)):
    folder = root / "mini_coco_det"
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    Image.new("RGB", size, (90, 20, 200)).save(folder / "train" / "a.jpg")
    document = {
        "images": images or [{"id": 7, "file_name": "a.jpg", "width": size[0], "height": size[1]}],
        "annotations": annotations,
        "categories": categories or [{"id": 3, "name": "cat"}, {"id": 1, "name": "ant"}],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return root


def box(number, bbox, category=1, **more):
    return {"id": number, "image_id": 7, "category_id": category, "bbox": bbox, **more}


def test_detection_targets_in_the_input(tmp_path):
    root = write_coco(tmp_path, [box(1, [8, 4, 16, 8], 3), box(2, [0, 0, 64, 32], iscrowd=1)])
    data = load(Task.DET, root)
    assert data.classes == ["ant", "cat"] and data.category_ids == [1, 3]
    target = data.batch([0]).target
    # 64 x 32 stretched to 64 x 64: y doubles.
    assert target.boxes[0].tolist() == [[8, 8, 24, 24], [0, 0, 64, 64]]
    assert target.labels[0].tolist() == [1, 0] and target.crowd[0].tolist() == [False, True]
    letterboxed = load(Task.DET, root, fit="letterbox").batch([0]).target
    assert letterboxed.boxes[0, 0].tolist() == [8, 20, 24, 28]


@pytest.mark.parametrize(
    ("number", "bbox", "category", "what"),
    [
        (11, [5, 5, 0, 4], 1, "without an area dropped"),
        (11, [5, 5, 4, -1], 1, "without an area dropped"),
        (12, [5, float("nan"), 4, 4], 1, "NaN or infinity dropped"),
        (12, [5, float("inf"), 4, 4], 1, "NaN or infinity dropped"),
        (13, [-10, 5, 20, 4], 1, "clipped"),
        (14, [70, 5, 4, 4], 1, "outside their picture dropped"),
        (16, [5, 5, 4, 4], 99, "not listed dropped"),
    ],
)
def test_faults_11_to_16_boxes_are_dropped_or_clipped_and_counted(tmp_path, number, bbox, category, what):
    data = load(Task.DET, write_coco(tmp_path, [box(1, [1, 1, 8, 8]), box(2, bbox, category)]))
    assert len(data.warnings) == 1 and what in data.warnings[0] and "1 boxes" in data.warnings[0]
    boxes = [a["bbox"] for a in data.ground_truth["annotations"]]
    assert boxes == ([[1, 1, 8, 8], [0, 5, 10, 4]] if number == 13 else [[1, 1, 8, 8]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [box(1, [1, 2, 3])]}, r"annotations\[0\].bbox"),
        ({"annotations": [box(1, ["1", 2, 3, 4])]}, r"annotations\[0\].bbox"),
        ({"annotations": [box(1, [1, 2, 3, 4]), box(1, [1, 2, 3, 4])]}, "repeats the id 1"),
        ({"annotations": [{"id": 1}]}, "needs 'image_id'"),
        ({"annotations": [], "images": [{"id": 1, "file_name": "../x.jpg", "width": 4, "height": 4}]}, "leaves"),
        ({"annotations": [], "images": [{"id": 1, "file_name": "/x.jpg", "width": 4, "height": 4}]}, "leaves"),
        (
            {"annotations": [], "images": [{"id": 1, "file_name": "a\0.jpg", "width": 4, "height": 4}]},
            "control character",
        ),
        ({"annotations": [box(1, [1, 2, 10**400, 4])]}, r"annotations\[0\].bbox"),
    ],
)
def test_malformed_json_is_one_error(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load(Task.DET, write_coco(tmp_path, **change))


def test_fault_21_truncated_and_deeply_nested_json(tmp_path):
    path = write_coco(tmp_path, []) / "mini_coco_det" / "annotations" / "instances_train.json"
    for text in (path.read_text()[:-20], "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match="not readable as JSON"):
            load(Task.DET, tmp_path)


def test_fault_19_picture_without_a_box_is_a_negative(tmp_path):
    target = load(Task.DET, write_coco(tmp_path, [])).batch([0]).target
    assert target.labels.tolist() == [[-1]]


def test_masks_are_nearest_and_void_stays(tmp_path):
    split = tmp_path / "mini_voc_seg" / "train"
    (split / "JPEGImages").mkdir(parents=True)
    (split / "SegmentationClass").mkdir()
    Image.new("RGB", (32, 64)).save(split / "JPEGImages" / "x.jpg")
    mask = np.zeros((64, 32), np.uint8)
    mask[:, 16:], mask[:8] = 20, 255
    Image.fromarray(mask).save(split / "SegmentationClass" / "x.png")
    data = load(Task.SEG, tmp_path)
    assert len(data.classes) == 21
    expected = np.repeat(mask, 2, axis=1)
    assert (data.batch([0]).target[0].numpy() == expected).all()
    letterboxed = load(Task.SEG, tmp_path, fit="letterbox").batch([0]).target[0].numpy()
    assert (letterboxed[:, 16:48] == mask).all() and (letterboxed[:, :16] == 255).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.fromarray(np.full((64, 32), 21, np.uint8)), "label 21, but there are 21 classes"),
        (Image.new("L", (10, 10)), "10 x 10 pixels, but its picture has 32 x 64"),
        (Image.new("RGB", (32, 64)), "must be a palette or 8-bit grey"),
        (None, "mask missing"),
    ],
)
def test_faults_23_24_25_27_bad_masks(tmp_path, mask, message):
    split = tmp_path / "mini_voc_seg" / "train"
    (split / "JPEGImages").mkdir(parents=True)
    (split / "SegmentationClass").mkdir()
    Image.new("RGB", (32, 64)).save(split / "JPEGImages" / "x.jpg")
    if mask:
        mask.save(split / "SegmentationClass" / "x.png")
    with pytest.raises(DataError, match=message):
        load(Task.SEG, tmp_path).batch([0])


def test_class_names_of_masks_from_a_file(tmp_path, tiny_data):
    names = class_names(DataConfig(root=tiny_data), "train")
    assert names[Task.SEG][0] == "background" and len(names[Task.SEG]) < 21
    assert len(names[Task.CLS]) == len(names[Task.DET]) == 10


def test_fault_29_empty_class_folder(tmp_path):
    (tmp_path / "imagenette-160" / "train" / "n01").mkdir(parents=True)
    with pytest.raises(DataError, match="n01: class folder without a picture"):
        load(Task.CLS, tmp_path)


def test_fault_30_class_names_that_differ_are_shown_side_by_side(tiny_data):
    data = load(Task.CLS, tiny_data)
    with pytest.raises(DataError, match=r"it has .*; expected one, two"):
        check_classes(data, {Task.CLS: ["one", "two"]}, "split val")


def test_fault_05_modes_and_fault_06_exif_rotation(tmp_path):
    modes = {"L": 60, "CMYK": (0, 50, 100, 20), "RGBA": (9, 8, 7, 6), "P": 3, "RGB": (1, 2, 3)}
    for mode, colour in modes.items():
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4), colour).save(path)
        assert open_picture(path).mode == "RGB"
    deep = Image.fromarray(np.full((4, 5), 65535, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert np.asarray(open_picture(tmp_path / "deep.png")).min() == 255

    turned = Image.new("RGB", (40, 20), "red")
    turned.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left half comes to the top
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    shown = open_picture(tmp_path / "turned.jpg")
    assert shown.size == (20, 40)
    assert shown.getpixel((10, 5))[2] > 200 and shown.getpixel((10, 35))[0] > 200


def test_fault_06_a_turned_picture_whose_boxes_were_not_is_an_error(tmp_path):
    root = write_coco(tmp_path, [box(1, [1, 1, 8, 8])])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(root / "mini_coco_det" / "train" / "a.jpg", exif=exif)
    with pytest.raises(DataError, match=r"a\.jpg: 32 x 64 pixels .* annotations are for 64 x 32"):
        load(Task.DET, root).batch([0])


def test_fault_10_size_that_differs_from_the_json_is_an_error(tmp_path):
    images = [{"id": 7, "file_name": "a.jpg", "width": 7, "height": 5}]
    with pytest.raises(DataError, match="annotations are for 7 x 5"):
        load(Task.DET, write_coco(tmp_path, [], images=images)).batch([0])


def test_broken_metadata_does_not_cost_the_picture(tmp_path):
    Image.new("RGB", (6, 4), (10, 200, 30)).save(tmp_path / "x.png", exif=b"Exif\0\0XX")
    assert open_picture(tmp_path / "x.png").size == (6, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    picture.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as saved:
        expected = np.asarray(ImageOps.exif_transpose(saved))
    assert (np.asarray(open_picture(tmp_path / "x.png")) == expected).all()


def test_a_deep_grey_picture_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((4, 9), 300, np.uint16)).save(tmp_path / "x.png", exif=exif)
    assert open_picture(tmp_path / "x.png").size == (4, 9)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    folder = tmp_path / "imagenette-160" / "train"
    (folder / "cat").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    for name in ("a.jpg", "._a.jpg"):
        Image.new("RGB", (8, 8)).save(folder / "cat" / name, "JPEG")
    data = load(Task.CLS, tmp_path)
    assert data.classes == ["cat"] and [p.name for p in data.paths] == ["a.jpg"]


def test_area_that_is_no_number_is_worked_out(tmp_path):
    data = load(Task.DET, write_coco(tmp_path, [box(1, [1, 1, 8, 4], area=None)]))
    assert data.ground_truth["annotations"][0]["area"] == 32


@pytest.mark.parametrize("names", ["0: background\nb: x\n", "a\n", "[a, 3]", "[a, a]", "{0: a, 2: b}"])
def test_a_classes_file_that_is_no_list_of_names(tmp_path, names):
    from onehead_cli.datasets.segmentation import read_classes

    (tmp_path / "classes.yaml").write_text(names)
    with pytest.raises(DataError, match=r"classes\.yaml"):
        read_classes(tmp_path)


def test_past_the_cap_a_picture_is_decoded_once_a_batch(tiny_data, monkeypatch):
    from onehead_cli.datasets import pictures

    real, opened = pictures.open_picture, []
    monkeypatch.setattr(pictures, "open_picture", lambda path: opened.append(path) or real(path))
    load(Task.DET, tiny_data, cache_mb=0).batch([0, 1, 2])
    assert len(opened) == 3


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_faults_01_02_03_unreadable_pictures_are_named(tmp_path, content):
    path = tmp_path / "x.jpg"
    Image.effect_noise((80, 80), 50).save(path)
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(DataError, match=r"x\.jpg"):
        open_picture(path)


def test_fault_04_pixel_bomb_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(DataError, match="over the limit"):
        open_picture(path)


def test_fault_07_tiny_and_thin_pictures(tmp_path):
    for size in [(1, 1), (1, 5000), (5000, 1)]:
        root = write_coco(tmp_path / f"{size[0]}x{size[1]}", [], size=size)
        for fit in ("resize", "letterbox"):
            assert load(Task.DET, root, fit=fit).batch([0]).images.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_pictures_are_the_same_from_memory_and_from_disk(tiny_data, cache_mb):
    kept, read = load(Task.SEG, tiny_data), load(Task.SEG, tiny_data, cache_mb=cache_mb)
    for _ in range(2):
        a, b = kept.batch([3, 1]), read.batch([3, 1])
        assert torch.equal(a.images, b.images) and torch.equal(a.target, b.target)
    assert (len(read._store._kept) > 0) == (cache_mb > 0)


def test_the_cache_keeps_its_cap(tiny_data):
    budget = CacheBudget(0)
    budget.left = 64 * 64 * 3 * 2 + 10
    data = load_split(
        Task.CLS, "train", DataConfig(root=tiny_data, image_size=64), interpolation="bicubic", budget=budget
    )
    data.batch(range(6))
    assert len(data._store._kept) == 2 and budget.left == 10


def make_loader(root, seed=0, batch_size=5):
    data = DataConfig(root=root, image_size=64)
    splits = {t: load(t, root) for t in TASKS}
    return TrainLoader(
        splits, batch_size=batch_size, seed=seed, data=data, device=torch.device("cpu"), fill=torch.zeros(1, 3, 1, 1)
    )


def test_each_pass_shows_every_picture_once_in_another_order(tiny_data):
    loader = make_loader(tiny_data)
    names = [name for i in range(12) for name in loader.minibatch(i)[Task.DET].names]
    passes = [names[i : i + 12] for i in range(0, 60, 12)]
    assert all(len(set(p)) == 12 for p in passes) and passes[0] != passes[1]
    assert loader.batches_per_epoch() == 3


def test_a_minibatch_depends_on_seed_and_position_alone(tiny_data):
    one, two, other = make_loader(tiny_data), make_loader(tiny_data), make_loader(tiny_data, seed=1)
    one.minibatch(0)
    for task in TASKS:
        a, b, c = (loader.minibatch(4)[task] for loader in (one, two, other))
        assert torch.equal(a.images, b.images) and a.names == b.names
        assert not torch.equal(a.images, c.images)


def test_a_batch_larger_than_the_dataset_is_filled_from_the_next_round(tiny_data):
    batch = make_loader(tiny_data, batch_size=30).minibatch(0)
    assert len(batch[Task.CLS].names) == 30
