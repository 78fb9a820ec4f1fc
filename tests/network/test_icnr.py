"""The upsampling that starts even."""

import torch

from onehead_cli.config.sections import ModelConfig
from onehead_cli.network.onehead import build_pretrained
from onehead_cli.tasks.architecture import Architecture

ARCHITECTURE = Architecture("mobilenetv3_small_050", {"cls": ["a", "b"]}, ("cls",), of_tasks={"boxes_per_cell": 2})


def upsampled(icnr):
    torch.manual_seed(0)
    model = build_pretrained(ARCHITECTURE, ModelConfig(pretrained=False, icnr=icnr))
    torch.manual_seed(1)
    features = torch.randn(2, model.backbone.out_channels, 3, 3)
    with torch.no_grad():
        return model, model.upsample(features)  # in training, where the norms read the mini-batch


def test_the_four_cells_of_a_square_are_equal():
    _, even = upsampled(icnr=True)
    squares = even.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)  # [B, 640, 3, 3, 4]
    torch.testing.assert_close(squares, squares[..., :1].expand_as(squares), atol=1e-5, rtol=0)
    assert even.std() > 0.9
    _, uneven = upsampled(icnr=False)
    assert not torch.allclose(uneven[..., 0, 0], uneven[..., 0, 1])


def test_nothing_else_changes():
    changed, plain = (upsampled(icnr)[0].state_dict() for icnr in (True, False))
    # The norm's statistics are those of the mini-batch that `upsampled` has shown it.
    expected = ["upsample.conv.weight", "upsample.norm.running_mean", "upsample.norm.running_var"]
    assert [key for key in plain if not torch.equal(plain[key], changed[key])] == expected
