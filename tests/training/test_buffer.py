"""The buffer: its gradient is that of one graph and of one big batch."""

import copy

import pytest
import torch
from loading import tensors

from onehead_cli.config.sections import Config
from onehead_cli.data.batch import TaskBatch
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.classification.split import ClassLabels
from onehead_cli.tasks.detection.target import DetectionTarget
from onehead_cli.tasks.segmentation.split import Masks
from onehead_cli.tasks.task import Setting
from onehead_cli.training.loop import gather_buffer
from onehead_cli.training.objective import Objective
from onehead_cli.training.task_weights import LossNormaliser, TaskWeights
from onehead_cli.training.terms import Supervised, build_terms

CLASSES = {"cls": ["a", "b", "c"], "seg": ["bg", "x", "y"], "det": ["p", "q"]}


def make_objective(dtype, teachers=True, **changes):
    """A student's objective as a training builds it. changes: sections of the config, as dicts."""
    torch.manual_seed(0)
    config = Config.model_validate(changes)
    setting = Setting(_architecture(TASKS), config, config.student)
    model = build_model(setting.architecture).to(dtype).eval()  # eval: batch-norm is frozen
    frozen = {task: build_model(_architecture((task,))).to(dtype).eval() for task in TASKS} if teachers else {}
    normaliser = LossNormaliser()
    normaliser.update(
        {"cls": 1.5, "seg": 0.7, "det": 3.0, "kd_cls": 0.3, "kd_seg": 0.5, "kd_det": 2.0}, first_epoch=True
    )
    weights = TaskWeights(TASKS).to(dtype)
    with torch.no_grad():
        weights.r.copy_(torch.tensor([0.3, -0.4, 1.0]))
    return Objective(
        model,
        Supervised(weights, setting),
        build_terms(setting, frozen, torch.device("cpu")),
        normaliser,
        schedule=config.student,
        precision=torch.float32,
    )


def _architecture(tasks):
    return Architecture("mobilenetv3_small_050", CLASSES, tasks, of_tasks={"boxes_per_cell": 2})


def teachers_of(objective):
    """The frozen networks that it asks, by task."""
    return dict(zip(TASKS, objective.terms["distilled"].frozen(), strict=True))


def make_batches(count, dtype):
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(count):
        images = {task: torch.rand(2, 3, 64, 64, generator=generator).to(dtype) for task in TASKS}
        masks = torch.randint(3, (2, 64, 64), generator=generator)
        masks[0, :40] = 255  # another number of labelled pixels in each image
        corner = torch.rand(2, 3, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 8 + torch.rand(2, 3, 2, generator=generator) * 20], -1)
        target = DetectionTarget(boxes, torch.tensor([[0, 1, -1], [1, -1, -1]]), torch.zeros(2, 3, dtype=torch.bool))
        batches.append(
            {
                "cls": TaskBatch(images["cls"], ClassLabels(torch.randint(3, (2,), generator=generator)), ["a", "b"]),
                "seg": TaskBatch(images["seg"], Masks(masks), ["c", "d"]),
                "det": TaskBatch(images["det"], target, ["e", "f"]),
            }
        )
    return batches


def join(batches):
    joined = {}
    for task in TASKS:
        parts = [b[task] for b in batches]
        columns = zip(*(tensors(p.target) for p in parts), strict=True)
        target = type(parts[0].target)(*map(torch.cat, columns))
        joined[task] = TaskBatch(torch.cat([p.images for p in parts]), target, [n for p in parts for n in p.names])
    return joined


def gradients(objective):
    named = [*objective.model.named_parameters(), *objective.task_weights.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_buffer_equals_one_graph_and_one_big_batch(dtype, tolerance, monkeypatch):
    if dtype is torch.float64:
        # The losses are computed in float32 on purpose; for this test they follow the maps' type.
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    objective = make_objective(dtype)
    batches = make_batches(3, dtype)

    gather_buffer(objective, batches, 3)
    buffered = gradients(objective)

    one_graph = copy.deepcopy(objective)
    one_graph.model.zero_grad(), one_graph.task_weights.zero_grad()
    (sum(one_graph(batch)[0] for batch in batches) / 3).backward()

    big = copy.deepcopy(objective)
    big.model.zero_grad(), big.task_weights.zero_grad()
    big(join(batches))[0].backward()

    largest = max(float(g.abs().max()) for g in buffered.values())
    assert largest > 0
    for other in (gradients(one_graph), gradients(big)):
        assert other.keys() == buffered.keys()
        for name, grad in buffered.items():
            difference = (grad - other[name]).norm()
            # Relative to the tensor, or to the whole gradient for tensors that are almost without one.
            assert difference <= tolerance * max(float(grad.norm()), 1e-3 * largest), name


def test_an_absent_task_adds_exactly_zero():
    objective = make_objective(torch.float32, teachers=False)
    batch = make_batches(1, torch.float32)[0]
    del batch["det"]
    total, parts = objective(batch)
    w = objective.task_weights().detach()
    expected = w[0] * parts["cls"] / 1.5 + w[1] * parts["seg"] / 0.7
    torch.testing.assert_close(total.detach(), expected, rtol=1e-6, atol=0)
    total.backward()
    assert objective.model.identity["det"].weight.grad is None or not objective.model.identity["det"].weight.grad.any()
    assert not objective.model.head.grouped.weight.grad.view(4, -1)[2].any()


def test_lambda_scales_the_mean_of_the_normalised_terms():
    objective = make_objective(torch.float32)
    total, parts = objective(make_batches(1, torch.float32)[0])
    w, m = objective.task_weights().detach(), objective.normaliser.mean
    tasks = sum(w[i] * parts[t] / m[t] for i, t in enumerate(TASKS))
    distilled = sum(parts[f"kd_{t}"] / m[f"kd_{t}"] for t in TASKS)
    torch.testing.assert_close(total.detach(), tasks + 2.0 / 3 * distilled)


def test_teachers_label_the_images_of_all_tasks_on_request():
    batch = make_batches(1, torch.float32)[0]
    for changes, images in ({}, 2), ({"distill": {"images": "all"}}, 6):
        objective, seen = make_objective(torch.float32, **changes), []
        for task, teacher in teachers_of(objective).items():
            teacher.register_forward_hook(lambda m, args, out, task=task, seen=seen: seen.append((task, len(args[0]))))
        objective(batch)
        assert seen == [(t, images) for t in TASKS]


def test_the_teacher_sees_the_very_view_of_the_student():
    objective = make_objective(torch.float32)
    batch, got = make_batches(1, torch.float32)[0], {}
    for task, teacher in teachers_of(objective).items():
        teacher.register_forward_hook(lambda m, args, out, task=task: got.update({task: args[0].clone()}))
    objective(batch)
    for task in TASKS:
        assert torch.equal(got[task], batch[task].images)
