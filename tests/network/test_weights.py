"""Where the backbone's weights come from, and that they are never silently random."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from onehead_cli.errors import CheckpointError
from onehead_cli.network import weights
from onehead_cli.network.backbone import create_backbone
from onehead_cli.network.weights import load_pretrained

LITE0 = "tf_efficientnet_lite0"


def test_packaged_lite0_file_fills_every_tensor_in_order():
    backbone = create_backbone(LITE0)
    assert "efficientnet-lite0" in load_pretrained(backbone.body, LITE0, None)
    raw = weights._read(weights._packaged_file(LITE0))
    values = [v for k, v in raw.items() if not k.endswith("num_batches_tracked")]
    torch.testing.assert_close(backbone.body.conv_stem.weight, values[0])
    torch.testing.assert_close(backbone.body.bn1.running_var, values[4])
    # The classifier's two tensors come last; before them stand conv_head and its norm.
    torch.testing.assert_close(backbone.body.bn2.running_var, values[-3])
    assert backbone.body.bn2.running_var.std() > 0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_with_timm_names(tmp_path, suffix):
    torch.manual_seed(1)
    state = timm.create_model("mobilenetv3_small_050").state_dict()
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    backbone = create_backbone("mobilenetv3_small_050")
    load_pretrained(backbone.body, "mobilenetv3_small_050", path)
    torch.testing.assert_close(backbone.body.conv_stem.weight, state["conv_stem.weight"])


def test_a_file_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"w\.pth does not fit"):
        load_pretrained(create_backbone(LITE0).body, LITE0, path)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        load_pretrained(create_backbone(LITE0).body, LITE0, path)
    assert not marker.exists()


def test_without_hub_the_error_names_three_ways_out(monkeypatch):
    real = timm.create_model

    def no_hub(name, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no route")
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(weights.timm, "create_model", no_hub)
    monkeypatch.setattr(weights, "_resolves", lambda host: True)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(create_backbone("mobilenetv3_small_050").body, "mobilenetv3_small_050", None)
    for way in ("--backbone-weights", "tf_efficientnet_lite0", "--no-pretrained"):
        assert way in str(error.value)
