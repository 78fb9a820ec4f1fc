from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from onehead_cli.drawing import Rect, class_colours, place_label
from onehead_cli.tasks.canvas import Canvas, drawing_copy
from onehead_cli.tasks.classification.reader import FoundClass
from onehead_cli.tasks.detection.decode import Detections
from onehead_cli.tasks.detection.reader import FoundBoxes
from onehead_cli.tasks.reader import Found
from onehead_cli.tasks.segmentation.reader import FoundMask
from onehead_cli.tasks.task import get_task
from onehead_cli.wording import readable

GREY = (100, 110, 120)
CLASSES = {
    "cls": ["n03028079", "n03425413"],
    "seg": ["background", "person", "sofa"],
    "det": ["person", "traffic light"],
}
NOTHING = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))


def _painted(
    drawing: Image.Image,
    size: tuple[int, int],
    *,
    classes: Mapping[str, Sequence[str]] = CLASSES,
    probabilities: Sequence[float] | None = None,
    mask: NDArray[np.uint8] | None = None,
    boxes: Detections | None = None,
) -> Image.Image:
    """The drawing of an image with what the tasks found in it."""
    found: list[Found] = []
    if probabilities is not None:
        found.append(FoundClass(classes["cls"], np.array(probabilities, dtype=np.float32)))
    if mask is not None:
        found.append(FoundMask(classes["seg"], mask))
    if boxes is not None:
        found.append(FoundBoxes(classes["det"], boxes))
    names = [name for task in reversed(list(classes)) for name in get_task(task).colour_names(classes[task])]
    canvas = Canvas(class_colours(names))
    for each in found:
        each.paint(canvas)
    return canvas.render(drawing, size)


def _plain(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def _colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors(1 << 24)}  # type: ignore[misc, union-attr]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((160, 120), (640, 480)),
        ((800, 600), (800, 600)),
        ((4000, 3000), (1280, 960)),
        ((1, 1), (640, 640)),
        ((1, 5000), (1, 1280)),
        ((5000, 1), (1280, 1)),
    ],
)
def test_size_of_the_drawing(size: tuple[int, int], expected: tuple[int, int]) -> None:
    drawing = drawing_copy(_plain(*size))
    assert drawing.size == expected
    assert drawing.getpixel((0, 0)) == GREY


def test_without_anything_to_draw_the_image_stays_as_it_is() -> None:
    image = Image.effect_noise((700, 500), 50).convert("RGB")
    painted = _painted(image, image.size, mask=np.zeros((500, 700), np.uint8), boxes=NOTHING)
    assert painted.tobytes() == image.tobytes()


def test_mask_is_tinted_with_a_solid_contour() -> None:
    mask = np.zeros((600, 800), np.uint8)
    mask[100:300, 200:500] = 1
    painted = np.asarray(_painted(_plain(800, 600), (800, 600), mask=mask)).astype(int)
    colour = painted[100, 350]  # the first row of the mask
    assert (painted[299, 350] == colour).all()
    assert (painted[99, 350] == GREY).all()
    assert (painted[50, 50] == GREY).all()
    expected = 0.55 * np.array(GREY) + 0.45 * colour
    assert np.abs(painted[200, 350] - expected).max() <= 1.5
    # The legend below has the colour of the contour.
    assert (painted[600:] == colour).all(-1).sum() > 50


def test_the_mask_of_a_small_image_grows_with_it() -> None:
    mask = np.zeros((120, 160), np.uint8)
    mask[:, 80:] = 2
    painted = np.asarray(_painted(drawing_copy(_plain(160, 120)), (160, 120), mask=mask))
    tinted = (painted[:480] != GREY).any(-1)
    assert not tinted[:, :320].any() and tinted[:, 320:].all()


def test_a_box_is_framed_where_it_is() -> None:
    found = Detections(np.array([[100.0, 50, 300, 200]]), np.array([0.5]), np.array([1]))
    # The original was twice as large as the drawing.
    painted = np.asarray(_painted(_plain(800, 600), (1600, 1200), boxes=found)).astype(int)
    colour = painted[60, 50]
    assert tuple(colour) != GREY
    for row, column in ((60, 149), (99, 100)):  # right and lower side
        assert (painted[row, column] == colour).all()
    assert (painted[80, 100] == GREY).all() and (painted[60, 160] == GREY).all()


