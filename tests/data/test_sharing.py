"""Mini-batches shared among processes, and read by threads ahead of their time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load_split, tensors
from tiny import TINY

from onehead_cli.app import run
from onehead_cli.config.sections import DataConfig
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.loader import TrainLoader
from onehead_cli.errors import DataError
from onehead_cli.registry import TASKS
from onehead_cli.tasks.detection.target import DetectionTarget


@pytest.fixture(scope="module")
def splits(tiny_data):
    data = DataConfig(root=tiny_data, image_size=64)
    budget = CacheBudget(100)
    return {t: load_split(t, "train", data, interpolation="bicubic", budget=budget) for t in TASKS}


def loader(splits, *, batch_size=4, workers=0, **share):
    data = DataConfig(image_size=64, workers=workers)
    fill = torch.full((1, 3, 1, 1), 0.5)
    return TrainLoader(splits, batch_size=batch_size, seed=7, data=data, device=torch.device("cpu"), fill=fill, **share)


def boxes(target):
    """The boxes of each image, without padding."""
    return [target.boxes[i][target.labels[i] >= 0] for i in range(len(target.boxes))]


def assert_same_images(whole, shares):
    """The shares are the images of the whole mini-batch, each of them once, with the same views and targets."""
    assert [part.total for part in shares] == [whole.total] * len(shares)
    assert sorted(name for part in shares for name in part.names) == sorted(whole.names)
    found = [(part, row) for part in shares for row in range(len(part.names))]
    taken = set()
    for row, name in enumerate(whole.names):
        # The same image may stand twice in a mini-batch larger than its dataset; its views then differ.
        matching = [
            (part, i)
            for part, i in found
            if part.names[i] == name and torch.allclose(part.images[i], whole.images[row], rtol=0, atol=1e-5)
        ]
        assert matching, name
        part, i = matching[0]
        taken.add((id(part), i))
        if isinstance(whole.target, DetectionTarget):
            assert torch.equal(boxes(part.target)[i], boxes(whole.target)[row])
        else:
            assert torch.equal(tensors(part.target)[0][i], tensors(whole.target)[0][row])
    assert len(taken) == len(found)


@settings(max_examples=12, deadline=None)
@given(batch_size=st.integers(1, 7), world_size=st.integers(1, 5), position=st.integers(0, 9))
def test_processes_share_a_mini_batch_without_overlap(splits, batch_size, world_size, position):
    whole = loader(splits, batch_size=batch_size).minibatch(position)
    shares = [
        loader(splits, batch_size=batch_size, rank=rank, world_size=world_size).minibatch(position)
        for rank in range(world_size)
    ]
    for task in TASKS:
        assert_same_images(whole[task], [share[task] for share in shares])
        counts = [len(share[task].names) for share in shares]
        assert max(counts) - min(counts) <= 1


def test_who_has_one_more_goes_round_with_the_tasks(splits):
    shares = [loader(splits, batch_size=4, rank=rank, world_size=3).minibatch(0) for rank in range(3)]
    assert [sum(len(part.names) for part in share.values()) for share in shares] == [4, 4, 4]


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_neither_order_nor_bits(splits, workers):
    plain, threaded = loader(splits), loader(splits, workers=workers)
    for position in (0, 0, 1, 2, 7, 8):  # asked twice, in order, and after a jump
        expected, found = plain.minibatch(position), threaded.minibatch(position)
        for task in TASKS:
            assert found[task].names == expected[task].names
            assert torch.equal(found[task].images, expected[task].images)


def test_a_image_that_a_thread_cannot_read_is_the_same_error(tiny_data, tmp_path, splits):
    data = DataConfig(root=tiny_data, image_size=64)
    broken = load_split(TASKS[0], "train", data, interpolation="bicubic", budget=CacheBudget(0))
    broken._store.paths = [tmp_path / "gone.jpg"] * len(broken)
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"gone\.jpg: no such file"):
            loader({TASKS[0]: broken}, workers=workers).minibatch(0)


@pytest.mark.parametrize(
    "settings_of_data",
    [(), ("data.sizes=[64, 96]", "data.cache_scale=2", "data.aspect=1.5", "teacher.small_until=0.4")],
    ids=["usual", "views of many sizes"],
)
def test_a_run_may_be_resumed_with_another_number_of_threads(
    settings_of_data, tiny_data, tmp_path, monkeypatch, capsys
):
    from onehead_cli.training.log import RunLog

    base = ["train-teacher", "--task", "seg", "--data", str(tiny_data), "--epochs", "2", *TINY]
    base += [word for each in settings_of_data for word in ("--set", each)]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run([*base, "--output", str(straight)]) == 0
    with monkeypatch.context() as patch:
        write = RunLog.write

        def stop(self, info):
            write(self, info)
            if info.step == 4:
                raise KeyboardInterrupt

        patch.setattr(RunLog, "write", stop)
        assert run([*base, "--output", str(stopped), "--set", "data.workers=2"]) == 130
    # Killed in the second epoch, it goes on from the end of the first.
    assert run([*base, "--output", str(stopped), "--resume", "--set", "data.workers=1"]) == 0
    capsys.readouterr()
    a, b = (torch.load(folder / "seg_last.pth", weights_only=True) for folder in (straight, stopped))
    moments = [state["training"]["optimizer"]["state"] for state in (a, b)]
    assert all(torch.equal(moments[0][i][k], moments[1][i][k]) for i in moments[0] for k in moments[0][i])
    assert all(torch.equal(v, b["training"]["model"][name]) for name, v in a["training"]["model"].items())
    assert all(torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"])
