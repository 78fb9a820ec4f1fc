"""COCO JSONs as people have them: what is meant is read, what is dropped is counted, what is hardly meant is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.sections import Config, DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.coco import CocoListing, list_coco_images
from onehead_cli.data.folders import unlisted
from onehead_cli.data.listings import Listings
from onehead_cli.data.split import Loading
from onehead_cli.tasks.detection.average_precision import DetectionResult
from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.tasks.detection.split import DetectionSplit, pooled_ground_truth

COCO = "mini_coco_det"
DET = [*SMALL, "--set", "data.tasks=[det]"]


def boxes_at(*boxes, image=1, category=1):
    return [{"image_id": image, "category_id": category, "bbox": list(box)} for box in boxes]


class Own:
    """Two images of 60 x 40 in each of train and val, two classes, and what a command says of them."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        for split in ("train", "val"):
            for number in (1, 2):
                path = self.image(split, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((60, 40), 30 + number + len(split)).convert("RGB").save(path)
        self.write("train", categories=["cat", "dog"], annotations=boxes_at((5, 5, 20, 20), (3, 4, 30, 30)))
        self.write("val", categories=["cat", "dog"], annotations=boxes_at((5, 5, 20, 20), (3, 4, 30, 30)))

    def image(self, split, number):
        return self.root / COCO / split / f"{number}.jpg"

    def json(self, split="train"):
        return self.root / COCO / "annotations" / f"instances_{split}.json"

    def write(self, split="train", *, images=None, annotations, categories=None):
        """categories: names, numbered from 1, or whole entries."""
        path = self.json(split)
        path.parent.mkdir(exist_ok=True)
        named = [
            each if isinstance(each, dict) else {"id": i, "name": each}
            for i, each in enumerate(categories or ["cat", "dog"], 1)
        ]
        if images is None:
            images = [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in (1, 2)]
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": named}))

    def check(self):
        """The exit code and the document of `prepare-data --check`."""
        code = run(["prepare-data", "--check", str(self.root), "--json", "--quiet"])
        return code, json.loads(self.capsys.readouterr().out)

    def labels(self, split="train"):
        """Class name, box and whether it is a region to ignore, as `--preview` and the targets have them."""
        listing = list_coco_images(self.root / COCO / split, self.json(split), self.root)
        return [
            (listing.classes[listing.labels[a["category_id"]]], a["bbox"], a["iscrowd"]) for a in listing.annotations
        ]


@pytest.fixture
def own(tmp_path, capsys):
    return Own(tmp_path / "data", capsys)


IDS = st.lists(st.integers(), min_size=3, max_size=3, unique=True)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=IDS, second=IDS, order=st.permutations(["ant", "bee", "cat"]))
@example(first=[1, 2, 3], second=[0, 1, 2], order=["ant", "bee", "cat"])
@example(first=[2**62, 2**62 + 1, -5], second=[10**30, 10**30 + 1, 7], order=["cat", "ant", "bee"])
def test_fault_84_splits_that_number_the_classes_differently(tmp_path, first, second, order):
    """Splits whose JSONs number the same classes differently, by any integers at all, are joined by the classes' names:
    what finds every box by its name has an average precision of 1 in both together."""
    images = tmp_path / "pictures"
    images.mkdir(exist_ok=True)
    splits, found = [], []
    listings = Listings(Config(data=DataConfig(tasks=["det"], det_images=images, det_annotations=tmp_path)))
    for name, ids, names in (("val", first, ["ant", "bee", "cat"]), ("test", second, order)):
        boxes = [(names[i % 3], [10.0 * i, 5.0 * i, 20.0 + i, 15.0]) for i in range(4)]
        document = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
            "annotations": [{"image_id": 1, "category_id": ids[names.index(n)], "bbox": b} for n, b in boxes],
            "categories": [{"id": number, "name": n} for number, n in zip(ids, names, strict=True)],
        }
        (tmp_path / f"instances_{name}.json").write_text(json.dumps(document))
        listing = listings.get("det", name)
        assert isinstance(listing, CocoListing)
        splits.append(DetectionSplit(listing, DataConfig(), Loading("bilinear", CacheBudget(0))))
        corners = np.array([[x, y, x + w, y + h] for _, (x, y, w, h) in boxes])
        labels = np.array([splits[0].classes.index(n) for n, _ in boxes])
        found.append(Detections(corners, np.ones(len(boxes)), labels))
    result = DetectionResult(pooled_ground_truth(splits), found, range(3), splits[0].classes)
    assert result.scores()["map"] == pytest.approx(1.0)


