"""A student that starts from its teachers: which weights come from where, worked out by hand."""

import pytest
import torch

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.errors import CheckpointError
from onehead_cli.network.merge import start_from_teachers
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

CLASSES = {"cls": ["c"] * 3, "seg": ["s"] * 5, "det": ["d"] * 2}
WIDTH = 2 + 2 * 5


def network(tasks, backbone="mobilenetv3_small_050"):
    return build_model(Architecture(backbone, CLASSES, tuple(tasks), of_tasks={"boxes_per_cell": 2}))


@pytest.fixture
def teachers():
    made = {task: network([task]) for task in TASKS}
    for number, teacher in enumerate(made.values(), start=1):
        for value in teacher.state_dict().values():
            value.fill_(number)  # 1, 2 and 3: the mean is 2
    return made


def test_own_layers_are_the_teachers_own_and_the_rest_is_their_mean(teachers):
    student = network(TASKS)
    start_from_teachers(student, teachers)
    for number, task in enumerate(TASKS, start=1):
        for own in (student.necks[task], student.identity[task]):
            assert all((value == number).all() for value in own.state_dict().values())
    for shared in (student.backbone, student.upsample):
        floats = [value for value in shared.state_dict().values() if value.is_floating_point()]
        assert floats and all((value == 2).all() for value in floats)
    for layer in (student.head.project, student.head.grouped):
        for value in (layer.weight, layer.bias):
            groups = value.detach().flatten(1) if value.ndim > 1 else value.detach()[:, None]
            firsts = groups[:, 0].view(4, WIDTH)
            assert torch.equal(groups, groups[:, :1].expand_as(groups))
            assert torch.equal(firsts, torch.tensor([1.0, 2.0, 3.0, 2.0])[:, None].expand(4, WIDTH))


def test_equal_teachers_of_one_task_each_leave_the_trunk_as_it_is(teachers):
    student = network(TASKS)
    before = {key: value.clone() for key, value in student.backbone.state_dict().items()}
    for teacher in teachers.values():
        teacher.backbone.load_state_dict(before)
    start_from_teachers(student, teachers)
    for key, value in student.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_missing_teacher_and_another_backbone_are_refused(teachers):
    with pytest.raises(CheckpointError, match="no teacher for seg"):
        start_from_teachers(network(TASKS), {t: n for t, n in teachers.items() if t != "seg"})
    teachers["det"] = network(["det"], "mobilenetv3_small_075")
    with pytest.raises(CheckpointError, match="teacher for det has the backbone mobilenetv3_small_075"):
        start_from_teachers(network(TASKS), teachers)


def test_the_command_starts_there_and_says_what_is_missing(tiny_data, tmp_path, capsys):
    common = ["--data", tiny_data, "--output", tmp_path, "--image-size", "64", "--epochs", "1", "--no-pretrained"]
    common = [
        *map(str, common),
        "--backbone",
        "mobilenetv3_small_050",
        "--quiet",
        "--set",
        "student.from_teachers=true",
    ]
    for teacher in ("cls", "seg"):
        assert run(["train-teacher", "--task", teacher, *common]) == 0
    assert run(["train-unified", *common, "--lambda-distill", "0"]) == 1
    said = capsys.readouterr().err
    assert f"teacher missing: {tmp_path / 'det_best.pth'};" in said
    assert "without teachers with --lambda-distill 0 --set student.from_teachers=false" in said
    (empty := tmp_path / "empty").mkdir()
    assert run(["train-unified", *common, "--lambda-distill", "0", "--teachers", str(empty)]) == 1
    assert capsys.readouterr().err.count("_best.pth") == 3
    assert run(["train-teacher", "--task", "det", *common]) == 0
    assert run(["train-unified", *common, "--lr", "1e-12"]) == 0  # what it ends with is what it began with
    teachers = {task: load_checkpoint(tmp_path / f"{task}_best.pth").model() for task in TASKS}
    checkpoint = load_checkpoint(tmp_path / "all_best.pth")
    merged = checkpoint.model()
    start_from_teachers(merged, teachers)
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(checkpoint.weights[name], parameter.detach(), atol=1e-6, rtol=0)
