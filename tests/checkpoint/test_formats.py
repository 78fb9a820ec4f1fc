"""Checkpoints of earlier formats mean for ever what they meant.

`checkpoints/format2.pth` and `.safetensors` were written by 0.1.0: a student of timm's `test_efficientnet` on the
synthetic data. `format2.json` holds what 0.1.0 made of them: the maps of one formula's image in float64, where all
processors agree but for the last bits, and what it read from them, as `evaluate` and as `predict` reads.
"""

import json
from pathlib import Path

import pytest
import torch

from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.geometry import Fit
from onehead_cli.tasks.classification import pool_classes
from onehead_cli.tasks.detection.decode import decode_boxes, read_boxes
from onehead_cli.tasks.detection.reader import BoxLayout, BoxReading
from onehead_cli.tasks.segmentation.reading import read_mask

FOLDER = Path(__file__).parent / "files"
EXPECTED = json.loads((FOLDER / "format2.json").read_text())


def image():
    """float64 [1, 3, 64, 64] in 0..1."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return torch.stack([(x * 3 + y) % 256, (x * y) % 256, (x * x + 5 * y) % 256])[None].double() / 255


@pytest.fixture(scope="module", params=["pth", "safetensors"])
def format2(request):
    """The checkpoint, its maps of the image, and what 0.1.0 said."""
    checkpoint = load_checkpoint(FOLDER / f"format2.{request.param}")
    with torch.inference_mode():
        maps = checkpoint.model().double()(image())
    return checkpoint, maps, EXPECTED[request.param]


def test_the_maps_of_format_2_are_those_of_0_1_0(format2):
    _, maps, expected = format2
    assert set(maps) == expected["maps"].keys()
    for task, found in maps.items():
        numbers = [float.fromhex(value) for value in expected["maps"][task]]
        wanted = torch.tensor(numbers, dtype=torch.float64).view(expected["shapes"][task])
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_format_2_means_what_0_1_0_meant(format2):
    checkpoint, _, _ = format2
    architecture = checkpoint.architecture
    layout = BoxLayout.of(architecture.of_tasks)
    assert (architecture.skip, layout.priors, layout.size_unit) == (False, (), "input")
    readers = {task: checkpoint.reader(task, EvaluationConfig()) for task in architecture.tasks}
    assert readers["cls"].pooling == "gate"
    assert readers["det"].reading == BoxReading(best_class=False, nms_iou=0.6, predict_nms_iou=0.4, vote_iou=1.0)
    assert checkpoint.origin == {}


def test_the_maps_of_format_2_are_read_as_0_1_0_read_them(format2):
    checkpoint, maps, expected = format2
    pooling = checkpoint.reader("cls", EvaluationConfig()).pooling
    probabilities = pool_classes(maps["cls"], checkpoint.thresholds["cells"], pooling=pooling).softmax(1)[0]
    assert probabilities.tolist() == pytest.approx(expected["probabilities"], abs=1e-6)
    fit = Fit.of(100, 80, 64, "resize")
    mask = read_mask(maps["seg"][0], fit)[::8, ::8].flatten()
    assert "".join(chr(48 + label) for label in mask) == expected["mask"]
    for command, nms_iou in (("evaluate", 0.6), ("predict", 0.4)):
        decoded = decode_boxes(maps["det"], 10)
        [found] = read_boxes(decoded, [fit], score_min=0.01, nms_iou=nms_iou, max_detections=100)
        assert found.labels.tolist() == expected[command]["labels"]
        assert found.scores.tolist() == pytest.approx(expected[command]["scores"], abs=1e-6)
        assert found.boxes.tolist() == [pytest.approx(box, abs=1e-4) for box in expected[command]["boxes"]]
