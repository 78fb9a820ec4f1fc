"""What the ImageNet classifier knows of the classes of other tasks, put where their necks can read it.

A row of the classifier tells in each cell whether its class is there. The mean of the rows that fit a class of
things in an image becomes one upsampled channel; what follows is left to the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from onehead_cli.network.imagenet import imagenet_linear, plain_name, rows_by_name
from onehead_cli.network.onehead import UPSAMPLED_CHANNELS, OneHead
from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task

#: Between the channels that a map of stride 16 may be added to and those that classification may be written into.
_CHANNELS = range(320, UPSAMPLED_CHANNELS - 256)

_ROWS: dict[str, Sequence[int]] = {
    "airplane": (404, 895),  # airliner, warplane
    "bicycle": (444, 671),  # bicycle-built-for-two, mountain bike
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "boat": (472, 484, 554, 576, 625, 780, 814, 871, 914),  # canoe .. yawl
    "bottle": (440, 720, 737, 898, 907),  # of beer, pills, pop, water, wine
    "bus": (654, 779, 874),  # minibus, school bus, trolleybus
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),  # beach wagon, cab, convertible .. sports car
    "cat": range(281, 286),
    "chair": (423, 559, 765),  # barber, folding, rocking chair
    "cow": (345,),  # ox
    "dining table": (532,),
    "dog": range(151, 269),
    "horse": (339,),  # sorrel
    "motorcycle": (665, 670),  # moped, motor scooter
    "person": (981, 982, 983),  # ballplayer, groom, scuba diver
    "potted plant": (738,),  # pot
    "sheep": (348, 349),  # ram, bighorn
    "sofa": (831,),  # studio couch
    "train": (466, 547, 705, 820),  # bullet train, locomotives, passenger car
    "truck": (555, 569, 675, 717, 864, 867),  # fire engine, garbage truck .. trailer truck
    "tv monitor": (664, 782, 851),  # monitor, screen, television
}

#: Other names of the same.
_SAME = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
    "tv": "tv monitor",
    "couch": "sofa",
}


def evidence_rows(classes: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """The rows of ImageNet's outputs that fit each class of things in an image; none where none fits, and once
    where both tasks have the class. A class outside the table fits the ImageNet class of its name."""
    known, found = rows_by_name(), list[list[int]]()
    for task in [task for task in TASKS if task in classes and get_task(task).names_things]:
        for name in map(plain_name, classes[task]):
            name = _SAME.get(name, name)
            rows = list(_ROWS.get(name) or known.get(name, []))
            if rows and rows not in found:
                found.append(rows)
    return found


@torch.no_grad()
def write_evidence(model: OneHead, classes: Mapping[str, Sequence[str]], weights_file: Path | None) -> None:
    """Start one upsampled channel per class from the classifier; see `evidence_rows`.

    Raises:
        ConfigError: the backbone's classifier is not linear.
        CheckpointError: there are no weights for the backbone.
    """
    weight, _ = imagenet_linear(model.backbone.name, weights_file, asked_by="model.class_evidence")
    for channel, rows in zip(_CHANNELS, evidence_rows(classes), strict=False):
        model.upsample.conv.weight[4 * channel : 4 * channel + 4] = weight[rows].mean(0)[:, None, None]
