"""The three loaders and the order of the mini-batches, on files made on the spot."""

import json

import numpy as np
import pytest
import torch
from loading import load_split, same
from PIL import Image, ImageOps

from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.images import open_image
from onehead_cli.data.listings import Listings
from onehead_cli.data.loader import TrainLoader
from onehead_cli.data.mask_folders import MASK_FOLDERS, read_mask_classes
from onehead_cli.errors import DataError
from onehead_cli.registry import TASKS


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
    data = load("det", root)
    assert data.classes == ["ant", "cat"] and data.listing.labels == {1: 0, 3: 1}
    target = data.batch([0]).target
    # 64 x 32 stretched to 64 x 64: y doubles.
    assert target.boxes[0].tolist() == [[8, 8, 24, 24], [0, 0, 64, 64]]
    assert target.labels[0].tolist() == [1, 0] and target.crowd[0].tolist() == [False, True]
    letterboxed = load("det", root, fit="letterbox").batch([0]).target
    assert letterboxed.boxes[0, 0].tolist() == [8, 20, 24, 28]


def test_masks_are_nearest_and_void_stays(tmp_path):
    split = tmp_path / "mini_voc_seg" / "train"
    (split / "JPEGImages").mkdir(parents=True)
    (split / "SegmentationClass").mkdir()
    Image.new("RGB", (32, 64)).save(split / "JPEGImages" / "x.jpg")
    mask = np.zeros((64, 32), np.uint8)
    mask[:, 16:], mask[:8] = 20, 255
    Image.fromarray(mask).save(split / "SegmentationClass" / "x.png")
    data = load("seg", tmp_path)
    assert len(data.classes) == 21
    expected = np.repeat(mask, 2, axis=1)
    assert (data.batch([0]).target.masks[0].numpy() == expected).all()
    letterboxed = load("seg", tmp_path, fit="letterbox").batch([0]).target.masks[0].numpy()
    assert (letterboxed[:, 16:48] == mask).all() and (letterboxed[:, :16] == 255).all()


def test_class_names_of_masks_from_a_file(tmp_path, tiny_data):
    listings = Listings(Config(data=DataConfig(root=tiny_data)))
    names = {task: listings.classes(task, "train") for task in TASKS}
    assert names["seg"][0] == "background" and len(names["seg"]) < 21
    assert len(names["cls"]) == len(names["det"]) == 10


def test_broken_metadata_does_not_cost_the_image(tmp_path):
    Image.new("RGB", (6, 4), (10, 200, 30)).save(tmp_path / "x.png", exif=b"Exif\0\0XX")
    assert open_image(tmp_path / "x.png").size == (6, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    image.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as saved:
        expected = np.asarray(ImageOps.exif_transpose(saved))
    assert (np.asarray(open_image(tmp_path / "x.png")) == expected).all()


def test_a_deep_grey_image_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((4, 9), 300, np.uint16)).save(tmp_path / "x.png", exif=exif)
    assert open_image(tmp_path / "x.png").size == (4, 9)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    folder = tmp_path / "imagenette-160" / "train"
    (folder / "cat").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    for name in ("a.jpg", "._a.jpg"):
        Image.new("RGB", (8, 8)).save(folder / "cat" / name, "JPEG")
    data = load("cls", tmp_path)
    assert data.classes == ["cat"] and [p.name for p in data.paths] == ["a.jpg"]


def test_area_that_is_no_number_is_worked_out(tmp_path):
    data = load("det", write_coco(tmp_path, [box(1, [1, 1, 8, 4], area=None)]))
    assert data.listing.annotations[0]["area"] == 32


@pytest.mark.parametrize("names", ["0: background\nb: x\n", "a\n", "[a, [b]]", "[a, a]", "{0: a, 2: b}"])
def test_a_classes_file_that_is_no_list_of_names(tmp_path, names):
    (tmp_path / "classes.yaml").write_text(names)
    with pytest.raises(DataError, match=r"classes\.yaml"):
        read_mask_classes(DataConfig(seg_root=tmp_path))


def test_each_split_may_have_a_root_of_its_own(tmp_path):
    data = DataConfig(seg_root=tmp_path / "{split}" / "voc")
    for split in ("train", "val"):
        for folder in ("JPEGImages", "SegmentationClass"):
            (tmp_path / split / "voc" / folder).mkdir(parents=True)
            Image.new("L", (8, 8), 1).save(tmp_path / split / "voc" / folder / f"{split}.png")
    (tmp_path / "train" / "voc" / "classes.yaml").write_text("[ground, sky]")
    listing = MASK_FOLDERS.list(Config(data=data), "val")
    assert listing.classes == ["ground", "sky"]
    assert listing.images == [tmp_path / "val" / "voc" / "JPEGImages" / "val.png"]


def test_a_classes_file_that_was_named_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"names\.yaml: no such file .*data\.seg_classes"):
        read_mask_classes(DataConfig(seg_classes=tmp_path / "names.yaml"))


