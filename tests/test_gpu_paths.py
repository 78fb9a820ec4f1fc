"""The commands with `--device cuda` on a pretended GPU: no tensor of the CPU is mixed with the GPU's anywhere."""

import os
import signal

import pytest
import timm
import torch
from pretended_device import DeviceTensor, pretended_gpu
from runs import assert_same_run, at_step, lines
from tiny import TINY

from onehead_cli.app import run
from onehead_cli.checkpoint import load_checkpoint

#: The smallest EfficientNet that timm has; its first stages can be frozen.
NAME = "test_efficientnet"
GPU = ["--device", "cuda", "--epochs", "1", *TINY]


def settings(*assignments):
    return [word for each in assignments for word in ("--set", each)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Options of a backbone whose "pretrained" weights are random."""
    weights = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME, pretrained=False).state_dict(), weights)
    return ["--backbone", NAME, "--backbone-weights", str(weights)]


@pytest.fixture(scope="module")
def chain(tiny_data, backbone, tmp_path_factory):
    """The output folder of teachers and a student that were trained with most of the choices, in bfloat16."""
    output = tmp_path_factory.mktemp("gpu")
    where = ["--data", str(tiny_data), "--output", str(output), *GPU, *backbone]
    both = ["boxes_from_masks=true", "imagenet_teacher=true", "label_smoothing=0.1"]
    common = settings("model.frozen_stages=2", "model.precision=auto")
    teachers = settings(*[f"teacher.{each}" for each in both])
    student = settings(
        *[f"student.{each}" for each in both],
        "student.from_teachers=true",
        "student.buffer_size=2",
        "distill.images=all",
        "distill.gate_masks=true",
    )
    with pytest.MonkeyPatch.context() as patch, pretended_gpu():
        # ImageNet does not know the drawn classes.
        patch.setattr("onehead_cli.model.imagenet.imagenet_rows", lambda classes: list(range(len(classes))))
        assert run(["train-teacher", "--task", "all", *where, *common, *teachers]) == 0
        assert run(["train-unified", *where, *common, *student]) == 0
    return output


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here: here + torch.ones(3, 4),
        lambda here: torch.ones(3, 4) + here,
        lambda here: torch.cat([here, torch.ones(1, 4)]),
        lambda here: torch.ones(()).add_(here.sum()),
        lambda here: torch.ones(3)[torch.tensor([1], device="cuda")],
        lambda here: torch.nn.functional.linear(here, torch.ones(2, 4)),
        lambda here: torch.zeros(3, 4, device=here.device).index_put_((torch.tensor([0]),), torch.ones(1, 4)),
        lambda here: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda here: here.numpy(),
    ],
)
def test_the_pretended_gpu_refuses_what_a_gpu_refuses(mixed):
    with pretended_gpu():
        here = torch.rand(3, 4).to("cuda")
        assert here.device.type == "cuda" and isinstance(here + 1, DeviceTensor)
        with pytest.raises((RuntimeError, TypeError), match=r"device|numpy\(\)"):
            mixed(here)


def test_the_pretended_gpu_allows_what_a_gpu_allows():
    numbers = torch.rand(3, 4)
    with pretended_gpu():
        here = numbers.to("cuda").requires_grad_()
        (here * torch.tensor(2.0) * here[torch.tensor([2])]).sum().backward()
        assert torch.equal(here.detach().cpu(), numbers) and isinstance(here.grad, DeviceTensor)
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.nn.functional.linear(here, here).dtype is torch.bfloat16


def test_teachers_and_student_train(chain):
    for name in ("cls", "seg", "det", "all"):
        assert load_checkpoint(chain / f"{name}_best.pth").epoch == 1
    steps = [each for each in lines(chain / "all.jsonl") if each["kind"] == "step"]
    assert set(steps[0]["losses"]) == {"cls", "seg", "det", "kd_cls", "kd_seg", "kd_det", "kd_imagenet"}


def test_what_was_trained_on_a_gpu_is_evaluated_predicted_and_profiled_there(chain, tiny_data, capsys):
    where = ["--output", str(chain), "--device", "cuda", "--quiet"]
    with pretended_gpu():
        assert run(["evaluate", "--data", str(tiny_data), *where]) == 0
        assert run(["predict", str(tiny_data / "mini_coco_det" / "test"), *where]) == 0
        profile = ["profile", "--checkpoint", str(chain / "all_best.pth"), "--device", "cuda", "--runs", "1", "--json"]
        assert run(profile) == 0
    assert "Pretended GPU" in capsys.readouterr().out


def test_the_other_losses_and_choices_train(tiny_data, tmp_path, backbone):
    choices = settings(
        "model.detection_loss=yolov1",
        "student.task_weights=fixed",
        "model.batch_norm=slow",
        "data.fit=letterbox",
        "data.cache_mb=0",
    )
    where = ["--data", str(tiny_data), "--output", str(tmp_path), "--lambda-distill", "0", *GPU, *backbone]
    with pretended_gpu(bf16=False):
        assert run(["train-unified", *where, *choices]) == 0


def test_an_interrupted_run_goes_on_to_the_same_end(tiny_data, tmp_path, backbone):
    command = ["train-teacher", "--task", "det", "--data", str(tiny_data), *GPU, *backbone, "--deterministic"]
    with pretended_gpu():
        assert run([*command, "--output", str(tmp_path / "whole")]) == 0
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert run([*command, "--output", str(tmp_path / "parts")]) == 143
        assert run([*command, "--output", str(tmp_path / "parts"), "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts", "det")
