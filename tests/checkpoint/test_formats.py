"""Checkpoints of earlier formats mean for ever what they meant.

`files/format2.pth` and `.safetensors` were written by 0.1.0, a student of timm's `test_efficientnet` on the synthetic
data; `format3.safetensors` by the first version of format 3, with random weights and everything that format 3 added at
another value than format 2's. The JSONs hold what those versions made of them: the maps of one formula's image in
float64, where all processors agree but for the last bits, and what they read from them, as `evaluate` and as `predict`
reads.
"""

import json
from pathlib import Path

import pytest
import torch

from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.config.sections import EvaluationConfig
from onehead_cli.data.geometry import Fit
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.tasks.detection.decode import decode_boxes, read_boxes
from onehead_cli.tasks.detection.reader import BoxLayout, BoxReading
from onehead_cli.tasks.segmentation.reading import read_mask

FOLDER = Path(__file__).parent / "files"
#: The lowest score of the boxes in the JSON, by format.
LOWEST = {"format2": 0.01, "format3": 0.001}


def image():
    """float64 [1, 3, 64, 64] in 0..1."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return torch.stack([(x * 3 + y) % 256, (x * y) % 256, (x * x + 5 * y) % 256])[None].double() / 255


def stored(name):
    """The checkpoint, its maps of the image, and what was made of them."""
    path = FOLDER / name
    checkpoint = load_checkpoint(path)
    with torch.inference_mode():
        maps = checkpoint.model().double()(image())
    return checkpoint, maps, json.loads(path.with_suffix(".json").read_text())[path.suffix.removeprefix(".")]


@pytest.fixture(scope="module", params=["format2.pth", "format2.safetensors", "format3.safetensors"])
def kept(request):
    return (*stored(request.param), request.param.partition(".")[0])


def test_the_maps_are_those_that_they_were(kept):
    _, maps, expected, _ = kept
    assert set(maps) == expected["maps"].keys()
    for task, found in maps.items():
        numbers = [float.fromhex(value) for value in expected["maps"][task]]
        wanted = torch.tensor(numbers, dtype=torch.float64).view(expected["shapes"][task])
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_format_2_means_what_0_1_0_meant(suffix):
    checkpoint, _, _ = stored(f"format2.{suffix}")
    layout = BoxLayout.of(checkpoint.architecture.of_tasks)
    assert (checkpoint.architecture.skip, layout.priors, layout.size_unit) == (False, (), "input")
    readers = {task: checkpoint.reader(task, EvaluationConfig()) for task in checkpoint.architecture.tasks}
    assert readers["cls"].pooling == "gate"
    assert readers["det"].reading == BoxReading(best_class=False, nms_iou=0.6, predict_nms_iou=0.4, vote_iou=1.0)
    assert checkpoint.origin == {}


def test_format_3_says_what_format_2_could_not():
    checkpoint, _, _ = stored("format3.safetensors")
    layout = BoxLayout.of(checkpoint.architecture.of_tasks)
    assert checkpoint.architecture.skip
    assert (layout.priors, layout.size_unit) == (((1.5, 1.25), (3.0, 2.0)), "cells")
    readers = {task: checkpoint.reader(task, EvaluationConfig()) for task in checkpoint.architecture.tasks}
    assert (readers["cls"].pooling, readers["cls"].threshold) == ("soft", 0.2)
    assert readers["det"].reading == BoxReading(best_class=True, nms_iou=0.5, predict_nms_iou=0.3, vote_iou=0.5)
    assert readers["det"].thresholds.tolist() == [0.05, 0.03]
    assert checkpoint.origin == {"precision": "bf16", "processor": "a processor", "commit": None}


def test_the_maps_are_read_as_they_were_read(kept):
    checkpoint, maps, expected, version = kept
    classes, boxes = (checkpoint.reader(task, EvaluationConfig()) for task in ("cls", "det"))
    probabilities = pool_classes(maps["cls"], classes.threshold, pooling=classes.pooling).softmax(1)[0]
    assert probabilities.tolist() == pytest.approx(expected["probabilities"], abs=1e-6)
    fit = Fit.of(100, 80, 64, checkpoint.preprocess["fit"])
    mask = read_mask(maps["seg"][0], fit)[::8, ::8].flatten()
    assert "".join(chr(48 + label) for label in mask) == expected["mask"] and len(set(expected["mask"])) > 1
    for command, nms_iou in (("evaluate", boxes.reading.nms_iou), ("predict", boxes.reading.predict_nms_iou)):
        decoded = decode_boxes(maps["det"], len(boxes.classes), boxes.layout.size_unit)
        [found] = read_boxes(
            decoded,
            [fit],
            score_min=LOWEST[version],
            nms_iou=nms_iou,
            max_detections=100,
            best_class=boxes.reading.best_class,
            vote_iou=boxes.reading.vote_iou,
        )
        assert found.labels.tolist() == expected[command]["labels"]
        assert found.scores.tolist() == pytest.approx(expected[command]["scores"], abs=1e-6)
        assert found.boxes.tolist() == [pytest.approx(box, abs=1e-4) for box in expected[command]["boxes"]]
