"""`evaluate --against` and `--seeds`, through the real commands."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
from runs import at_step, lines
from tiny import SMALL

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_checkpoint


def evaluate(data, output, *more):
    command = ["evaluate", "--data", str(data), "--output", str(output), "--quiet", "--no-report", *map(str, more)]
    return run(command)


def document_of(output):
    return json.loads((output / "evaluate.json").read_text())


def test_against_is_as_teachers_and_more(tiny_data, trained, tmp_path, capsys):
    """A folder stands for its teachers, a checkpoint for itself; each has its table and drops, the first is the
    baseline."""
    student = trained / "all_best.pth"
    assert evaluate(tiny_data, tmp_path / "a", "--checkpoint", student, "--teachers", trained) == 0
    assert evaluate(tiny_data, tmp_path / "b", "--checkpoint", student, "--against", trained, "--against", student) == 0
    usual, both = document_of(tmp_path / "a"), document_of(tmp_path / "b")
    assert both["drop"] == usual["drop"] and both["baseline"] == usual["baseline"]
    first, second = both["comparisons"]
    assert first["against"] == str(trained) and second["against"] == str(student)
    assert first["drop"] == usual["drop"] == usual["comparisons"][0]["drop"]
    assert usual["comparisons"][0]["against"] is None
    assert second["scores"] == both["unified"]
    assert all(drop["diff"] == drop["low"] == drop["high"] == 0 for drop in second["drop"].values())
    shown = capsys.readouterr().out
    assert str(student) in shown.replace("\n", "") and shown.count("Verdict") == 3


def test_two_teachers_and_an_exit_code(tiny_data, trained, tmp_path):
    """A teacher against another one of its task; `--strict` is about every comparison."""
    blind = load_checkpoint(trained / "seg_best.pth")
    blind.weights["identity.seg.bias"][1] = 1e4
    save_checkpoint(tmp_path / "blind.pth", blind)
    strict = ["--strict", "--set", "evaluation.drop_limit=0.001"]
    teacher = trained / "seg_best.pth"
    assert evaluate(tiny_data, tmp_path, "--checkpoint", teacher, "--against", teacher, *strict) == 0
    document = document_of(tmp_path)
    assert document["unified"]["miou"] == document["baseline"]["miou"] is not None
    worse = ["--checkpoint", tmp_path / "blind.pth", "--against", tmp_path / "blind.pth", "--against", teacher]
    assert evaluate(tiny_data, tmp_path, *worse, *strict) == 10


def test_a_folder_without_teachers_stands_for_its_student(tiny_data, trained, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    shutil.copy(trained / "all_best.pth", tmp_path / "other")
    checkpoint = ["--checkpoint", trained / "all_best.pth"]
    assert evaluate(tiny_data, tmp_path, *checkpoint, "--against", tmp_path / "other") == 0
    assert set(document_of(tmp_path)["comparisons"][0]["scores"].values()) == set(
        document_of(tmp_path)["unified"].values()
    )
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "empty", "no network for cls, seg, det in this folder"),
        (tmp_path / "gone.pth", "no such checkpoint"),
    ):
        assert evaluate(tiny_data, tmp_path, *checkpoint, "--against", path) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {path}: {said}")
    assert evaluate(tiny_data, tmp_path, *checkpoint, "--against", trained / "cls_best.pth", "--task", "seg") == 1
    assert "does cls, not seg" in capsys.readouterr().err
    # A task that the other lacks is open.
    assert evaluate(tiny_data, tmp_path, *checkpoint, "--against", trained / "cls_best.pth", "--strict") in (10, 11)
    assert f"no network for seg, det in {trained / 'cls_best.pth'}: no drop check there" in capsys.readouterr().err


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tiny_data, tmp_path_factory):
    """An output folder with two seeds of teachers and student."""
    output = tmp_path_factory.mktemp("seeds") / "output"
    common = ["--data", str(tiny_data), "--output", str(output), "--epochs", "1", *SMALL, "--seeds", "3,5"]
    assert run(["train-teacher", "--task", "all", *common]) == 0
    assert run(["train-unified", *common]) == 0
    return output


def test_a_folder_per_seed_that_is_the_run_of_that_seed(seeds, tiny_data, tmp_path):
    names = {f"{name}_best.pth" for name in ("cls", "seg", "det", "all")}
    for seed in (3, 5):
        assert names <= {path.name for path in (seeds / f"seed{seed}").iterdir()}
        assert load_checkpoint(seeds / f"seed{seed}" / "all_best.pth").seed == seed
    assert not list(seeds.glob("*.pth"))
    command = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(tmp_path), "--epochs", "1"]
    assert run([*command, *SMALL, "--seed", "5"]) == 0
    one, other = (load_checkpoint(folder / "cls_best.pth").weights for folder in (tmp_path, seeds / "seed5"))
    assert all((one[name] == other[name]).all() for name in one)


def test_resume_leaves_what_is_done_and_goes_on_with_the_rest(tiny_data, tmp_path, monkeypatch, capsys):
    """Of three seeds, one is finished, one was stopped in its second epoch, and one was never begun."""
    output = tmp_path / "output"
    common = ["train-teacher", "--task", "cls", "--data", str(tiny_data), "--output", str(output), *SMALL]
    assert run([*common, "--epochs", "2", "--seeds", "0"]) == 0
    done = (output / "seed0" / "cls_best.pth").read_bytes()
    written = (output / "seed0" / "cls_last.pth").stat().st_mtime_ns
    steps = max(record["step"] for record in lines(output / "seed0" / "cls.jsonl"))
    with monkeypatch.context() as patched:
        at_step(patched, steps - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run([*common, "--epochs", "2", "--seeds", "1,2"]) == 143
    capsys.readouterr()
    assert run([*common, "--epochs", "2", "--seeds", "0,1,2", "--resume", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    resumed = {seed: found["cls"]["resumed_from_epoch"] for seed, found in document["seeds"].items()}
    assert resumed == {"0": 2, "1": 1, "2": None}
    assert (output / "seed0" / "cls_best.pth").read_bytes() == done
    assert (output / "seed0" / "cls_last.pth").stat().st_mtime_ns == written
    assert all((output / f"seed{seed}" / "cls_best.pth").is_file() for seed in (0, 1, 2))


def test_one_verdict_over_the_seeds(seeds, tiny_data, capsys):
    command = ["evaluate", "--data", str(tiny_data), "--output", str(seeds), "--seeds", "3,5", "--quiet", "--no-report"]
    assert run([*command, "--split", "val,test", "--strict"]) in (0, 10, 11)
    shown = capsys.readouterr().out
    assert "Mean of seeds 3, 5, ± standard deviation" in shown and shown.count("Verdict") == 1
    # Nothing of a row is cut off at 80 columns.
    for metric in ("Top-1", "mIoU", "mAP"):
        [row] = [line.split() for line in shown.splitlines() if line.split()[:1] == [metric] and ".." in line]
        assert len(row) == 9 and row[-1] in ("PASS", "FAIL", "INCONCLUSIVE")
    document = json.loads((seeds / "evaluate_seeds.json").read_text())
    each = [json.loads((seeds / f"seed{seed}" / "evaluate.json").read_text()) for seed in (3, 5)]
    assert list(document["seeds"]) == ["3", "5"]
    [found] = document["over_seeds"]
    for task, key in (("cls", "top1"), ("seg", "miou"), ("det", "map")):
        drop, unified = found["drop"][task], [one["unified"][key] for one in each]
        assert drop["unified"] == pytest.approx(np.mean(unified))
        assert drop["unified_sd"] == pytest.approx(np.std(unified, ddof=1))
        diffs = [one["drop"][task]["diff"] for one in each]
        assert drop["diffs"] == pytest.approx(diffs) and drop["diff"] == pytest.approx(np.mean(diffs))
        # Of two seeds the quantile of Student's t is 12.706, and the images' part only widens the interval.
        half = 12.706 * np.std(diffs, ddof=1) / 2**0.5
        assert (drop["high"] - drop["low"]) / 2 >= half - 1e-3
        assert drop["low"] <= drop["diff"] <= drop["high"]


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("train-unified", ["--seeds", "0,0"], "give different whole numbers, such as 0,1,2"),
        ("train-teacher --task cls", ["--seeds", "a,b"], "give different whole numbers, such as 0,1,2"),
        ("train-unified", ["--seeds", "0,1", "--seed", "2"], "--seeds names the seeds: leave --seed out"),
        ("evaluate", ["--seeds", "0"], "a spread needs at least two seeds"),
        ("evaluate", ["--seeds", "0,1", "--checkpoint", "a.pth"], "leave --checkpoint out"),
    ],
)
def test_seeds_that_cannot_be_used_are_one_line(command, more, said, tiny_data, tmp_path, capsys):
    assert run([*command.split(), "--data", str(tiny_data), "--output", str(tmp_path), *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_a_seed_that_was_never_trained_is_one_line(seeds, tiny_data, capsys):
    command = ["evaluate", "--data", str(tiny_data), "--output", str(seeds), "--seeds", "3,9", "--quiet", "--no-report"]
    assert run(command) == 1
    assert f"{seeds / 'seed9' / 'all_best.pth'}: no such checkpoint" in capsys.readouterr().err
