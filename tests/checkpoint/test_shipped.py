"""The student in the package: which network a command uses when none is named, and how the student gets there."""

import importlib.util
import json
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import SMALL
from wheels import build_wheel, copy_sources

from onehead_cli.app import run
from onehead_cli.checkpoint import networks as shipped
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_half_precision
from onehead_cli.config.load import load_config, parse_assignments

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "ship.py"


@pytest.fixture(scope="module")
def own(tiny_data, tmp_path_factory):
    """An output folder with a small student, trained for one epoch."""
    output = tmp_path_factory.mktemp("own")
    options = ["--data", str(tiny_data), "--output", str(output), "--epochs", "1", "--lambda-distill", "0", *SMALL]
    assert run(["train-unified", *options]) == 0
    return output


@pytest.fixture(scope="module")
def packaged(own, tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "student.safetensors"
    save_half_precision(path, load_checkpoint(own / "all_best.pth"))
    return path


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty working folder with a photo; the package has no student."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "shipped_student", lambda: tmp_path / "nowhere.safetensors")
    Image.new("RGB", (50, 40), "green").save("photo.jpg")
    return tmp_path


@pytest.fixture
def ready(bare, packaged, monkeypatch):
    """The same, and the package has one."""
    monkeypatch.setattr(shipped, "shipped_student", lambda: packaged)
    return bare


def commands(data):
    return {
        "predict": ["predict", "photo.jpg", "--json"],
        "evaluate": ["evaluate", "--no-report", "--data", str(data), "--set", "evaluation.resamples=10", "--json"],
        "profile": ["profile", "--runs", "1", "--json"],
    }


@pytest.mark.parametrize("command", ["predict", "evaluate", "profile"])
def test_the_packaged_student_is_used_where_there_is_no_other(command, tiny_data, ready, packaged, own, capsys):
    args = commands(tiny_data)[command]
    assert run(args) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["checkpoint"] == str(packaged)
    assert "the student that comes with onehead, since there is no output/all_best.pth" in captured.err

    (ready / "output").mkdir(exist_ok=True)
    shutil.copy(own / "all_best.pth", ready / "output")
    assert run(args) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["checkpoint"] == "output/all_best.pth"
    assert "network: output/all_best.pth" in captured.err

    if command == "profile":  # which has a folder to name as the others have
        (ready / "output").rename(ready / "elsewhere")
        assert run([*args, "--output", "elsewhere"]) == 0
        assert json.loads(capsys.readouterr().out)["checkpoint"] == "elsewhere/all_best.pth"
        (ready / "elsewhere").rename(ready / "output")

    # A student of one's own that cannot be read is not passed over.
    (ready / "output/all_best.pth").unlink()
    (ready / "output/all_best.pth").symlink_to("gone.pth")
    assert run(args) == 1
    assert "output/all_best.pth: no such checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "evaluate", "profile"])
def test_without_any_student_one_line_says_what_to_do(command, tiny_data, bare, capsys):
    assert run(commands(tiny_data)[command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: output/all_best.pth: no such checkpoint")
    assert all(way in line for way in ("onehead train-unified", "--checkpoint"))
    assert not (bare / "output").exists()


def test_predict_writes_its_files_on_a_bare_machine(ready):
    assert run(["predict", "photo.jpg", "--quiet"]) == 0
    written = {path.name for path in (ready / "output/predictions").iterdir()}
    assert written == {"photo.png", "photo_mask.png", "predictions.jsonl"}


def test_the_packaged_student_is_compared_with_teachers_where_they_are(tiny_data, small_teachers, ready, capsys):
    command = commands(tiny_data)["evaluate"]
    assert run([*command, "--teachers", str(small_teachers)]) == 0
    assert all(drop["verdict"] for drop in json.loads(capsys.readouterr().out)["drop"].values())
    assert run(command) == 0
    assert not any(drop["verdict"] for drop in json.loads(capsys.readouterr().out)["drop"].values())


def test_the_packaged_student_must_know_the_classes(tiny_data, ready, capsys):
    root = ready / "data"
    shutil.copytree(tiny_data, root)
    folder = sorted((root / "imagenette-160" / "test").iterdir())[0]
    folder.rename(folder.with_name("aardvark"))
    assert run(["evaluate", "--no-report", "--quiet"]) == 1
    assert "classes of the split test differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "of_config"),
    [
        (["--backbone", "mobilenetv3_small_050", "--no-pretrained"], True),
        (["--config", "small.yaml"], True),
        (["--set", "model={backbone: mobilenetv3_small_050, pretrained: false}"], True),
        (["--set", "data.tasks=[cls, det]", "--no-pretrained"], True),
        (["--set", "model.precision=fp32"], False),
        (["--image-size", "96", "--threads", "1"], False),
    ],
)
def test_profile_takes_the_network_that_the_options_describe(options, of_config, ready, packaged, capsys):
    Path("small.yaml").write_text("model: {backbone: mobilenetv3_small_050, pretrained: false}\n")
    size = [] if "--image-size" in options else ["--set", "data.image_size=64"]
    assert run(["profile", "--runs", "1", "--json", *size, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checkpoint"] == (None if of_config else str(packaged))
    assert document["image_size"] == (96 if "--image-size" in options else 64)


def test_the_package_has_a_place_for_the_student_and_a_wheel_carries_it(tmp_path):
    assert shipped.shipped_student() == ROOT / "onehead_cli" / "checkpoint" / "shipped" / "student.safetensors"
    copy_sources(tmp_path)
    for name in (shipped.FILE, shipped.CARD):
        (tmp_path / "onehead_cli" / "checkpoint" / "shipped" / name).write_text("x")
    wheel = build_wheel(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"onehead_cli/checkpoint/shipped/{name}" for name in (shipped.FILE, shipped.CARD)} <= set(names)
    # The installation puts them where the line about a missing config looks for them.
    configs = {Path(name).name for name in names if ".data/data/share/onehead/configs/" in name}
    assert configs == {path.name for path in (ROOT / "configs").iterdir()} - {"demo.yaml"}


@pytest.fixture(scope="module")
def ship():
    spec = importlib.util.spec_from_file_location("ship", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ship"] = module
    spec.loader.exec_module(module)
    return module


def finished(ship, seed, cls, seg, det):
    return ship.Finished("full", seed, Path("x"), {"cls": cls, "seg": seg, "det": det}, {}, {})


def test_the_median_of_the_worst_tasks_by_hand(ship):
    a = finished(ship, 0, 0.00, -0.04, 0.01)  # worst: seg, -0.04
    b = finished(ship, 1, -0.02, 0.01, 0.00)  # cls, -0.02
    c = finished(ship, 2, 0.03, 0.02, -0.01)  # det, -0.01
    d = finished(ship, 3, 0.03, -0.03, 0.02)  # seg, -0.03
    assert [each.worst for each in (a, b, c, d)] == ["seg", "cls", "det", "seg"]
    assert ship.choose([c]) is c
    assert ship.choose([a, c, b]) is b  # -0.04, -0.02, -0.01
    assert ship.choose([a, b, c, d]) is d  # -0.04, -0.03 | -0.02, -0.01: the lower of the middle two
    assert ship.choose([a, b]) is a


def test_the_shipped_student_is_the_one_that_the_kept_seeds_choose(ship):
    """And its card has all of them."""
    results = sorted((ROOT / "benchmarks" / "results").glob("lite-long-full-seed*.json"))
    seeds = [ship.read_finished(path, Path()) for path in results]
    chosen, card = ship.choose(seeds), shipped.shipped_student().with_name(shipped.CARD).read_text()
    assert all(row in card for row in ship._seed_rows(chosen, seeds))
    assert load_checkpoint(shipped.shipped_student()).seed == chosen.seed


def test_what_is_refused_by_hand(ship):
    def measured(**after):
        before = {"top1": 0.9, "miou": 0.5, "map": 0.2, "map50": 0.2, "map_frequent": None}
        split = {**before, "miou": 0.6, "map50": 0.3}  # one split alone is not held against the file
        # Nor are a class with one box, which moves the mAP of all, and AP50.
        half = {"val": split, "val + test": {**before, "map": 0.3, "map50": 0.3, **after}}
        return ship.Measured("fp32", {"val": before, "val + test": before}, half)

    assert ship.objections(measured(top1=0.8981, miou=0.5019), 16_000_000) == []
    assert ship.objections(measured(), 16_000_001) == ["16.00 MB are more than 16 MB"]
    [worse, lost] = ship.objections(measured(miou=0.5021, map_frequent=0.1), 1)
    assert "mIoU on val + test in fp32 is 0.5000, of the file in half precision 0.5021: more than 0.002 apart" in worse
    assert "mAP of classes with 5 boxes and more on val + test is None, in half precision 0.1" in lost
    assert ship.objections(measured(top1=0.8979), 1)


@pytest.fixture
def seeds(own, tmp_path):
    """The documents and checkpoints of two finished seeds; the lower one is seed 4."""
    for seed, miou in ((3, 0.50), (4, 0.46)):
        shutil.copytree(own, tmp_path / f"runs/full-seed{seed}")
        val = {"unified": {"top1": 0.9, "miou": miou, "map": 0.1}, "baseline": {"top1": 0.9, "miou": 0.5, "map": 0.1}}
        (tmp_path / "results").mkdir(exist_ok=True)
        config = load_checkpoint(own / "all_best.pth").config
        document = {"recipe": "full", "seed": seed, "config": config, "evaluation": {"val": val}}
        document |= {"imagenet_classifier": {"pooled": 0.875}, "data": {"train": "a1", "val": "b2", "test": "c3"}}
        (tmp_path / f"results/lite-long-full-seed{seed}.json").write_text(json.dumps(document))
    (tmp_path / "results/lite-long-plain-seed0.json").write_text("not read")
    return tmp_path


def options(folder, data):
    (folder / "package").mkdir(exist_ok=True)
    where = {"--results": folder / "results", "--runs": folder / "runs", "--data": data, "--into": folder / "package"}
    return [str(each) for pair in where.items() for each in pair]


def test_the_median_seed_is_shipped_with_its_card(ship, seeds, own, tiny_data, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ship.py", *options(seeds, tiny_data)])
    assert ship.main() == 0
    captured = capsys.readouterr()
    assert "seed 4 of 2" in captured.out and captured.err.count("no teacher for") == 1
    student, original = load_checkpoint(seeds / "package/student.safetensors"), load_checkpoint(own / "all_best.pth")
    assert all(torch.equal(student.weights[k].bfloat16(), v.bfloat16()) for k, v in original.weights.items())
    assert student.thresholds == original.thresholds and student.data == original.data
    # Where it was trained is nobody else's concern.
    assert str(tiny_data.parent) not in json.dumps(student.config)
    card = (seeds / "package/MODEL_CARD.md").read_text()
    assert str(seeds) not in card and str(tiny_data.parent) not in card
    assert "| 4 (this one) | +0.0000 | -0.0400 | +0.0000 | seg |" in card
    assert "| COCO 2017 (detection) | 12 | 10 | 10 |" in card and original.data["manifest"] in card
    for part in ("val", "test", "val + test"):
        assert f"| {part} | mIoU |" in card
    assert "the recipe, the epoch, the thresholds and the seed were chosen on val" in card
    assert "\n    train a1\n    val   b2\n" in card and "c3" not in card  # what it learned from
    assert "The seed is the one whose worst task is the median of the finished seeds." in card
    # The commands are those of the training, but for where its folders are.
    assert "train-unified --seed 0 --set data.image_size=64" in card
    assert "--set model.backbone=mobilenetv3_small_050 --set model.pretrained=False" in card


def test_the_student_of_other_results_is_not_shipped(ship, seeds, own, tiny_data, monkeypatch, capsys):
    path = seeds / "results/lite-long-full-seed4.json"
    document = json.loads(path.read_text())
    document["config"]["student"]["epochs"] = 77
    path.write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["ship.py", *options(seeds, tiny_data)])
    assert ship.main() == 1
    said = capsys.readouterr().err
    assert "not the student of lite-long.yaml's results: student.epochs was 77, now" in said
    assert not list((seeds / "package").iterdir())


def test_the_card_of_a_seed_that_was_the_only_one_claims_no_choice(ship, own, tiny_data):
    gaps, data = {"cls": 0.0, "seg": -0.1, "det": 0.0}, {"train": "a1", "val": "b2"}
    only = ship.Finished("full", 4, own / "all_best.pth", gaps, {}, data, untouched=0.875)
    before = {part: {"top1": 0.5, "miou": 0.25, "map": None} for part in ("val", "test", "val + test")}
    after = {part: {**scores, "miou": 0.2475 if part == "val" else 0.25} for part, scores in before.items()}
    after["val + test"]["top1"] = 0.501
    scored = [
        {part: {"top5": None, "map50": None, "map_frequent": None, **s} for part, s in each.items()}
        for each in (before, after)
    ]
    checkpoint = load_checkpoint(own / "all_best.pth")
    settings = {**checkpoint.config["model"], "imagenet_classes": True, "pretrained": True}
    kept = {**checkpoint.config["student"], "keep": "last"}
    checkpoint = ship.replace(checkpoint, config={**checkpoint.config, "model": settings, "student": kept})
    config = load_config(None, {"data.root": tiny_data})
    card = ship.model_card(
        checkpoint, only, [only], config=config, measured=[ship.Measured("fp32", *scored)], content=b"x"
    )
    assert "the recipe and the thresholds were chosen on val, and nothing on test." in card
    assert "Seed 4 was the only one that was finished when this file was packed." in card
    assert "The seed is" not in card
    assert "classes with 5 boxes and more change by at most 0.002 on val and test together." in card
    assert "the largest change above is -0.0025 (mIoU on val, fp32)." in card
    assert "that\n  classifier has Top-1 0.875 on val and test together, the student 0.501." in card


def refused(ship, folder, data, monkeypatch, capsys):
    (folder / "package").mkdir(exist_ok=True)
    (folder / "package/student.safetensors").write_text("the one before")
    monkeypatch.setattr(sys, "argv", ["ship.py", *options(folder, data)])
    assert ship.main() == 1
    assert [path.name for path in (folder / "package").iterdir()] == ["student.safetensors"]
    assert (folder / "package/student.safetensors").read_text() == "the one before"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: no teacher")]
    return line


def test_a_student_that_half_precision_changes_is_refused(ship, seeds, tiny_data, monkeypatch, capsys):
    def worse(path, checkpoint):
        bias = checkpoint.weights["identity.seg.bias"].clone()
        bias[0] += 1e4  # all background
        save_half_precision(path, ship.replace(checkpoint, weights={**checkpoint.weights, "identity.seg.bias": bias}))

    monkeypatch.setattr(ship, "save_half_precision", worse)
    line = refused(ship, seeds, tiny_data, monkeypatch, capsys)
    assert "full-seed4/all_best.pth: not shipped: " in line and "mIoU on val + test in fp32 is" in line


def test_results_that_cannot_be_used_are_named(ship, seeds, tiny_data, monkeypatch, capsys):
    path = seeds / "results/lite-long-full-seed4.json"
    path.write_text(json.dumps({"recipe": "full", "seed": 4}))
    assert "lite-long-full-seed4.json: not the document of a finished seed" in refused(
        ship, seeds, tiny_data, monkeypatch, capsys
    )
    for path in (seeds / "results").glob("lite-long-full*"):
        path.unlink()
    assert "no lite-long-full-seed*.json" in refused(ship, seeds, tiny_data, monkeypatch, capsys)


def test_the_commands_of_a_card_give_the_settings_back(ship, own):
    checkpoint = load_checkpoint(own / "all_best.pth")
    words = shlex.split(ship._commands(checkpoint)[1])
    assert words[:4] == ["onehead", "train-unified", "--seed", "0"] and set(words[4::2]) == {"--set"}
    again = load_config(None, parse_assignments(words[5::2])).model_dump(mode="json", by_alias=True)
    before = checkpoint.config
    for section in ("model", "teacher", "student", "distill", "evaluation"):
        assert again[section] == before[section]
    assert {**again["data"], "root": None} == {**before["data"], "root": None}