def test_fault_85_boxes_in_another_form(own):
    """If all boxes of a JSON are fractions of the image, or x1, y1, x2, y2, `--check` fails and names COCO's format; a
    training warns."""
    own.write(annotations=boxes_at((0.1, 0.1, 0.5, 0.5), (0.25, 0.5, 0.25, 0.5)))
    code, document = own.check()
    assert code == 1 and [(p["split"], p["kind"]) for p in document["problems"]] == [("train", "boxes_are_shares")]
    assert "x, y, width and height in pixels" in document["problems"][0]["reason"]

    # As rounding and placeholders make them, one side of 1.0001, one corner at -0.2, one box of nothing.
    own.write(annotations=boxes_at((0.1, 0.1, 0.5, 0.5), (0, 0, 0, 0), (0.25, 0.5, 1.0001, 0.5)))
    assert [p["kind"] for p in own.check()[1]["problems"]] == ["boxes_are_shares"]
    own.write(
        annotations=boxes_at((30, 20, 55, 38), (35, 10, 50, 30), (25, 25, 50, 39), (-0.2, 3, 20, 30), (0, 0, 0, 0))
    )
    code, document = own.check()
    assert code == 1 and [p["kind"] for p in document["problems"]] == ["boxes_are_corners"]

    where = ["--data", str(own.root), "--output", str(own.root / "out"), "--epochs", "1", *DET]
    own.capsys.readouterr()
    assert run(["train-teacher", "--task", "det", *where]) == 0
    assert "warning: " in (said := own.capsys.readouterr().err) and "x, y, width" in said


def test_boxes_that_only_might_be_in_another_form_are_taken(own):
    """One box under a pixel among others, and boxes that fit both as sizes and as corners."""
    own.write(annotations=boxes_at((0.1, 0.1, 0.5, 0.5), (5, 5, 20, 20)))
    assert own.check()[0] == 0
    own.write(annotations=boxes_at((5, 5, 20, 20), (1, 2, 30, 30)))
    assert own.check()[0] == 0
    # One box over the edge, alone or with one that cannot be x1, y1, x2, y2.
    own.write(annotations=boxes_at((5, 5, 59, 30)))
    assert own.check()[0] == 0
    own.write(annotations=boxes_at((30, 20, 55, 38), (40, 20, 10, 10)))
    assert own.check()[0] == 0


@pytest.mark.parametrize("boxes", [[], [{**boxes_at((1, 1, 9, 9))[0], "iscrowd": 1}]])
def test_fault_86_train_split_without_a_box(own, boxes):
    """A train or val split whose JSON has no box at all, or only ignored regions, is a problem for `--check` and a
    warning of a training, also with --quiet; a test split may be without labels."""
    own.write(annotations=boxes)
    code, document = own.check()
    assert code == 1 and [(p["split"], p["kind"]) for p in document["problems"]] == [("train", "no_labels")]
    where = ["--data", str(own.root), "--output", str(own.root / "out"), "--epochs", "1", *DET]
    own.capsys.readouterr()
    assert run(["train-teacher", "--task", "det", *where]) == 0
    assert "warning: " in (said := own.capsys.readouterr().err) and "has no box for any of its images" in said


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"categories": ["cat", "cat"]}, "categories[1] repeats the name cat"),
        (
            {"images": [{"id": i, "file_name": "1.jpg", "width": 60, "height": 40} for i in (1, 2)]},
            "images[1] repeats the file name 1.jpg",
        ),
        (
            {
                "images": [
                    {"id": i, "file_name": n, "width": 60, "height": 40} for i, n in ((1, "1.jpg"), (2, "./1.jpg"))
                ]
            },
            "images[1] repeats the file name 1.jpg",
        ),
    ],
)
def test_fault_87_names_that_a_json_has_twice(own, sections, message):
    """Two categories or two images with the same name are an error that gives the place and the name."""
    own.write(**{"annotations": boxes_at((1, 1, 9, 9)), **sections})
    code, document = own.check()
    assert code == 1 and len(document["problems"]) == 1 and message in document["problems"][0]["reason"]