@pytest.mark.parametrize("fault", ["mask", "size", "file_name"])
def test_what_changed_since_the_scan_is_noticed_when_it_is_read(tmp_path, fault):
    """The loaders trust no scan: a mask, a size and a file_name are looked at again."""
    if fault == "mask":
        split = tmp_path / "mini_voc_seg" / "train"
        (split / "JPEGImages").mkdir(parents=True)
        (split / "SegmentationClass").mkdir()
        Image.new("RGB", (32, 64)).save(split / "JPEGImages" / "x.jpg")
        Image.fromarray(np.full((64, 32), 21, np.uint8)).save(split / "SegmentationClass" / "x.png")
        task, message = "seg", "label 21, but there are 21 classes"
    else:
        name = "../x.jpg" if fault == "file_name" else "a.jpg"
        write_coco(tmp_path, [], images=[{"id": 7, "file_name": name, "width": 7, "height": 5}])
        task, message = (
            "det",
            "points outside the image folder" if fault == "file_name" else "annotations are for 7 x 5",
        )
    with pytest.raises(DataError, match=message):
        load(task, tmp_path).batch([0])


def test_past_the_cap_a_image_is_decoded_once_a_batch(tiny_data, monkeypatch):
    from onehead_cli.data import cache as image_store

    real, opened = image_store.open_image, []
    monkeypatch.setattr(image_store, "open_image", lambda path: opened.append(path) or real(path))
    load("det", tiny_data, cache_mb=0).batch([0, 1, 2])
    assert len(opened) == 3


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_images_are_the_same_from_memory_and_from_disk(tiny_data, cache_mb):
    kept, read = load("seg", tiny_data), load("seg", tiny_data, cache_mb=cache_mb)
    for _ in range(2):
        a, b = kept.batch([3, 1]), read.batch([3, 1])
        assert torch.equal(a.images, b.images) and same(a.target, b.target)
    assert (len(read._store._fitted) > 0) == (cache_mb > 0)


def test_the_cache_keeps_its_cap(tiny_data):
    budget = CacheBudget(0)
    budget.left = 64 * 64 * 3 * 2 + 10
    data = load_split("cls", "train", DataConfig(root=tiny_data, image_size=64), interpolation="bicubic", budget=budget)
    data.batch(range(6))
    assert len(data._store._fitted) == 2 and budget.left == 10


def test_images_and_masks_are_kept_on_the_device_that_is_named(tiny_data):
    # "meta" stands for a GPU: what is on it is not on the CPU.
    device, budget, data = torch.device("meta"), CacheBudget(1), DataConfig(root=tiny_data, image_size=64)
    read = load_split("seg", "train", data, interpolation="bicubic", budget=budget, device=device)
    batch = read.batch([0, 1, 0])
    assert batch.images.device == batch.target.masks.device == device
    assert (batch.images.shape, batch.images.dtype) == ((3, 3, 64, 64), torch.uint8)
    assert {kept.device for kept in [*read._store._fitted.values(), *read._masks.values()]} == {device}
    assert budget.left == 1_000_000 - 2 * 64 * 64 * (3 + 1)


def make_loader(root, seed=0, batch_size=5):
    data = DataConfig(root=root, image_size=64)
    splits = {t: load(t, root) for t in TASKS}
    return TrainLoader(
        splits, batch_size=batch_size, seed=seed, data=data, device=torch.device("cpu"), fill=torch.zeros(1, 3, 1, 1)
    )


def test_each_pass_shows_every_image_once_in_another_order(tiny_data):
    loader = make_loader(tiny_data)
    names = [name for i in range(12) for name in loader.minibatch(i)["det"].names]
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
    assert len(batch["cls"].names) == 30


def test_a_mini_batch_of_the_defaults_is_that_of_version_0_1_0(tiny_data):
    """Sums over each image, written down before images could be kept larger; another processor rounds a little."""
    batch = make_loader(tiny_data).minibatch(4)
    sums = {
        "cls": [4392.903215, 3484.360356, 2658.993282, 3663.271899, 1096.083272],
        "seg": [3832.391051, 2354.309408, 1207.950176, 2790.831896, 6801.280613],
        "det": [2181.517863, 3496.453248, 3504.199054, 3648.559216, 6298.293369],
    }
    for task, expected in sums.items():
        assert batch[task].images.double().sum((1, 2, 3)).tolist() == pytest.approx(expected, rel=1e-5)
    masks = [78495, 619700, 660783, 560208, 74178]
    assert batch["seg"].target.masks.sum((1, 2)).tolist() == pytest.approx(masks, abs=2 * 255)
    boxes = [640.910280, 365.825182, 350.894209, 733.668526, 611.173109]
    assert batch["det"].target.boxes.double().sum((1, 2)).tolist() == pytest.approx(boxes, rel=1e-5)
