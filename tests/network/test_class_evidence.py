"""Rows of the ImageNet classifier for the classes of segmentation and detection."""

import torch
from timm.data.imagenet_info import ImageNetInfo

from onehead_cli.config.sections import ModelConfig
from onehead_cli.data.layout import VOC_CLASSES
from onehead_cli.network.class_evidence import evidence_rows, write_evidence
from onehead_cli.network.imagenet import imagenet_classifier
from onehead_cli.network.onehead import build_pretrained
from onehead_cli.tasks.architecture import Architecture

COCO = ["person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"]
CLASSES = {"cls": ["a"], "seg": list(VOC_CLASSES), "det": COCO}


def names_of(rows):
    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_description(row, detailed=False).split(",")[0] for row in rows}


def test_the_rows_mean_what_the_class_says():
    [cars] = evidence_rows({"det": ["car"]})
    assert {"sports car", "convertible", "cab", "limousine"} < names_of(cars)
    [planes], [sofas], [zebras] = (evidence_rows({"seg": [name]}) for name in ("aeroplane", "Couch", "zebra"))
    assert (names_of(planes), names_of(sofas)) == ({"airliner", "warplane"}, {"studio couch"})
    assert names_of(zebras) == {"zebra"}
    [dogs], [cats], [birds] = (evidence_rows({"seg": [name]}) for name in ("dog", "cat", "bird"))
    assert {"Chihuahua", "Mexican hairless"} < names_of(dogs) and len(dogs) == 118
    assert names_of(cats) == {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
    assert {"cock", "albatross", "macaw", "goose"} < names_of(birds) and "tusker" not in names_of(birds)


def test_a_class_of_both_tasks_counts_once_and_an_unknown_one_not_at_all():
    both = evidence_rows(CLASSES)
    assert len(both) == 20 + 2  # VOC's, with a truck and a traffic light
    assert evidence_rows({"cls": ["dog"], "seg": ["background", "thing"]}) == []


def test_the_channels_hold_the_mean_of_the_logits_and_nothing_else_changes():
    """Against the classifier itself, on a real backbone."""
    model = build_pretrained(
        Architecture("tf_efficientnet_lite0", CLASSES, ("seg",), of_tasks={"boxes_per_cell": 2}), ModelConfig()
    ).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    write_evidence(model, CLASSES, None)
    wanted = [*range(4 * 320, 4 * (320 + 22))]
    changed = [key for key, value in model.state_dict().items() if not torch.equal(before[key], value)]
    differs = (model.upsample.conv.weight != before["upsample.conv.weight"]).flatten(1).any(1)
    assert changed == ["upsample.conv.weight"] and differs.nonzero().flatten().tolist() == wanted

    images = torch.rand(1, 3, 64, 64)
    whole = imagenet_classifier("tf_efficientnet_lite0", ["n04552348", "n02690373"], None)  # warplane, airliner
    with torch.no_grad():
        seen = []
        model.upsample.conv.register_forward_hook(lambda _, __, out: seen.append(out))
        model(images)
        found = seen[0][:, 4 * 320 : 4 * 321].mean((2, 3))  # aeroplane comes first
        expected = (whole(images) - whole.body.classifier.bias[whole.rows]).mean()
    torch.testing.assert_close(found, expected.expand(1, 4), atol=1e-5, rtol=1e-5)
