"""Classification in closed form: the network against the ImageNet classifier itself."""

from types import SimpleNamespace

import pytest
import torch

from onehead_cli.commands.console import Console
from onehead_cli.config.sections import Config, ModelConfig
from onehead_cli.data.layout import VOC_CLASSES
from onehead_cli.errors import ConfigError
from onehead_cli.network.closed_form import closed_form, write_classes
from onehead_cli.network.imagenet import imagenet_classifier
from onehead_cli.network.onehead import build_pretrained
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture
from onehead_cli.tasks.classification.pooling import pool_classes
from onehead_cli.training.start import give_first_weights
from onehead_cli.wording import IMAGENETTE_NAMES

BACKBONE = "tf_efficientnet_lite0"
CLASSES = {"cls": list(IMAGENETTE_NAMES), "seg": list(VOC_CLASSES), "det": [f"d{i}" for i in range(10)]}


@pytest.fixture(scope="module")
def images():
    """Two images of shapes and one of noise, float [3, 3, 96, 96]."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = ((x - 40) ** 2 + (y - 50) ** 2 < 900).float()
    stripes = ((x // 8) % 2).float()
    noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    return torch.stack([disc.expand(3, -1, -1), torch.stack([stripes, 1 - stripes, disc]), noise])


@pytest.fixture(scope="module")
def said(images):
    """The classifier's own logits."""
    return imagenet_classifier(BACKBONE, CLASSES["cls"], None)(images)


def network(tasks, *, skip=False):
    torch.manual_seed(len(tasks))
    architecture = Architecture(BACKBONE, CLASSES, tuple(tasks), skip=skip, of_tasks={"boxes_per_cell": 2})
    return architecture, build_pretrained(architecture, ModelConfig())


def disturb_first_channels(model):
    """What a map of stride 16 may at most do to the upsampled features."""

    def disturb(_, __, features):
        features = features.clone()
        features[:, :320] += 3 * torch.randn_like(features[:, :320])
        return features

    model.upsample.register_forward_hook(disturb)


def logits(model, images):
    with torch.no_grad():
        return pool_classes(model.eval()(images)["cls"], 0.0)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("tasks", [("cls",), TASKS])
def test_the_pooled_logits_are_the_classifier_s(images, said, tasks, skip):
    architecture, model = network(tasks, skip=skip)
    if skip:
        disturb_first_channels(model)
    write_classes(model, closed_form(model, architecture, ModelConfig(), [torch.rand(2, 3, 64, 64)]))
    assert said.abs().max() > 1
    torch.testing.assert_close(logits(model, images), said, atol=1e-4, rtol=0)


def test_so_they_are_after_the_teachers_were_merged_and_the_norms_measured_anew(images, said):
    config = Config.model_validate({"model": {"imagenet_classes": True}, "student": {"renew_norms": True}})
    loader = SimpleNamespace(clean=lambda position: images.roll(position, 0)[:2])
    given = {"loader": loader, "reporter": Console(quiet=True)}
    teachers = {}
    for task in TASKS:
        architecture, teachers[task] = network((task,))
        give_first_weights(teachers[task], architecture, config, teachers={}, **given)
        for parameter in teachers[task].parameters():  # as if it had been trained
            parameter.data += 0.01 * torch.randn_like(parameter)
    architecture, student = network(TASKS)
    give_first_weights(student, architecture, config, teachers=teachers, **given)
    # The backbone is the mean of the teachers', so the classifier reads that.
    classifier = imagenet_classifier(BACKBONE, CLASSES["cls"], None)
    classifier.body.load_state_dict(student.backbone.body.state_dict(), strict=False)
    torch.testing.assert_close(logits(student, images), classifier(images), atol=1e-4, rtol=0)
    assert not torch.allclose(classifier(images), said, atol=0.1)


def test_training_and_evaluation_agree(images, said):
    """On a mini-batch with the measured statistics; its variance is the biased one, of 27 cells here."""
    architecture, model = network(("cls",))
    write_classes(model, closed_form(model, architecture, ModelConfig(), [images]))
    model.train().backbone.eval()
    with torch.no_grad():
        found = pool_classes(model(images)["cls"], 0.0)
    torch.testing.assert_close(found, said, rtol=0, atol=0.02 * float(said.abs().max()))


def test_other_tasks_keep_what_they_had():
    architecture, model = network(TASKS)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    write_classes(model, closed_form(model, architecture, ModelConfig(), [torch.rand(2, 3, 64, 64)]))
    for key, value in model.state_dict().items():
        changed = (value != before[key]).flatten(1).any(1) if value.ndim > 1 else value != before[key]
        rows = set(changed.nonzero().flatten().tolist()) if value.ndim else set()
        width, neck = model.head.width, ("norm1", "depthwise")
        allowed = {
            "upsample": range(4 * (640 - 20), 4 * 640),
            "necks.cls": range(640 - 20, 640) if any(part in key for part in neck) else range(256 - 20, 256),
            "identity.cls": range(10),
            "head": range(width),  # the group of classification
        }
        assert rows <= {row for part, some in allowed.items() if key.startswith(part) for row in some}, key


def test_a_teacher_of_another_task_has_the_same_upsampling():
    batches = [torch.rand(2, 3, 64, 64)]
    found = []
    for task in ("cls", "seg"):
        architecture, model = network((task,))
        write_classes(model, closed_form(model, architecture, ModelConfig(), batches))
        found.append(model.upsample.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"seg": ["a", "b"]}, "data.tasks has no classification"),
        ({"cls": ["tench"] * 129}, "room for 128 classes, not for 129"),
        ({"cls": ["tench", "arrow"]}, "model.imagenet_classes: arrow is not an ImageNet class"),
    ],
)
def test_classes_that_cannot_be_used_are_one_line(classes, message):
    architecture = Architecture(BACKBONE, classes, tuple(classes), of_tasks={"boxes_per_cell": 2})
    with pytest.raises(ConfigError, match=message):
        closed_form(None, architecture, ModelConfig(), [])


def test_as_many_classes_as_fit(images):
    ids = [name for name, _ in zip(_all_ids(), range(128), strict=False)]
    architecture = Architecture(BACKBONE, {"cls": ids}, ("cls",), of_tasks={"boxes_per_cell": 2})
    model = build_pretrained(architecture, ModelConfig())
    write_classes(model, closed_form(model, architecture, ModelConfig(), [images]))
    torch.testing.assert_close(
        logits(model, images), imagenet_classifier(BACKBONE, ids, None)(images), atol=1e-4, rtol=0
    )


def _all_ids():
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo("imagenet-1k").label_names()
