"""The backbone's own classifier as a teacher."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from onehead_cli.datasets.layout import IMAGENETTE_NAMES
from onehead_cli.errors import ConfigError
from onehead_cli.model.imagenet import imagenet_classifier, imagenet_linear, imagenet_rows


def test_imagenette_s_rows_are_the_published_ones():
    assert imagenet_rows(list(IMAGENETTE_NAMES)) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_imagenet_s_own_names_are_the_same_rows():
    assert imagenet_rows(list(IMAGENETTE_NAMES.values())) == imagenet_rows(list(IMAGENETTE_NAMES))
    assert imagenet_rows(["Golf_Ball", "golf-ball", " french  horn", "petrol pump", "N01440764"]) == [
        *(574, 574, 566, 571, 0)
    ]


def test_a_class_that_imagenet_does_not_know_is_one_line():
    with pytest.raises(ConfigError, match=r"^imagenet_teacher: arrow is no ImageNet class.*tench.*$"):
        imagenet_rows(["tench", "arrow"])


def test_a_name_of_two_classes_is_refused_with_their_ids():
    """The bird and the machine."""
    with pytest.raises(ConfigError, match=r"key: ImageNet has several classes named Crane.*n02012849, n03126707$"):
        imagenet_rows(["Crane"], asked_by="key")


def test_a_classifier_that_is_not_linear_in_the_features_is_refused(tmp_path):
    """ConvNeXt normalises the mean of its features before the last layer."""
    torch.save(timm.create_model("convnext_atto", pretrained=False).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="key: convnext_atto has no linear ImageNet-1k classifier"):
        imagenet_linear("convnext_atto", tmp_path / "weights.pth", asked_by="key")


def test_logits_are_those_of_the_whole_network(tmp_path):
    """Against timm's own model and its own normalisation."""
    name = "mobilenetv3_small_050"
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    classifier = imagenet_classifier(name, ["n03888257", "n01440764"], tmp_path / "weights.safetensors")
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = whole((images - mean) / std)[:, [701, 0]]
        assert torch.allclose(classifier(images), expected, atol=1e-6)
    assert not any(p.requires_grad for p in classifier.parameters()) and not classifier.training


def test_the_packaged_weights_know_their_classes():
    """The packaged file has other names in timm's order; a wrong order would not tell the classes apart."""
    classifier = imagenet_classifier("tf_efficientnet_lite0", list(IMAGENETTE_NAMES), None)
    assert classifier(torch.rand(1, 3, 64, 64)).shape == (1, 10)
