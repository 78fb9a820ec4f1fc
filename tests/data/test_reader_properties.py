"""Whatever a file holds, a reader takes it or says in one line, which names the file, why not."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onehead_cli.config.load import load_config
from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.coco import list_coco_images
from onehead_cli.data.coco_json import read_coco
from onehead_cli.data.mask_folders import read_mask_classes
from onehead_cli.data.split import Loading
from onehead_cli.errors import ConfigError, DataError
from onehead_cli.tasks.detection.split import DetectionSplit, pooled_ground_truth
from onehead_cli.wording import is_one_line

PROPERTY = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    # Each example writes its own file over the one before.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

VALID = {
    "info": {},
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80},
        {"id": 2, "file_name": "b/c.jpg", "width": 50, "height": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20.5, 30], "area": 600.0, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [0, 0, 100, 80], "area": 8000, "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 5, "bbox": [-5, 2, 30, 90], "segmentation": [[1, 2, 3, 4, 5, 6]]},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog", "supercategory": "animal"}],
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([10**30, -(10**400), 2**63, 1 << 1030]),
    st.floats(),
    st.sampled_from(["", "..", "/etc/passwd", "a/../../b", "a\0b", "a\nb", "\ud800", "é", "x" * 5000, "0", "1e5"]),
    st.text(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.sampled_from(["id", "bbox", "name", "images", "annotations", "categories", "x"]), inner),
    ),
    max_leaves=8,
)


@st.composite
def documents(draw):
    """A COCO document with one to three places replaced, dropped, repeated or swapped with another."""
    root = {"document": copy.deepcopy(VALID)}
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(root))
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["replace", "replace", "drop", "repeat", "swap"]))
        if change == "replace":
            holder[key] = draw(values)
        elif change == "drop" and holder is not root:
            del holder[key]
        elif change == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif change == "swap":
            other, place = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(other[place])
    return root["document"]


def _places(node):
    """Every (object or list, key) below a node."""
    entries = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in entries:
        yield node, key
        yield from _places(value)


@st.composite
def damaged(draw, text):
    """Text as bytes: as it is, cut, with bytes put in, with a byte order mark, in UTF-16 or nested deeply."""
    whole = draw(text)
    content = whole.encode("utf-8", "surrogatepass")
    change = draw(st.sampled_from(["none", "none", "none", "cut", "insert", "mark", "utf-16", "nest"]))
    place = draw(st.integers(0, len(content)))
    if change == "cut":
        return content[:place]
    if change == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=4)) + content[place:]
    if change == "mark":
        return b"\xef\xbb\xbf" + content
    if change == "utf-16":
        return whole.encode("utf-16", "surrogatepass")
    if change == "nest":
        depth = draw(st.sampled_from([50, 2000]))
        return content[:place] + b"[" * depth + b"]" * depth + content[place:]
    return content


json_files = damaged(
    documents().flatmap(lambda document: st.booleans().map(lambda plain: json.dumps(document, ensure_ascii=plain)))
)

yaml_values = st.recursive(
    st.one_of(
        scalars.filter(lambda value: value != "\ud800"),
        st.dates(),
        st.sampled_from([0, 1, 2, "cat", "root", "data", "train_split"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.integers(0, 3), st.sampled_from(["data", "student", "seed", "root", "epochs", "x\ny"])), inner
        ),
    ),
    max_leaves=8,
)
#: What PyYAML's own constructors stumble over, and text that is not YAML.
ODD_YAML = [
    "- !!timestamp x",
    "- !!int ''",
    "- !!float ''",
    "- !!bool maybe",
    "- !!binary '='",
    "- 2001-99-99",
    "- 1_000:99:1",
    "&a [*a]",
    "&a {x: *a}",
    "? [a, b]\n: c",
    "{a: 1, a: 2}",
    "- !!python/object/apply:os.system [ls]",
    "- [cat",
    "\t- cat",
    '- "\\ud800"',
    '- "a\\0b"',
    "- " + "9" * 5000,
    "--- a\n--- b",
    "%YAML 9.9\n---\n- a",
    "data: {root: 1}",
    "data: &x {root: *x}",
    "data: {root: '\\0'}",
    'data: {root: "a\\0b", train_split: "\\n"}',
    "output: ''",
    "seed: 1e400",
    "teacher: {epochs: .nan, lr: .inf}",
    "student: [1]",
]
yaml_files = damaged(st.one_of(yaml_values.map(yaml.safe_dump), st.sampled_from(ODD_YAML), st.text(max_size=30)))


def examples(contents):
    """Contents that are tried each time, beside those that are drawn."""

    def decorate(test):
        for content in contents:
            test = example(content=content)(test)
        return test

    return decorate


def check_message(error, path):
    message = str(error)
    assert str(path) in message and is_one_line(message), repr(message)


def with_value(place, value):
    """The valid document as bytes, with another value at a place such as ("images", 0, "id")."""
    document = copy.deepcopy(VALID)
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return json.dumps(document).encode()


ODD_NAMES = ["", "..", "/etc/passwd", "a/../../b", "a\0b", "a\nb", "\ud800", "\udcff", "x" * 5000, "~"]
ODD_NUMBERS = [True, -1, 0, 10**30, 10**400, math.nan, math.inf, "1", None, [], {}, 1.5]


def read_split(folder, annotations):
    images = folder / "pictures"
    images.mkdir(exist_ok=True)
    return DetectionSplit(list_coco_images(images, annotations), DataConfig(), Loading("bilinear", CacheBudget(0)))


@PROPERTY
@given(content=json_files)
@examples(with_value(("images", 0, "file_name"), name) for name in ODD_NAMES)
@examples(with_value(("categories", 0, "name"), name) for name in ODD_NAMES)
@examples(with_value(("images", 0, field), number) for field in ("id", "width") for number in ODD_NUMBERS)
@examples(
    with_value(("annotations", 0, field), number)
    for field in ("id", "image_id", "category_id", "area", "iscrowd", "bbox")
    for number in ODD_NUMBERS
)
@examples(with_value(("annotations", 0, "bbox", place), number) for place in (0, 2) for number in ODD_NUMBERS)
@examples(
    [b"", b"null", b"\xff", b"[" * 100_000, json.dumps(VALID).encode(), b"\xef\xbb\xbf" + json.dumps(VALID).encode()]
)
def test_any_annotation_file_is_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    try:
        raw = read_coco(path)
        split = read_split(tmp_path, path)
    except DataError as error:
        # Of an image outside its folder the message names the image, of all else the annotation file.
        check_message(error, "" if "points outside the image folder" in str(error) else path)
        return
    assert [str(p) for p in split.paths] == [str(tmp_path / "pictures" / i["file_name"]) for i in raw["images"]]
    for annotation in split.listing.annotations:
        x, y, width, height = annotation["bbox"]
        image = next(i for i in raw["images"] if i["id"] == annotation["image_id"])
        assert width > 0 and height > 0 and annotation["area"] >= 0 and annotation["iscrowd"] in (0, 1)
        assert -1 <= x <= image["width"] and -1 <= y <= image["height"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = pooled_ground_truth([split])
        truth.createIndex()
        found = [
            {"id": i, "image_id": i, "category_id": 0, "bbox": [0, 0, 9, 9], "score": 0.5}
            for i, _ in enumerate(raw["images"], 1)
        ]
        measured = COCOeval(truth, truth.loadRes(found), "bbox")
        measured.evaluate()
        measured.accumulate()


def test_what_could_change_the_meaning_of_a_box_is_not_guessed(tmp_path):
    path = tmp_path / "instances.json"

    def read(field, value):
        path.write_bytes(with_value(("annotations", 0, field), value))
        return read_split(tmp_path, path).listing.annotations[0]

    with pytest.raises(DataError, match=r"annotations\[0\].iscrowd must be 0 or 1"):
        read("iscrowd", "0")
    assert read("iscrowd", None)["iscrowd"] == 0 and read("iscrowd", 1.0)["iscrowd"] == 1
    for area in (math.nan, math.inf, -1, "600", None):
        assert read("area", area)["area"] == 20.5 * 30


@PROPERTY
@given(content=yaml_files)
@examples(text.encode() for text in ODD_YAML)
def test_any_class_list_is_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "classes.yaml"
    path.write_bytes(content)
    try:
        names = read_mask_classes(DataConfig(seg_root=tmp_path))
    except DataError as error:
        check_message(error, path)
    else:
        assert names and len(set(names)) == len(names) <= 255
        assert all(is_one_line(name) for name in names)


@PROPERTY
@given(content=yaml_files)
@examples(text.encode() for text in ODD_YAML)
def test_any_config_is_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    try:
        config = load_config(path)
    except ConfigError as error:
        check_message(error, path)
    else:
        config.data.root.is_dir()
