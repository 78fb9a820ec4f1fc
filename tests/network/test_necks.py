"""Dropout of the necks' channels."""

import torch

from onehead_cli.config.sections import ModelConfig
from onehead_cli.network.onehead import Neck, build_model, build_pretrained
from onehead_cli.tasks.architecture import Architecture


def test_whole_channels_are_left_out_in_training_alone():
    torch.manual_seed(0)
    neck, plain = Neck(), Neck()
    plain.load_state_dict(neck.state_dict())
    neck.dropout = 0.25
    x = torch.randn(8, 640, 4, 4)
    expected, found = plain(x), neck(x)
    gone = (found == 0).flatten(2).all(2)  # [8, 256]
    assert 0.2 < gone.float().mean() < 0.3 and len({tuple(row.tolist()) for row in gone}) == 8
    torch.testing.assert_close(found[~gone], expected[~gone] / 0.75)
    assert torch.equal(neck.eval()(x), plain.train(False)(x))


def test_nothing_is_drawn_without_it():
    neck, before = Neck(), torch.get_rng_state()
    neck(torch.zeros(2, 640, 2, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_of_the_training_not_of_the_network():
    architecture = Architecture("mobilenetv3_small_050", {"seg": ["bg", "x"]}, ("seg",), of_tasks={"boxes_per_cell": 2})
    trained = build_pretrained(architecture, ModelConfig(pretrained=False, neck_dropout=0.5))
    used = build_model(architecture)
    assert trained.necks["seg"].dropout == 0.5 and used.necks["seg"].dropout == 0.0
    assert list(trained.state_dict()) == list(used.state_dict())