def test_a_class_has_one_colour_in_mask_and_boxes_and_classes_differ() -> None:
    mask = np.ones((600, 800), np.uint8)
    in_mask = _colours(_painted(_plain(800, 600), (800, 600), mask=mask))
    seen = []
    for label in (0, 1):
        found = Detections(np.array([[100.0, 100, 300, 200]]), np.array([0.5]), np.array([label]))
        seen.append(_colours(_painted(_plain(800, 600), (800, 600), boxes=found)))
    frame = np.asarray(_painted(_plain(800, 600), (800, 600), boxes=found))[150, 100]
    assert tuple(frame.tolist()) in seen[1] - seen[0]
    assert (in_mask & seen[0]) - seen[1]  # the colour of a person


def test_many_classes_have_many_colours() -> None:
    classes = {"det": [f"class {i}" for i in range(200)]}
    colours = set()
    for label in range(200):
        found = Detections(np.array([[100.0, 100, 300, 200]]), np.array([0.5]), np.array([label]))
        painted = _painted(_plain(640, 480), (640, 480), classes=classes, boxes=found)
        colours.add(painted.getpixel((100, 150)))
    assert len(colours) == 200


def test_banner_and_legend_are_added_above_and_below() -> None:
    mask = np.full((480, 640), 1, np.uint8)
    mask[0, 0] = 2
    bare = _painted(_plain(640, 480), (640, 480))
    with_banner = _painted(_plain(640, 480), (640, 480), probabilities=[0.93, 0.07])
    with_both = _painted(_plain(640, 480), (640, 480), probabilities=[0.93, 0.07], mask=mask)
    assert bare.size == (640, 480)
    line = with_banner.height - 480
    assert 20 <= line <= 50
    assert with_both.size == (640, 480 + 2 * line)
    assert with_banner.crop((0, line, 640, line + 480)).tobytes() == bare.tobytes()


def test_text_of_any_length_and_script_is_drawn_inside() -> None:
    names = ["background", *(f"a rather long name of a class, number {i}, " * 3 for i in range(20)), "長い名前"]
    classes = {"seg": names, "det": names, "cls": names}
    mask = np.arange(22, dtype=np.uint8).repeat(100).reshape(22, 100)
    boxes = np.array([[0.0, 0, 100, 22]] * 22)
    found = Detections(boxes, np.linspace(1, 0, 22), np.arange(22))
    likely = [0.2] * 5 + [0.0] * 17
    drawing = drawing_copy(_plain(100, 22))
    painted = _painted(drawing, (100, 22), classes=classes, probabilities=likely, mask=mask, boxes=found)
    assert painted.width == 640


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_images_have_room_for_text(size: tuple[int, int]) -> None:
    width, height = size
    found = Detections(np.array([[0.0, 0, width, height]]), np.array([0.9]), np.array([0]))
    mask = np.ones((height, width), np.uint8)
    painted = _painted(drawing_copy(_plain(width, height)), size, probabilities=[0.93, 0.07], mask=mask, boxes=found)
    assert min(painted.size) > 160


sides = st.floats(0, 900)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sides, sides, sides, sides), min_size=1, max_size=12))
def test_labels_stay_inside_and_apart(corners: list[tuple[float, float, float, float]]) -> None:
    area: Rect = (0, 30, 1000, 930)
    taken: list[Rect] = []
    for x1, y1, x2, y2 in corners:
        box = (min(x1, x2), 30 + min(y1, y2), max(x1, x2), 30 + max(y1, y2))
        place = place_label(box, (120, 20), area, taken)
        assert area[0] <= place[0] and place[2] <= area[2] and area[1] <= place[1] and place[3] <= area[3]
        # Twelve labels never fill a column of 45 lines.
        assert not any(place[0] < t[2] and t[0] < place[2] and place[1] < t[3] and t[1] < place[3] for t in taken)
        taken.append(place)


def test_a_label_stands_on_its_box_where_there_is_room() -> None:
    assert place_label((100, 100, 300, 200), (80, 20), (0, 0, 640, 480), []) == (100, 80, 180, 100)
    assert place_label((100, 5, 300, 200), (80, 20), (0, 0, 640, 480), []) == (100, 0, 180, 20)


def test_readable_names() -> None:
    assert readable("n03028079") == "church"
    assert readable("my own class") == "my own class"
