"""What an exported file may be asked for."""

import pytest

from onehead_cli.config.sections import Config, EvaluationConfig
from onehead_cli.errors import ConfigError
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.detection.task import DETECTION
from onehead_cli.tasks.task import Reading


def reader(asked, score_threshold=None):
    """Of a file that was exported with a lowest score of .1 and at most 50 boxes per image."""
    of_tasks = {"boxes_per_cell": 1, "priors": ((0.5, 0.5),), "size_unit": "input"}
    architecture = Architecture("mobilenetv3_small_050", {"det": ["a", "b"]}, ("det",), of_tasks=of_tasks)
    values, thresholds = DETECTION.first_reading(Config()), DETECTION.first_thresholds(Config())
    fixed = {**values, "score_min": 0.1, "max_detections": 50}
    reading = Reading(architecture, values, thresholds, EvaluationConfig(**asked), score_threshold)
    return DETECTION.exported_reader(reading, fixed)


@pytest.mark.parametrize(
    ("asked", "score_threshold"),
    [({}, None), ({}, 0.1), ({"score_min": 0.2}, None), ({"score_min": 0.05}, 0.5), ({"max_detections": 50}, None)],
)
def test_what_a_file_has_is_given(asked, score_threshold):
    assert reader(asked, score_threshold).classes == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "score_threshold", "said"),
    [
        ({}, 0.05, "no boxes of scores below 0.1"),
        ({"score_min": 0.05}, None, "no boxes of scores below 0.1"),
        ({"score_min": 0.2}, 0.05, "no boxes of scores below 0.1"),
        ({"max_detections": 51}, None, "at most 50 boxes per image"),
    ],
)
def test_what_it_has_not_is_refused(asked, score_threshold, said):
    with pytest.raises(ConfigError, match=f"the exported file has {said}; export it again"):
        reader(asked, score_threshold)
