"""A network that starts from a checkpoint of the same or of other classes and tasks."""

import pytest
import torch

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.errors import ConfigError
from onehead_cli.network.onehead import build_model
from onehead_cli.network.start_from import start_from
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["rose", "tulip", "daisy"], "seg": ["background", "a", "b", "c"], "det": ["cat", "dog"]}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def architecture(classes=CLASSES, tasks=None, *, boxes=2, backbone="mobilenetv3_small_050", skip=False):
    return Architecture(backbone, classes, tuple(tasks or classes), skip=skip, of_tasks={"boxes_per_cell": boxes})


def network(arch, seed):
    """A network with something in every tensor."""
    torch.manual_seed(seed)
    model = build_model(arch)
    for value in model.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value += 0.1 * torch.rand_like(value)
    return model.eval()


def checkpoint(arch):
    model = network(arch, seed=1)
    return Checkpoint("all", arch, model.state_dict(), {}, {"cells": 0.0, "boxes": []}, {}, {}, 1, 0)


def started(arch, source):
    """A new network's maps, what started anew, and the maps of the source."""
    model = network(arch, seed=2)
    anew = start_from(model, arch, source.model(), source.architecture).anew
    with torch.no_grad():
        return model(IMAGES), anew, source.model()(IMAGES)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_the_same_classes_give_the_same_maps_to_the_last_bit():
    found, anew, expected = started(architecture(), checkpoint(architecture()))
    assert anew == [] and all(torch.equal(found[task], expected[task]) for task in TASKS)


def test_the_same_classes_in_another_order_give_the_same_maps_in_that_order():
    orders = {"cls": [2, 0, 1], "seg": [0, 3, 1, 2], "det": [1, 0]}
    permuted = {task: [CLASSES[task][index] for index in order] for task, order in orders.items()}
    found, anew, expected = started(architecture(permuted), checkpoint(architecture()))
    assert anew == []
    close(found["cls"], expected["cls"][:, orders["cls"]])
    close(found["seg"], expected["seg"][:, orders["seg"]])
    close(found["det"], expected["det"][:, [*orders["det"], *range(2, 12)]])


@pytest.mark.parametrize("more", [["x"] * 0, [f"x{i}" for i in range(20)]])  # a narrower and a wider head
def test_known_classes_are_known_whatever_else_there_is(more):
    classes = {"cls": ["daisy", *more, "rose"], "seg": ["background", "c"], "det": ["dog", "bird"]}
    if not more:
        classes["det"] = ["dog"]
    found, anew, expected = started(architecture(classes), checkpoint(architecture()))
    close(found["cls"][:, [0, -1]], expected["cls"][:, [2, 0]])
    close(found["seg"], expected["seg"][:, [0, 3]])
    close(found["det"][:, [0, *range(len(classes["det"]), len(classes["det"]) + 10)]], expected["det"][:, 1:])
    assert anew == (["cls (x0, x1, x2 and 17 more)", "det (bird)"] if more else [])


def test_another_number_of_boxes_starts_anew_and_the_classes_do_not():
    found, anew, expected = started(architecture(boxes=3), checkpoint(architecture()))
    assert anew == ["det, which has 2 boxes per cell, not 3 (model.boxes_per_cell)"]
    close(found["det"][:, :2], expected["det"][:, :2])
    close(found["cls"], expected["cls"])


def test_a_task_more_starts_anew_and_the_others_hear_its_neck_only_through_the_head():
    known = {task: CLASSES[task] for task in ("cls", "seg")}
    source = checkpoint(architecture(known))
    arch = architecture()
    model = network(arch, seed=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert start_from(model, arch, source.model(), source.architecture).anew == ["det"]
    for key, value in model.state_dict().items():
        if key.startswith(("necks.det", "identity.det")):
            assert torch.equal(value, before[key]), key
        elif key.startswith(("backbone", "upsample", "necks", "identity")):
            assert torch.equal(value, source.weights[key]), key
    for parameter in model.necks["det"].parameters():
        parameter.data.zero_()  # silent, so that the head reads what it read
    with torch.no_grad():
        found, expected = model(IMAGES), source.model()(IMAGES)
    close(found["cls"], expected["cls"])
    close(found["seg"], expected["seg"])


def test_a_task_less_and_a_teacher_of_one_task():
    """A teacher has the student's head but one neck."""
    source = checkpoint(architecture(tasks=("seg",)))
    less = {"seg": CLASSES["seg"]}
    found, anew, expected = started(architecture(less), source)
    assert anew == []
    close(found["seg"], expected["seg"])
    _, anew, _ = started(architecture(), source)
    assert anew == ["cls", "det"]


def test_what_has_no_place_in_the_new_network_is_named():
    with_skip, without = (architecture(backbone="test_efficientnet", skip=skip) for skip in (True, False))
    fit = start_from(network(without, 2), without, network(with_skip, 1), with_skip)
    assert (fit.anew, fit.left_out) == ([], ["skip"])
    fit = start_from(network(with_skip, 2), with_skip, network(without, 1), without)
    assert (fit.anew, fit.left_out) == (["skip.norm"], [])
    less = architecture({"seg": CLASSES["seg"]}, backbone="test_efficientnet")
    fit = start_from(network(less, 2), less, network(without, 1), without)
    assert fit.left_out == []  # other tasks are not asked for


def test_another_backbone_is_refused():
    arch = architecture(backbone="mobilenetv3_small_075")
    with pytest.raises(
        ConfigError, match=r"has the backbone mobilenetv3_small_050, model.backbone is mobilenetv3_small_075"
    ):
        start_from(network(arch, 0), arch, network(architecture(), 1), architecture())
