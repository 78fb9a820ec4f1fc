"""The backbone's own classifier as a teacher."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from onehead_cli.errors import ConfigError
from onehead_cli.network.imagenet import imagenet_cells, imagenet_classifier, imagenet_linear, imagenet_rows
from onehead_cli.network.weights import load_pretrained
from onehead_cli.wording import IMAGENETTE_NAMES


def test_imagenette_s_rows_are_the_published_ones():
    assert imagenet_rows(list(IMAGENETTE_NAMES)) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_imagenet_s_own_names_are_the_same_rows():
    assert imagenet_rows(list(IMAGENETTE_NAMES.values())) == imagenet_rows(list(IMAGENETTE_NAMES))
    assert imagenet_rows(["Golf_Ball", "golf-ball", " french  horn", "petrol pump", "N01440764"]) == [
        *(574, 574, 566, 571, 0)
    ]


def test_a_class_that_imagenet_does_not_know_is_one_line():
    with pytest.raises(ConfigError, match=r"^imagenet_teacher: arrow is not an ImageNet class.*tench.*$"):
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


def test_the_cells_logits_are_timm_s_on_average():
    """EfficientNet's classifier is linear from the pooled features on, so pooling may come before or after it."""
    name = "tf_efficientnet_lite0"
    cells = imagenet_cells(name, None)
    whole = timm.create_model(name, pretrained=False).eval()
    load_pretrained(whole, name, None)
    images = torch.rand(2, 3, 96, 64)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        said, expected = cells(images), whole((images - mean) / std)
    assert said.shape == (2, 1000, 3, 2)
    torch.testing.assert_close(said.mean((2, 3)), expected, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in cells.parameters()) and not cells.training


def test_cells_go_on_from_a_trunk():
    cells = imagenet_cells("tf_efficientnet_lite0", None)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = cells(images)
        cells.backbone.freeze(3)
        trunk = cells.backbone.trunk((images - cells.mean) / cells.std)
        assert trunk.shape[-1] == 8 and torch.equal(cells.read(trunk), expected)


def test_a_cell_alone_is_classified_as_an_image_would_be(tmp_path):
    """MobileNetV3 has a layer that is not linear between the pooling and the classifier."""
    name = "mobilenetv3_small_050"
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    cells, images = imagenet_cells(name, tmp_path / "weights.safetensors"), torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = whole((images - mean) / std)
        torch.testing.assert_close(cells(images)[:, :, 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_backbone_without_one_linear_classifier_is_one_line():
    with pytest.raises(ConfigError, match="repvit_m0_9 has no linear classifier over its features"):
        imagenet_cells("repvit_m0_9", None)