def test_numbers_written_as_floats_and_a_byte_order_mark(own):
    images = [{"id": float(i), "file_name": f"{i}.jpg", "width": 60.0, "height": 40.0} for i in (1, 2)]
    boxes = boxes_at((5, 5, 20, 20), image=1.0, category=2.0)
    own.write(images=images, annotations=boxes, categories=[{"id": 2.0, "name": "dog"}, {"id": 1.0, "name": "cat"}])
    own.json().write_bytes(b"\xef\xbb\xbf" + own.json().read_bytes())
    assert own.labels() == [("dog", [5, 5, 20, 20], 0)]
    code, document = own.check()
    assert code == 0 and document["pictures"]["det"]["train"] == 2


def test_numbers_for_names_and_a_test_split_without_annotations(own):
    named = [{"id": 1, "name": 5}, {"id": 2, "name": 7}]
    for split in ("train", "val"):
        own.write(split, annotations=boxes_at((5, 5, 20, 20), category=2), categories=named)
    assert own.labels() == [("7", [5, 5, 20, 20], 0)]
    test = own.root / COCO / "test"
    test.mkdir()
    Image.effect_noise((60, 40), 90).save(test / "1.jpg")
    document = {"images": [{"id": 1, "file_name": "1.jpg"}], "categories": named}
    own.json("test").write_text(json.dumps(document))
    code, document = own.check()
    assert code == 0 and document["pictures"]["det"] == {"train": 2, "val": 2, "test": 1}


def test_what_a_json_does_not_list_is_counted(own):
    """By kind; where all splits share a folder, images may be those of another."""
    folder = own.image("train", 1).parent
    for name in ("unlisted.jpg", "a.tif", ".hidden"):
        (folder / name).write_bytes(b"x")
    (folder / "sub").mkdir()
    assert own.check()[1]["passed_over"]["det"]["train"] == {
        ".tif": 1,
        "image that the JSON does not list": 1,
        "sub-folder": 1,
    }
    config = own.root / "own.yaml"
    where = "det_images: mini_coco_det/train, det_annotations: 'mini_coco_det/annotations/instances_{split}.json'"
    config.write_text(f"data: {{tasks: [det], val_split: train, {where}}}\noutput: out\n")
    run(["prepare-data", "--check", str(config), "--json", "--quiet"])
    shared = json.loads(own.capsys.readouterr().out)["passed_over"]["det"]["train"]
    assert shared == {".tif": 1, "sub-folder": 1}


def test_it_is_said_where_most_of_a_folder_is_not_listed(own):
    folder = own.image("train", 1).parent
    for number in range(3):
        (folder / f"other{number}.jpg").write_bytes(b"x")
    code, document = own.check()
    said = f"{folder}: 2 files used, 3 images that the JSON does not list ignored"
    assert code == 0 and document["warnings"] == [said]


