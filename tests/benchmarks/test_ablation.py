"""The comparison of recipes: by hand, and through the real script on tiny data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import run

#: With `make bench-quick`.
pytestmark = [pytest.mark.benchmark, pytest.mark.xdist_group("ablation")]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablation.py"


@pytest.fixture(scope="module")
def ablation():
    import ablation  # imports torch

    return ablation


def _result(name, network, seed, **scores):
    return {"name": name, "network": network, "seed": seed, "scores": scores}


def test_mean_deviation_and_paired_difference_by_hand(ablation):
    results = [
        _result("base", "det", 0, det={"map": 0.10}),
        _result("base", "det", 1, det={"map": 0.20}),
        _result("other", "det", 0, det={"map": 0.13}),
        _result("other", "det", 1, det={"map": 0.21}),
        _result("other", "det", 2, det={"map": 0.99}),  # the base has no seed 2: not in the difference
    ]
    recipes = [ablation.Recipe("base", "det"), ablation.Recipe("other", "det")]
    base, other = ablation.compare(recipes, results)
    assert (base["against"], other["against"]) == (None, "base")
    assert (base["mean"], base["deviation"]) == pytest.approx((0.15, 0.1 / 2**0.5))
    assert base["difference"] is None and base["minus_teacher"] is None
    assert other["seeds"] == [0, 1, 2] and other["mean"] == pytest.approx(1.33 / 3)
    assert other["gains"] == pytest.approx({0: 0.03, 1: 0.01})
    # +0.03 and +0.01: mean 0.02, deviation 0.01 * sqrt(2).
    assert (other["difference"], other["difference_deviation"]) == pytest.approx((0.02, 0.01 * 2**0.5))


def test_a_recipe_can_be_compared_with_another_than_the_base(ablation):
    scores = {"base": 0.10, "wide": 0.16, "wide and deep": 0.13}
    results = [_result(name, "det", 0, det={"map": value}) for name, value in scores.items()]
    recipes = [ablation.Recipe(name, "det") for name in ("base", "wide")]
    rows = ablation.compare([*recipes, ablation.Recipe("wide and deep", "det", against=("wide",))], results)
    assert rows[2]["against"] == "wide" and rows[2]["difference"] == pytest.approx(-0.03)  # +0.03 against the base
    assert "| wide | -0.0300 |" in ablation.markdown(rows)
    both = ablation.compare([*recipes, ablation.Recipe("wide and deep", "det", against=("wide", "base"))], results)[2:]
    assert [(row["against"], row["difference"]) for row in both] == [
        ("wide", pytest.approx(-0.03)),
        ("base", pytest.approx(0.03)),
    ]
    # What it is compared with has not run: no difference.
    assert ablation.compare([ablation.Recipe("wide", "det", against=("deep",))], results[1:2])[0]["difference"] is None


def test_the_mean_over_frequent_classes_is_compared_where_it_is_there(ablation):
    results = [
        _result("base", "det", 0, det={"map": 0.30, "map_frequent": 0.10}),
        _result("other", "det", 0, det={"map": 0.20, "map_frequent": 0.15}),
        _result("old", "det", 0, det={"map": 0.20}),
    ]
    rows = ablation.compare([ablation.Recipe(name, "det") for name in ("base", "other", "old")], results)
    assert [(row["name"], row["metric"]) for row in rows[2:]] == [
        ("other", "map"),
        ("other", "map_frequent"),
        ("old", "map"),
    ]
    assert [row["difference"] for row in rows[2:4]] == pytest.approx([-0.10, 0.05])


def test_frequent_classes_by_hand():
    from common import frequent_map

    rows = [{"count": 5, "ap": 0.2}, {"count": 4, "ap": 1.0}, {"count": 90, "ap": 0.1}, {"count": 9, "ap": None}]
    assert frequent_map(rows) == pytest.approx(0.15)
    assert frequent_map(rows[1:2]) is None


def test_a_student_is_also_compared_with_its_own_teachers(ablation):
    scores = {"cls": {"top1": 0.9}, "seg": {"miou": 0.5}, "det": {"map": 0.1}}
    result = _result("base", "all", 0, **scores, all={"top1": 0.95, "miou": 0.48, "map": 0.1})
    rows = ablation.compare([ablation.Recipe("base", "all")], [result])
    assert [row["minus_teacher"] for row in rows] == pytest.approx([0.05, -0.02, 0.0])


@pytest.mark.parametrize(
    "plan",
    [
        "runs: 3",
        "base: x.yaml\nruns: [{name: a}]",
        "base: x\nruns: [{name: a, network: dog}]",
        "base: x\nruns: [{name: a, network: det}, {name: b, network: seg, against: a}]",
        "base: x\nruns: [{name: a, network: det, sets: {seed: 1}}]",
        "[",
    ],
)
def test_a_bad_plan_is_one_line(plan, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(plan)
    result = run(SCRIPT, path, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and str(path) in result.stderr


@pytest.mark.parametrize("plan", ["ablation.yaml", "boxes.yaml", "balance.yaml"])
def test_what_is_kept_was_made_with_what_the_plan_says_today(plan, ablation, tmp_path):
    """Defaults change, and a plan must not change with them, or all of it is trained again."""
    from common import path_in_0_1_0, read_alike, result_path

    from onehead_cli.training.resume import changed_settings

    results, found, read = SCRIPT.parent / "results", 0, ablation.read_plan(SCRIPT.with_name(plan))
    for recipe in read.recipes:
        config = ablation.recipe_config(read, recipe, seed=0, data=Path("data"), output=tmp_path)
        unit = f"{recipe.slug}-seed0"
        of_0_1_0 = plan == "ablation.yaml"
        path = path_in_0_1_0(results, unit) if of_0_1_0 else result_path(results, Path(plan), unit)
        if path.is_file():
            before, found = json.loads(path.read_text())["config"], found + 1
            assert not any(changed_settings(before, config, network) for network in recipe.trained), path
            assert read_alike(before, config), path
    assert found


def test_runs_are_trained_compared_and_then_skipped(tiny_data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "data: {image_size: 64}\nmodel: {backbone: mobilenetv3_small_050, pretrained: false}\n"
        "teacher: {epochs: 1, batch_size: 6}\nstudent: {epochs: 1, batch_size: 6}\n"
    )
    (tmp_path / "plan.yaml").write_text(
        "base: tiny.yaml\nruns:\n"
        "  - {name: base, network: all}\n"
        "  - {name: all images, network: all, set: {distill.images: all}}\n"
    )
    command = [SCRIPT, tmp_path / "plan.yaml", "--data", tiny_data]
    command += ["--output", tmp_path / "out", "--results", tmp_path / "results"]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    assert first.stdout == (tmp_path / "results" / "plan-comparison.md").read_text()
    done = sorted(path.name for path in (tmp_path / "results").glob("plan-all-*.json"))
    assert done == ["plan-all-all-images-seed0.json", "plan-all-base-seed0.json"]
    # One folder of teachers serves both: their settings are the same.
    assert len(list((tmp_path / "out").glob("teachers-*"))) == 1
    rows = json.loads((tmp_path / "results" / "plan-comparison.json").read_text())
    base = json.loads((tmp_path / "results" / done[1]).read_text())["scores"]["all"]
    assert [row["mean"] for row in rows[:3]] == [base["top1"], base["miou"], base["map"]]
    [frequent] = [row for row in rows if (row["name"], row["metric"]) == ("base", "map_frequent")]
    kept = json.loads((tmp_path / "out" / "all-base-seed0" / "evaluate-val" / "per_class_det.json").read_text())
    often = [row["ap"] for row in kept["unified"] if row["count"] >= 5]
    assert len(often) > 0 and frequent["mean"] == pytest.approx(sum(often) / len(often))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pth")}
    second = run(*command)
    assert second.returncode == 0 and second.stdout == first.stdout
    # A call for another seed leaves the finished one in the comparison.
    other = run(*command, "--seeds", "1", "--only", "nothing")
    assert other.returncode == 0 and other.stdout == first.stdout
    typo = run(*command, "--seeds", "a")
    assert typo.returncode == 2 and "Traceback" not in typo.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pth")}
