"""The commands with `--device cuda` on a pretended GPU: no tensor of the CPU is mixed with the GPU's anywhere."""

import os
import signal

import pytest
import timm
import torch
from loading import tensors
from pretended_device import PEAK_BYTES, DeviceTensor, pretended_gpu
from runs import assert_same_run, at_step, lines
from tiny import TINY

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config
from onehead_cli.data.listings import Listings
from onehead_cli.registry import TASKS
from onehead_cli.training.estimate import estimate_training
from onehead_cli.training.setup import architecture_for, build_loop

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
    )
    with pytest.MonkeyPatch.context() as patch, pretended_gpu():
        # ImageNet does not know the drawn classes.
        patch.setattr("onehead_cli.network.imagenet.imagenet_rows", lambda classes: list(range(len(classes))))
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
        lambda here: here[0].index_put_((torch.tensor([1, 1]),), here[0, :2]),
    ],
)
def test_the_pretended_gpu_refuses_what_a_gpu_refuses(mixed):
    with pretended_gpu():
        here = torch.rand(3, 4).to("cuda")
        assert here.device.type == "cuda" and isinstance(here + 1, DeviceTensor)
        with pytest.raises((RuntimeError, TypeError), match=r"device|numpy\(\)|twice"):
            mixed(here)


def test_the_pretended_gpu_allows_what_a_gpu_allows():
    numbers = torch.rand(3, 4)
    with pretended_gpu():
        here = numbers.to("cuda").requires_grad_()
        (here * torch.tensor(2.0) * here[torch.tensor([2])]).sum().backward()
        assert torch.equal(here.detach().cpu(), numbers) and isinstance(here.grad, DeviceTensor)
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.nn.functional.linear(here, here).dtype is torch.bfloat16


def test_a_gpu_that_cannot_compute_is_one_line(monkeypatch, capsys):
    def refuse(*size, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", refuse)
    assert run(["profile", "--backbone", NAME, "--no-pretrained", "--device", "cuda"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "no kernel image is available" in message and "--device cpu" in message


def test_images_masks_and_mini_batches_are_on_the_gpu(tiny_data):
    config = Config.model_validate(
        {
            "device": "cuda",
            "data": {"root": tiny_data, "image_size": 64},
            "model": {"backbone": NAME, "pretrained": False},
            "student": {"batch_size": 12, "boxes_from_masks": True},
            "distill": {"lambda": 0},
        }
    )
    with pretended_gpu():
        listings = Listings(config)
        architecture = architecture_for(config, TASKS, listings)
        loop = build_loop(architecture, config, teachers={}, listings=listings, reporter=Console(quiet=True))
        batch = loop.loader.minibatch(0)
        estimate = estimate_training(loop)
        kept = [part for data in loop.loader.splits.values() for part in data._store._fitted.values()]
        kept += loop.loader.splits["seg"]._masks.values()
        assert len(kept) == 4 * 12 and all(isinstance(each, DeviceTensor) for each in kept)
    on_device = [part.images for part in batch.values()]
    on_device += [each for part in batch.values() for each in tensors(part.target)]
    on_device += tensors(batch["seg"].also["det"])
    assert len(on_device) == 3 + (1 + 1 + 3) + 3 and all(isinstance(each, DeviceTensor) for each in on_device)
    parameters = sum(each.numel() for each in loop.objective.model.parameters())
    assert estimate.memory_bytes == PEAK_BYTES + 2 * 4 * parameters + 12 * 64 * 64 * (3 * 3 + 1)  # masks too


def test_teachers_and_student_train(chain):
    for name in ("cls", "seg", "det", "all"):
        assert load_checkpoint(chain / f"{name}_best.pth").epoch == 1
    steps = [each for each in lines(chain / "all.jsonl") if each["kind"] == "step"]
    assert set(steps[0]["losses"]) == {"cls", "seg", "det", "kd_cls", "kd_seg", "kd_det", "kd_imagenet"}


def test_what_was_trained_on_a_gpu_is_evaluated_predicted_and_profiled_there(chain, tiny_data, capsys):
    where = ["--output", str(chain), "--device", "cuda", "--quiet"]
    with pretended_gpu():
        assert (
            run(["evaluate", "--no-report", "--data", str(tiny_data), *where, *settings("evaluation.resamples=10")])
            == 0
        )
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
