"""Checkpoints in half precision: what is kept to the last bit, and what is not taken for one."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onehead_cli.app import run
from onehead_cli.checkpoint import half_precision
from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_half_precision
from onehead_cli.checkpoint.half_precision import to_half_precision
from onehead_cli.errors import CheckpointError, DamagedCheckpointError
from onehead_cli.network.onehead import build_model
from onehead_cli.registry import TASKS
from onehead_cli.tasks.architecture import Architecture

ARCHITECTURE = Architecture(
    "mobilenetv3_small_050", {"cls": ["é", "b"], "seg": ["a"], "det": ["d"]}, TASKS, of_tasks={"boxes_per_cell": 2}
)


def checkpoint_of(weights):
    return Checkpoint(
        name="all",
        architecture=ARCHITECTURE,
        weights=weights,
        preprocess={"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "image_size": 64, "fit": "resize"},
        thresholds={"cells": 0.3, "boxes": [0.25]},
        scores={"top1": 1 / 3, "miou": None},
        config={"seed": 7, "data": {"root": "data"}},
        epoch=4,
        seed=7,
        training={"step": 9},
        data={"manifest": "0" * 64},
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return checkpoint_of(build_model(ARCHITECTURE).state_dict())


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "net.safetensors"
    kernel = torch.tensor([[0.5, 1e-9], [70000.0, -0.1]])
    save_half_precision(path, checkpoint_of({"kernel": kernel, "bias": torch.tensor([0.1, 1e-30])}))
    return path


def test_all_but_the_training_state_comes_back(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_half_precision(path, network)
    back = load_checkpoint(path)
    for name in ("name", "architecture", "preprocess", "thresholds", "scores", "config", "epoch", "seed", "data"):
        assert getattr(back, name) == getattr(network, name)
    assert back.training == {} and network.training
    assert back.weights.keys() == network.weights.keys()
    for name, value in network.weights.items():
        found = back.weights[name]
        assert found.dtype == value.dtype and found.shape == value.shape
        is_vector = value.squeeze().ndim < 2
        assert torch.equal(found, value) if is_vector else torch.equal(found.bfloat16(), value.bfloat16())
    # What another reader of safetensors sees.
    with safetensors.safe_open(path, "pt") as file:
        assert {file.get_tensor(k).dtype for k, v in network.weights.items() if v.squeeze().ndim > 1} == {torch.float16}
    save_checkpoint(tmp_path / "net.pth", checkpoint_of(network.weights))
    assert path.stat().st_size < 0.6 * (tmp_path / "net.pth").stat().st_size
    again = tmp_path / "again.safetensors"
    save_half_precision(again, network)
    assert again.read_bytes() == path.read_bytes()


def test_outputs_in_bf16_are_those_of_the_original_to_the_last_bit(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_half_precision(path, network)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before, after = network.model()(images), load_checkpoint(path).model()(images)
    assert all(torch.equal(before[task], after[task]) for task in TASKS)


@given(hnp.arrays(np.float32, (2, 6), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_each_number_rounds_to_the_same_bfloat16_and_is_near(values):
    value = torch.from_numpy(values)
    stored = half_precision._halved("w", value)
    back = half_precision._restored(stored)["w"]
    assert stored["w"].dtype == torch.float16
    assert torch.equal(back.bfloat16().view(torch.int16), value.bfloat16().view(torch.int16))
    held = (value.abs() >= 2**-14) & (value.abs() <= 65504)
    assert bool(((back - value).abs() <= 2**-10 * value.abs())[held].all())


def test_a_flipped_byte_anywhere_is_noticed(tiny):
    content = tiny.read_bytes()
    load_checkpoint(tiny)
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1 << (place % 8)
        tiny.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"net\.safetensors") as caught:
            load_checkpoint(tiny)
        assert place < header or isinstance(caught.value, DamagedCheckpointError)


def test_a_file_cut_short_or_longer_is_noticed(tiny):
    content = tiny.read_bytes()
    for cut in [content[:length] for length in range(0, len(content), 7)] + [content + b"\0"]:
        tiny.write_bytes(cut)
        with pytest.raises(DamagedCheckpointError, match=r"net\.safetensors: damaged"):
            load_checkpoint(tiny)


class _Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def _with_header(metadata):
    return safetensors.torch.save({"a": torch.zeros(2, 2)}, metadata)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged, or not a safetensors file"),
        (b"not a safetensors file at all", "damaged, or not a safetensors file"),
        (pickle.dumps(_Payload()), "damaged, or not a safetensors file"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "damaged, or not a safetensors file"),
        (_with_header(None), "not a checkpoint of onehead; give backbone weights with --backbone-weights"),
        (_with_header({"format": "pt"}), "not a checkpoint of onehead"),
        (_with_header({"onehead": "[[1]]"}), "damaged"),
        (_with_header({"onehead": json.dumps({"sha256": "0" * 64})}), "its checksum does not match"),
        (_with_header({"onehead": json.dumps({"sha256": "\ud800"})}), "its checksum does not match"),
        (
            to_half_precision({"format": 1, "weights": {}}),
            "not a checkpoint of this version of onehead (format 2 or 3)",
        ),
        (
            to_half_precision({"format": 2, "weights": {}, "name": "all"}),
            "not a complete checkpoint ('architecture': Field required)",
        ),
    ],
)
def test_what_is_no_checkpoint_is_one_line(content, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.safetensors").write_bytes(content)
    (tmp_path / "a.png").write_bytes(b"")
    assert run(["predict", "a.png", "--checkpoint", "x.safetensors"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: x.safetensors: ") and words in line
    assert not Path("ran").exists()


def test_a_file_too_large_for_any_network_is_not_read(tiny, monkeypatch):
    monkeypatch.setattr(half_precision, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match=r"net\.safetensors: not a checkpoint: larger than"):
        load_checkpoint(tiny)


def test_places_outside_their_tensor_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    weights = {"a": torch.zeros(2, 2), "a.exact_at": torch.tensor([9]), "a.exact": torch.tensor([1.0])}
    path.write_bytes(to_half_precision({"format": 2, "weights": weights}))
    with pytest.raises(CheckpointError, match=r"x\.safetensors: not a readable checkpoint \(IndexError\)"):
        load_checkpoint(path)


def test_a_run_is_not_resumed_from_half_precision(tiny, tiny_data, tmp_path, capsys):
    command = ["train-unified", "--data", str(tiny_data), "--output", str(tmp_path), "--lambda-distill", "0"]
    tiny.rename(tmp_path / "all_last.pth")
    assert run([*command, "--resume", "--quiet"]) == 1
    assert "all_last.pth: not a readable checkpoint" in capsys.readouterr().err
