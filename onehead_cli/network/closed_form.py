"""Classification in closed form: the backbone's ImageNet classifier, written into the network's own layers.

Per class there are a logit z and its negative -z among the last upsampled channels. The neck has two SiLUs, and
SiLU(z) - SiLU(-z) = z: the 1x1 convolution of the neck takes that difference, and its negative, and the identity
mapping takes it once more. What the head would add is cancelled. The classifier is linear, so the mean of the cells'
logits is what it says of the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onehead_cli.config.sections import ModelConfig
from onehead_cli.errors import ConfigError
from onehead_cli.network.imagenet import imagenet_linear, imagenet_rows
from onehead_cli.network.norm_statistics import measure_norms
from onehead_cli.network.onehead import NECK_CHANNELS, Neck, OneHead
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.task import get_task

#: Two channels of the neck per class.
MOST_CLASSES = NECK_CHANNELS // 2


@dataclass(frozen=True)
class ClosedForm:
    """What is written, for K classes: z and -z of each.

    task: whose classes they are.
    weight: of the classifier, float [2K, C]. bias: float [2K].
    mean, variance: of the cells' logits without the bias, over clean images, float [2K].
    """

    task: str
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor


@torch.no_grad()
def closed_form(
    model: OneHead, architecture: Architecture, config: ModelConfig, batches: Iterable[Tensor]
) -> ClosedForm:
    """The classifier of the dataset's classes, with its statistics for this network; to measure them its rows are
    written into the upsampling.

    Args:
        batches: clean images, float [B, 3, S, S] in 0..1, of the kind that the network learns from.

    Raises:
        ConfigError: there is no classification, it has more than 128 classes or one that ImageNet does not know, or
            the backbone's classifier is not linear.
        CheckpointError: there are no weights for the backbone.
    """
    key = "model.imagenet_classes"
    task = image_task(architecture.classes)
    if task is None:
        raise ConfigError(f"{key}: data.tasks has no classification")
    names = architecture.classes[task]
    if len(names) > MOST_CLASSES:
        raise ConfigError(f"{key}: the network has room for {MOST_CLASSES} classes, not for {len(names)}")
    rows = imagenet_rows(names, asked_by=key)
    weight, bias = imagenet_linear(architecture.backbone, config.backbone_weights, asked_by=key)
    weight, bias = (_both_signs(t[rows].to(model.mean.device)) for t in (weight, bias))
    model.upsample.conv.weight[-4 * len(bias) :] = weight.repeat_interleave(4, dim=0)[..., None, None]
    [statistics] = measure_norms(model, [model.upsample.norm], batches)
    last = slice(-4 * len(bias), None, 4)
    return ClosedForm(task, weight, bias, statistics.mean[last], statistics.variance[last])


def image_task(tasks: Iterable[str]) -> str | None:
    """The first of these tasks whose classes are of whole images; None where there is none."""
    return next((task for task in tasks if get_task(task).names_images), None)


@torch.no_grad()
def write_classes(model: OneHead, form: ClosedForm) -> None:
    """Make the mean of the class map what the classifier says; where classification is another network's task, only
    the upsampled channels are written, so that all teachers keep them in common.

    The channels that are used are the last ones, two per class, of the upsampling and of the neck. Other tasks keep
    what they had, but for these channels of the upsampling.
    """
    used = len(form.bias)
    _write_upsample(model, form)
    if form.task not in model.tasks:
        return
    neck, out = model.necks[form.task], model.identity[form.task]
    assert isinstance(neck, Neck) and isinstance(out, nn.Conv2d) and out.bias is not None
    difference = torch.eye(used // 2, device=form.bias.device)
    difference = torch.cat([difference, -difference], dim=1)  # [K, 2K]: of z and -z
    neck.depthwise.weight[-used:] = 0
    neck.depthwise.weight[-used:, :, 1, 1] = 1
    _pass_through(neck.norm1, form.mean + form.bias, form.variance)
    neck.pointwise.weight[-used:] = 0
    neck.pointwise.weight[-used:, -used:, 0, 0] = _both_signs(difference)
    _pass_through(neck.norm2, form.mean + form.bias, form.variance)
    out.weight.zero_()
    out.weight[:, -used:, 0, 0] = difference
    out.bias.zero_()
    _cancel_head(model, form.task)


def _write_upsample(model: OneHead, form: ClosedForm) -> None:
    """Four equal rows per channel, which PixelShuffle deals to four cells."""
    weight, bias, mean, variance = (
        t.repeat_interleave(4, dim=0) for t in (form.weight, form.bias, form.mean, form.variance)
    )
    model.upsample.conv.weight[-len(bias) :] = weight[..., None, None]
    _pass_through(model.upsample.norm, mean, variance)
    model.upsample.norm.bias[-len(bias) :] += bias


def _pass_through(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Let the last channels through as they are; in training too, as far as a mini-batch has these statistics."""
    assert norm.running_mean is not None and norm.running_var is not None
    last = slice(-len(mean), None)
    norm.running_mean[last], norm.running_var[last] = mean, variance
    norm.weight[last], norm.bias[last] = (variance + norm.eps).sqrt(), mean


def _cancel_head(model: OneHead, task: str) -> None:
    """Let the task's own group be minus the group that all share, which stays as the other tasks know it."""
    head = model.head
    own, shared = (
        slice(group * head.width, (group + 1) * head.width) for group in (head.tasks.index(task), len(head.tasks))
    )
    for kind in ("weight", "bias"):
        project, grouped = getattr(head.project, kind), getattr(head.grouped, kind)
        project[own], grouped[own] = project[shared], -grouped[shared]


def _both_signs(t: Tensor) -> Tensor:
    return torch.cat([t, -t])
