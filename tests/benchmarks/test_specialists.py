"""The specialists that our networks are compared with learn, resume, and are measured as ours are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run
from loading import load_split

from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config

#: With `make bench-quick`.
pytestmark = [pytest.mark.benchmark, pytest.mark.xdist_group("specialists")]

#: The script with schedules of one epoch.
SHORT = """
import sys
import specialists
for task, schedule in specialists.SCHEDULES.items():
    specialists.SCHEDULES[task] = schedule.model_copy(update={"epochs": 1, "batch_size": 6})
sys.exit(specialists.main())
"""
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("task", "metric"), [("cls", "top1"), ("seg", "miou"), ("det", "map")])
def test_a_specialist_trains_and_is_not_trained_twice(task, metric, tiny_data, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("data: {image_size: 64}\nmodel: {pretrained: false}\n")
    command = ["-c", SHORT, "--task", task, "--config", config, "--data", tiny_data]
    command += ["--results", tmp_path, "--output", tmp_path, "--report", "val,pooled"]
    result = run(*command, cwd=BENCHMARKS)
    assert result.returncode == 0, result.stderr
    path = tmp_path / f"tiny-specialist-{task}-seed0.json"
    document = json.loads(path.read_text())
    assert 0 <= document["scores"]["val"][metric] <= 1 and 0 <= document["scores"]["pooled"][metric] <= 1
    # The weights that are measured are the last ones, and pooled is val and test.
    assert document["epochs"] == [{"epoch": 1, "val": document["scores"]["val"]}]
    assert document["pictures"] == {"val": 10, "pooled": 20}
    assert document["training"]["image_size"] == 64 and document["training"]["layers"] == "all"
    before = path.stat().st_mtime_ns
    again = run(*command, cwd=BENCHMARKS)
    assert "done already" in again.stderr and path.stat().st_mtime_ns == before
    # Another size is another training.
    config.write_text("data: {image_size: 96}\nmodel: {pretrained: false}\n")
    other = run(*command, cwd=BENCHMARKS)
    assert "of other settings or data" in other.stderr
    assert json.loads(path.read_text())["training"]["image_size"] == 96


def test_what_0_1_0_kept_counts_where_its_settings_are_the_same(tiny_data, tmp_path):
    from common import data_hashes, settings_of
    from specialists import run

    config = load_config(None, {"data.root": tiny_data, "data.image_size": 64})
    settings = settings_of(config)
    settings["distill"]["gate_masks"] = False
    document = {"scores": {"val": {}}, "data": data_hashes(config, ["train", "val"]), "config": settings}
    (tmp_path / "0.1.0").mkdir()
    (tmp_path / "0.1.0/specialist-det-seed0.json").write_text(json.dumps(document))
    where = {"results": tmp_path, "output": tmp_path, "console": Console(quiet=True)}
    assert run("det", config, Path("any.yaml"), reports=["val"], **where) == document


@pytest.mark.parametrize("task", ["det", "seg"])
def test_a_stopped_training_ends_as_one_never_stopped(task, tiny_data, tmp_path, monkeypatch):
    import specialists

    short = specialists.SCHEDULES[task].model_copy(update={"epochs": 4, "batch_size": 6, "eval_every": 2})
    monkeypatch.setitem(specialists.SCHEDULES, task, short)
    settings = {"data.root": tiny_data, "data.image_size": 64, "model.pretrained": False}
    config = load_config(None, {**settings, "model.backbone": "mobilenetv3_small_050"})

    def train(name):
        training = specialists.Training(task, config, tmp_path / name)
        training.run(Console(quiet=True))
        return training

    straight = train("straight")
    with monkeypatch.context() as patch:
        save = specialists.Training._save

        def save_and_stop(self):
            save(self)
            raise KeyboardInterrupt

        patch.setattr(specialists.Training, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train("stopped")
    torch.rand(7)  # what the process drew meanwhile does not matter
    stopped = train("stopped")
    assert stopped.loop.state.step == straight.loop.state.step and stopped.epochs == straight.epochs
    weights = straight.loop.average.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in stopped.loop.average.model.state_dict().items())


def test_views_follow_their_images(tiny_data):
    """In a view of a detection image each box frames what it framed, and in one of a mask the labels are true ones."""
    from specialist.views import ViewLoader

    config = load_config(None, {"data.root": tiny_data, "data.image_size": 64})

    def loader(task):
        split = load_split(task, "train", config)
        fill = torch.full((1, 3, 1, 1), 0.5)
        device = torch.device("cpu")
        return ViewLoader(split, batch_size=12, seed=0, data=config.data, device=device, fill=fill)

    found = loader("det")
    first, same, other = (found.minibatch(position)["det"] for position in (0, 0, 1))
    assert torch.equal(first.images, same.images) and torch.equal(first.target.boxes, same.target.boxes)
    assert not torch.equal(first.images, other.images)
    boxes = first.target.boxes[first.target.labels >= 0]
    assert len(boxes) and (boxes[:, 2:] - boxes[:, :2]).min() >= 1 and boxes.min() >= 0 and boxes.max() <= 64
    assert first.images.shape == (12, 3, 64, 64) and first.images.min() >= 0 and first.images.max() <= 1

    split = loader("seg")
    masks = split.minibatch(0)["seg"].target.masks
    labels = set(np.unique(np.concatenate([np.unique(split.split.mask(i)) for i in range(12)])).tolist())
    assert masks.shape == (12, 64, 64) and masks.dtype == torch.int64
    assert set(masks.unique().tolist()) <= labels | {255}


def test_a_box_goes_where_its_colour_goes():
    from specialist.views import transform_of
    from torchvision import tv_tensors

    image = torch.zeros(3, 90, 120, dtype=torch.uint8)
    image[0, 30:60, 40:100] = 255
    box = tv_tensors.BoundingBoxes(torch.tensor([[40.0, 30.0, 100.0, 60.0]]), format="XYXY", canvas_size=(90, 120))
    transform = transform_of("det", 64, [0.0, 0.0, 0.0])
    transform.transforms.pop()  # colours stay
    torch.manual_seed(0)
    seen = 0
    for _ in range(40):
        view, target = transform(tv_tensors.Image(image), {"boxes": box, "labels": torch.tensor([3])})
        ys, xs = torch.nonzero(view[0] > 127, as_tuple=True)
        if len(target["boxes"]) and len(xs):
            corners = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            assert (target["boxes"][0] - corners).abs().max() <= 1.5
            seen += 1
    assert seen > 30