def test_a_folder_above_an_image_is_used(own):
    deep = own.image("train", 1).parent / "2020" / "01"
    deep.mkdir(parents=True)
    own.image("train", 1).rename(deep / "1.jpg")
    beside = own.image("train", 2).parent / "labels" / "found.json"
    beside.parent.mkdir()
    assert unlisted(beside.parents[1], [deep / "1.jpg", own.image("train", 2)], beside, is_shared=False).counts == {}
    beside.parent.rmdir()
    images = [{"id": 1, "file_name": "2020/01/1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    own.write(images=images, annotations=boxes_at((1, 1, 9, 9)))
    code, document = own.check()
    assert code == 0 and not document["passed_over"]["det"]["train"] and document["warnings"] == []


def test_a_number_that_is_not_whole_is_no_id(own):
    own.write(annotations=boxes_at((5, 5, 20, 20), image=1.5))
    code, document = own.check()
    assert code == 1 and "annotations[0] needs 'image_id'" in document["problems"][0]["reason"]


@pytest.mark.parametrize("missing", [{}, {"width": None, "height": None}])
def test_sizes_that_a_json_lacks_are_read_from_the_images(own, missing):
    """Turned upright as EXIF says, as the boxes are; the box over the edge is clipped to what was read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(own.image("train", 1)) as image:
        image.load()
    image.save(own.image("train", 1), exif=exif)  # 40 x 60 when it is looked at
    images = [{"id": i, "file_name": f"{i}.jpg", **missing} for i in (1, 2)]
    over = boxes_at((30, 50, 30, 30)) + boxes_at((30, 30, 40, 30), image=2)
    own.write(images=images, annotations=over + boxes_at((1, 1, 9, 9)))
    assert own.labels() == [
        ("cat", [30, 50, 10, 10], 0),
        ("cat", [30, 30, 30, 10], 0),
        ("cat", [1, 1, 9, 9], 0),
    ]
    code, document = own.check()
    assert code == 0 and "2 boxes clipped to the image" in document["warnings"][0]
    for size in (0, -4, 2.5, "60"):
        own.write(images=[{**images[0], "width": size}, images[1]], annotations=[])
        assert "images[0].width must be a whole number" in own.check()[1]["problems"][0]["reason"]


def test_a_missing_image_of_unknown_size_is_named_and_can_be_left_out(own):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2)]
    own.write(images=images, annotations=boxes_at((1, 1, 9, 9)) + boxes_at((1, 1, 9, 9), image=2))
    own.image("train", 2).unlink()
    code, document = own.check()
    assert code == 1 and [p["kind"] for p in document["problems"]] == ["missing"]
    assert run(["prepare-data", "--check", str(own.root), "--quiet", "--skip-bad"]) == 0


def test_annotations_of_images_that_are_not_listed_are_dropped_and_counted(own):
    own.write(annotations=boxes_at((1, 1, 9, 9)) + boxes_at((1, 1, 9, 9), (2, 2, 9, 9), image=77))
    code, document = own.check()
    assert code == 0 and document["warnings"] == [f"{own.json()}: 2 boxes dropped: image not listed"]
    assert own.labels() == [("cat", [1, 1, 9, 9], 0)]


def test_ignore_is_a_region_to_ignore(own):
    own.write(annotations=[*boxes_at((1, 1, 9, 9)), {**boxes_at((2, 2, 9, 9))[0], "ignore": 1}])
    assert own.labels() == [("cat", [1, 1, 9, 9], 0), ("cat", [2, 2, 9, 9], 1)]
    own.write(annotations=[{**boxes_at((2, 2, 9, 9))[0], "ignore": "yes"}])
    assert "annotations[0].ignore must be 0 or 1" in own.check()[1]["problems"][0]["reason"]


def test_the_root_category_of_an_export_is_no_class(own):
    """Roboflow writes a category above all others, which has no box; the same in a split without boxes of one class."""
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    for split in ("train", "val"):
        own.write(split, annotations=boxes_at((1, 1, 9, 9)), categories=categories)
    code, document = own.check()
    assert code == 0 and any(
        "pets is the parent of all others and has no box" in warning for warning in document["warnings"]
    )
    where = ["--data", str(own.root), "--output", str(own.root / "out"), "--epochs", "1", *DET]
    assert run(["train-teacher", "--task", "det", *where]) == 0
    assert load_checkpoint(own.root / "out" / "det_best.pth").architecture.classes["det"] == ["cat", "dog"]
    # With a box of its own it is a class.
    own.write(annotations=boxes_at((1, 1, 9, 9), category=0), categories=categories)
    assert own.labels() == [("pets", [1, 1, 9, 9], 0)]


def test_links_within_the_root_are_followed(own):
    """Images that are kept once and linked from the splits, in a folder beside them."""
    store = own.root / "store"
    store.mkdir()
    own.write(annotations=boxes_at((5, 5, 20, 20)) + boxes_at((5, 5, 20, 20), image=2))
    path = own.image("train", 1)
    path.rename(store / "one.jpg")
    path.symlink_to(Path("..") / ".." / "store" / "one.jpg")
    assert own.check()[0] == 0
    outside = own.root.parent / "outside.jpg"
    shutil.copy(store / "one.jpg", outside)
    path.unlink()
    path.symlink_to(outside)
    code, document = own.check()
    assert code == 1 and [p["kind"] for p in document["problems"]] == ["outside_folder"]
