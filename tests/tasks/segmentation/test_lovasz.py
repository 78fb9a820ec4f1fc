"""The Lovasz-softmax loss against numbers worked out by hand and against another form of the same extension."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onehead_cli.tasks.segmentation.loss import segmentation_loss
from onehead_cli.tasks.segmentation.lovasz import lovasz_of_probabilities, lovasz_softmax


def choquet(probabilities, labels):
    """The Lovasz extension as an integral over thresholds: of the Jaccard loss of the pixels whose error is above."""
    kept = [(row, label) for row, label in zip(probabilities, labels, strict=True) if label != 255]
    losses = []
    for c in sorted({label for _, label in kept}):
        errors = [(1 - row[c] if label == c else row[c], label == c) for row, label in kept]
        total, below = 0.0, 0.0
        for threshold in sorted({error for error, _ in errors}):
            wrong = [inside for error, inside in errors if error >= threshold]
            union = sum(inside for _, inside in errors) + sum(not inside for inside in wrong)
            total += (threshold - below) * len(wrong) / union
            below = threshold
        losses.append(total)
    return sum(losses) / max(len(losses), 1)


def test_three_pixels_by_hand():
    probabilities = torch.tensor([[[0.1, 0.6, 0.8], [0.9, 0.4, 0.2]]])
    # Class 1: errors .6 (inside), .2 (outside), .1 (inside); the Jaccard loss grows to 1/2, 2/3, 1.
    one = 0.6 / 2 + 0.2 / 6 + 0.1 / 3
    # Class 0: errors .6 (outside), .2 (inside), .1 (outside); it grows to 1/2, 1, 1.
    zero = 0.6 / 2 + 0.2 / 2
    assert lovasz_of_probabilities(probabilities, torch.tensor([[1, 1, 0]])).item() == pytest.approx((one + zero) / 2)


@given(
    rows=st.lists(
        st.tuples(st.lists(st.integers(1, 20), min_size=3, max_size=3), st.sampled_from([0, 1, 2, 255])),
        min_size=1,
        max_size=9,
    )
)
def test_it_is_the_integral_of_the_jaccard_loss_over_thresholds(rows):
    probabilities = [[value / sum(scores) for value in scores] for scores, _ in rows]
    labels = [label for _, label in rows]
    found = lovasz_of_probabilities(torch.tensor(probabilities).double().T[None], torch.tensor([labels]))
    assert found.item() == pytest.approx(choquet(probabilities, labels), abs=1e-6)


def test_a_sure_prediction_costs_one_minus_the_mean_iou_of_the_classes_present():
    labels, said = torch.tensor([[0, 0, 0, 1, 1, 255]]), torch.tensor([[0, 0, 1, 1, 2, 2]])
    probabilities = torch.nn.functional.one_hot(said, 4).float().transpose(1, 2)
    # Class 0: 2 of 3; class 1: 1 of 3. Classes 2 and 3 are not there.
    assert lovasz_of_probabilities(probabilities, labels).item() == pytest.approx(1 - (2 / 3 + 1 / 3) / 2)


def test_images_do_not_mix_and_void_has_no_gradient():
    torch.manual_seed(0)
    maps, masks = torch.randn(3, 4, 2, 2, requires_grad=True), torch.randint(4, (3, 8, 8))
    masks[0, :, 4:], masks[1] = 255, 255
    alone = [lovasz_softmax(maps[i : i + 1], masks[i : i + 1]).item() for i in range(3)]
    together = lovasz_softmax(maps, masks)
    assert together.tolist() == pytest.approx(alone, abs=1e-6) and together[1] == 0
    together.sum().backward()
    assert torch.isfinite(maps.grad).all() and maps.grad[0].any() and not maps.grad[1].any()
    probabilities = torch.rand(1, 2, 5, requires_grad=True)
    lovasz_of_probabilities(probabilities, torch.tensor([[0, 255, 1, 1, 255]])).sum().backward()
    assert probabilities.grad[0, :, [1, 4]].eq(0).all() and probabilities.grad[0, :, [0, 2, 3]].any(0).all()


def test_it_has_a_share_of_the_segmentation_loss():
    torch.manual_seed(0)
    maps, masks = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 16, 16))
    entropy, lovasz = segmentation_loss(maps, masks), lovasz_softmax(maps, masks)
    torch.testing.assert_close(segmentation_loss(maps, masks, lovasz=0.25), 0.75 * entropy + 0.25 * lovasz)
    assert torch.equal(segmentation_loss(maps, masks, lovasz=0.0), entropy)
