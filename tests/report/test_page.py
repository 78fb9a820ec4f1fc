"""report.html and its numbers in evaluate.json, through the real command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.report import charts
from onehead_cli.report.cost import PROFILE
from onehead_cli.report.panels import choose_images
from onehead_cli.tasks.classification.scores import ClassificationResult
from onehead_cli.tasks.task import get_task
from onehead_cli.training.log import read_run


class Page(HTMLParser):
    """texts: of each element by its tag. addresses: what anything points to. open: elements that were not closed."""

    VOID = frozenset(["meta", "img", "br"])

    def __init__(self, content):
        super().__init__()
        self.open, self.texts, self.addresses, self.tags, self.errors = [], {}, [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def text(self, tag="body"):
        return " ".join(" ".join(self.texts.get(tag, [])).split())


@pytest.fixture(scope="module")
def evaluated(tiny_data, trained, tmp_path_factory):
    """An output folder with a report of student and teachers."""
    output = shutil.copytree(trained, tmp_path_factory.mktemp("report") / "output")
    command = ["evaluate", "--data", str(tiny_data), "--output", str(output), "--split", "val,test", "--quiet"]
    assert run(command) == 0
    return output


@pytest.fixture(scope="module")
def page(evaluated):
    return Page((evaluated / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(evaluated):
    return json.loads((evaluated / "evaluate.json").read_text())["report"]


def test_it_is_one_file_that_asks_for_nothing(page, evaluated):
    assert page.errors == [] and page.open == []
    assert all(address.startswith("data:image/webp;base64,") for address in page.addresses) and page.addresses
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "form", "base", "embed", "audio", "video"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    policies = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    content = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "url(" not in content and "@import" not in content
    assert (evaluated / "report.html").stat().st_size < 4e6


def test_its_parts_stand_in_their_order(page):
    headings = [attrs["id"] for tag, attrs in page.tags if tag == "h2"]
    wanted = [
        "verdict",
        "scores",
        "cost",
        "classes",
        "images",
        "figures",
        "training",
        "data",
        "provenance",
        "not-shown",
    ]
    assert headings == wanted


def test_every_verdict_has_its_sentence_and_numbers(page, report, evaluated):
    document = json.loads((evaluated / "evaluate.json").read_text())
    assert [row["task"] for row in report["verdicts"]] == ["cls", "seg", "det"]
    cells = page.text("td")
    for row in report["verdicts"]:
        drop = document["drop"][row["task"]]
        assert {key: row[key] for key in drop} == drop
        assert row["sentence"] in page.text("p") and f"{row['diff']:+.4f}" in cells
        assert f"On {row['images']} images" in row["sentence"] and row["images"] == document["pictures"][row["task"]]


def test_every_number_of_the_json_is_in_a_table(page, report):
    cells = page.text("td")
    numbers = [f"{row['value']:.4f}" for row in report["scores"] if row["value"] is not None]
    for table in report["per_class"].values():
        for row in table["rows"]:
            numbers += [f"{v:.4f}" for values in row["values"].values() for v in values.values() if v is not None]
    for run_ in report["training"]:
        numbers += [f"{value:.4f}" for epoch in run_["epochs"] for value in epoch["losses"].values()]
        numbers += [f"{value:.4f}" for epoch in run_["epochs"] for value in epoch["weights"].values()]
    assert len(numbers) > 100 and all(number in cells for number in numbers)
    # An interval has its score inside.
    judged = [row for row in report["scores"] if row["low"] is not None]
    assert len(judged) == 6 and all(row["low"] <= row["value"] <= row["high"] for row in judged)


def test_what_the_networks_cost(page, report, evaluated):
    rows = {row["network"]: row for row in report["cost"]}
    teachers = [rows[f"teacher {task}"] for task in ("cls", "seg", "det")]
    assert rows["teacher, together"]["parameters"] == sum(row["parameters"] for row in teachers)
    for name, row in rows.items():
        if name == "teacher, together":
            continue
        path = evaluated / f"{name.split()[1]}_best.pth"
        model = load_checkpoint(path).model()
        assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert row["bytes"] == path.stat().st_size and row["p50_ms"] is None


def test_images_are_shown_side_by_side(page, report):
    for found in report["images"].values():
        assert 3 <= len(found) <= 12 and len({image["file"] for image in found}) == len(found)
        for image in found:
            assert list(image["said"]) == ["truth", "teacher", "student"]
            teacher, student = image["scores"]["teacher"], image["scores"]["student"]
            if image["why"] == "lost most":
                assert student < teacher
            elif image["why"] == "won most":
                assert student > teacher
    images = sum(len(found) * (1 if task == "cls" else 3) for task, found in report["images"].items())
    assert len(page.addresses) == images


def test_the_training_is_that_of_the_logs(report, evaluated):
    runs = {(each["network"], each["name"]): each for each in report["training"]}
    assert runs.keys() == {("teacher", "cls"), ("teacher", "seg"), ("teacher", "det"), ("student", "all")}
    lines = [json.loads(line) for line in (evaluated / "all.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step" and line["epoch"] == 2]
    second = runs["student", "all"]["epochs"][1]
    assert second["epoch"] == 2 and second["weights"] == steps[-1]["weights"]
    for name, mean in second["losses"].items():
        assert mean == pytest.approx(np.mean([step["losses"][name] for step in steps]))
    assert runs["student", "all"]["steps"] == max(line["step"] for line in lines)


def test_the_data_and_where_it_comes_from(report, tiny_data):
    import hashlib

    assert report["data"]["manifest"] == hashlib.sha256((tiny_data / "manifest.json").read_bytes()).hexdigest()
    assert set(report["data"]["trained_on"].values()) == {report["data"]["manifest"]}
    counts = report["data"]["classes"]["cls"]["counts"]
    assert sum(counts.values()) == report["data"]["images"]["cls"]
    assert report["provenance"]["networks"]["student all"]["epoch"] in (1, 2)
    assert any("seed" in sentence for sentence in report["not_shown"])


def test_names_of_any_kind_are_text(tiny_data, trained, tmp_path, capsys):
    """A class that is named like an element of HTML, and a checkpoint in a folder of such a name."""
    output = tmp_path / "<b>&'\""
    shutil.copytree(trained, output)
    checkpoint = load_checkpoint(output / "cls_best.pth")
    data = shutil.copytree(tiny_data, tmp_path / "data")
    evil = "<img src=x onerror=alert(1)>"
    for split in ("train", "val", "test"):
        folder = sorted((data / "imagenette-160" / split).iterdir())[0]
        folder.rename(folder.with_name(evil))
    names = sorted(path.name for path in (data / "imagenette-160" / "test").iterdir())
    for name in ("cls", "seg", "det", "all"):
        checkpoint = load_checkpoint(output / f"{name}_best.pth")
        checkpoint.architecture.classes["cls"] = names
        save_checkpoint(output / f"{name}_best.pth", checkpoint)
    assert run(["evaluate", "--data", str(data), "--output", str(output), "--quiet"]) == 0
    page = Page((output / "report.html").read_text(encoding="utf-8"))
    assert evil in page.text() and page.errors == [] == page.open
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert str(output / "all_best.pth") in page.text("h1")


def test_without_a_report_an_old_one_goes(tiny_data, trained, tmp_path):
    output = shutil.copytree(trained, tmp_path / "output")
    (output / "report.html").write_text("of an earlier evaluation")
    command = ["evaluate", "--data", str(tiny_data), "--output", str(output), "--quiet"]
    assert run([*command, "--no-report"]) == 0
    assert not (output / "report.html").exists()
    assert "report" not in json.loads((output / "evaluate.json").read_text())


def test_a_teacher_alone_has_a_page_without_a_verdict(tiny_data, trained, tmp_path):
    command = ["evaluate", "--data", str(tiny_data), "--output", str(tmp_path), "--quiet", "--task", "det"]
    assert run([*command, "--checkpoint", str(trained / "det_best.pth")]) == 0
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Nothing was compared" in page.text() and page.errors == []
    images = json.loads((tmp_path / "evaluate.json").read_text())["report"]["images"]["det"]
    assert [image["why"] for image in images][:6] == ["lowest score"] * 6
    scores = [image["scores"]["teacher"] for image in images if image["why"] == "lowest score"]
    assert scores == sorted(scores)


def test_a_latency_is_that_of_a_profile_beside_it(tiny_data, trained, tmp_path, capsys):
    output = shutil.copytree(trained, tmp_path / "output")
    common = ["--output", str(output), "--quiet"]
    assert run(["profile", *common, "--runs", "2", "--json"]) == 0
    (output / PROFILE).write_text(capsys.readouterr().out)
    assert run(["evaluate", "--data", str(tiny_data), *common]) == 0
    rows = {row["network"]: row for row in json.loads((output / "evaluate.json").read_text())["report"]["cost"]}
    measured = json.loads((output / PROFILE).read_text())["latency"]["p50_ms"]
    assert rows["student all"]["p50_ms"] == measured and rows["teacher cls"]["p50_ms"] is None
    # Each of another pass than the one that the row is of.
    for option, value in (("--image-size", "96"), ("--batch-size", "2")):
        assert run(["profile", *common, "--runs", "1", "--json", option, value]) == 0
        (output / PROFILE).write_text(capsys.readouterr().out)
        assert run(["evaluate", "--data", str(tiny_data), *common]) == 0
        document = json.loads((output / "evaluate.json").read_text())
        assert [row["p50_ms"] for row in document["report"]["cost"]] == [None] * 5
    for content in ("{", "[]", '{"checkpoint": 3}'):
        (output / PROFILE).write_text(content)
        assert run(["evaluate", "--data", str(tiny_data), *common]) == 0


class Scores:
    """A result whose score is the mean of the images' own."""

    task = "cls"

    def __init__(self, *scores):
        self.each = np.array(scores, dtype=float)

    def __len__(self):
        return len(self.each)

    def resampled(self, counts):
        return counts @ np.nan_to_num(self.each) / counts.sum(axis=1) + 0.0 * (counts @ np.zeros(len(self.each)))


def test_which_images_are_chosen_by_hand():
    teacher = Scores(1, 0, 1, 0.5, 0, 1, 0, 0, 0, 0)
    student = Scores(0, 1, 1, 0.4, 0.2, 1, 0, 0, 0, 0)
    known = list(range(10))
    found = choose_images({"teacher": teacher, "student": student}, get_task("cls"), known, seed=0)
    assert [(each.why, each.place) for each in found][:4] == [
        ("lost most", 0),
        ("lost most", 3),
        ("won most", 1),
        ("won most", 4),
    ]
    assert found[0].scores == {"teacher": 1.0, "student": 0.0}
    rest = [each.place for each in found if each.why == "at random"]
    assert len(rest) == 3 and not set(rest) & {0, 1, 3, 4}
    again = choose_images({"teacher": teacher, "student": student}, get_task("cls"), known, seed=0)
    assert again == found
    few = choose_images({"student": student}, get_task("cls"), [2, 3], seed=0)
    assert [(each.why, each.place) for each in few] == [("lowest score", 3), ("lowest score", 2)]


def test_the_shipped_student_needs_no_log_and_no_teacher(tiny_data, tmp_path):
    """Classes of the drawn data are not its own, so the images are of detection and of its classes."""
    data = shutil.copytree(tiny_data, tmp_path / "data")
    classes = load_checkpoint(shipped_student()).architecture.classes["det"]
    for path in (data / "mini_coco_det" / "annotations").iterdir():
        document = json.loads(path.read_text())
        for category, name in zip(document["categories"], classes, strict=True):
            category["name"] = name
        path.write_text(json.dumps(document))
    command = ["evaluate", "--data", str(data), "--output", str(tmp_path / "out"), "--task", "det", "--quiet"]
    assert run(command) == 0
    report = json.loads((tmp_path / "out" / "evaluate.json").read_text())["report"]
    assert report["training"] == [] and report["verdicts"] == []
    figures = {figure["title"]: figure for figure in report["figures"]["det"]}
    assert len(figures) == 4 and all(list(figure["networks"]) == ["student"] for figure in figures.values())
    # Drawn boxes are those of predict: counted once more from its records.
    images = sorted((data / "mini_coco_det" / "test").glob("*.jpg"))
    where = ["--output", str(tmp_path / "p"), "--quiet", "--no-overlays", "--no-masks"]
    assert run(["predict", *map(str, images), *where]) == 0
    records = [json.loads(line) for line in (tmp_path / "p" / "predictions" / "predictions.jsonl").open()]
    kinds = figures["Errors of the drawn boxes"]["networks"]["student"]["values"]
    shown = sum(value for kind, value in kinds.items() if kind != "missed")
    assert shown == sum(len(record["boxes"]) for record in records)


@pytest.mark.parametrize(
    "line",
    [
        *({"losses": value} for value in (None, {"cls": None}, {"cls": "x"}, {"cls": float("nan")}, [1, 2], 3)),
        *({"weights": {"cls": "w"}}, {"gradient_cosine": None}, {"gradient_cosine": {"a-b": None}}),
        *({"gradient_cosine": {"a-b": {"s": "x"}}}, {"gradient_cosine": [1]}),
        *({"kind": "epoch", "scores": value} for value in (None, {"top1": float("inf")}, {"top1": "x"}, [])),
    ],
)
def test_a_log_that_was_edited_loses_nothing(line, trained, tmp_path):
    shutil.copy(trained / "all.jsonl", tmp_path)
    whole = read_run(tmp_path / "all.jsonl")
    with (tmp_path / "all.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "step", "step": 1, "epoch": 9, **line}) + "\n")
        log.write("[1]\nnothing\n")
    found = read_run(tmp_path / "all.jsonl")
    assert found["epochs"][:2] == whole["epochs"] and len(found["epochs"]) == 3
    last = found["epochs"][2]
    assert all(isinstance(value, float) for part in ("losses", "weights", "scores") for value in last[part].values())
    assert list(found["conflict"].values()) in ([], [{"s": None}], [{}])


def test_every_network_has_a_label_of_its_own(tiny_data, trained, tmp_path, monkeypatch):
    """Folders that are called as the network itself, or as one another."""
    for folder in ("student", "a/teacher", "b/teacher"):
        shutil.copytree(trained, tmp_path / folder)
    others = [word for folder in ("student", "a/teacher", "b/teacher", "student") for word in ("--against", folder)]
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--data", str(tiny_data), "--output", "out", "--checkpoint", "student/all_best.pth"]
    assert run([*command, *others, "--quiet"]) == 0
    report = json.loads((tmp_path / "out" / "evaluate.json").read_text())["report"]
    labels = ["student (3)", "a/teacher", "b/teacher", "student (2)", "student"]
    assert list(dict.fromkeys(row["network"] for row in report["scores"])) == labels
    assert [row["against"] for row in report["verdicts"] if row["task"] == "cls"] == labels[:-1]
    assert report["per_class"]["cls"]["networks"] == labels


def test_images_are_chosen_from_all_of_a_split(tiny_data, trained, tmp_path, monkeypatch):
    """Also those of which no map was kept, which pass through the network once more and give the same."""
    from onehead_cli.evaluation import evaluator

    found = []
    for kept in (200, 2):
        monkeypatch.setattr(evaluator, "KEPT", kept)
        command = ["evaluate", "--data", str(tiny_data), "--output", str(tmp_path), "--teachers", str(trained)]
        assert run([*command, "--checkpoint", str(trained / "all_best.pth"), "--quiet"]) == 0
        found.append(json.loads((tmp_path / "evaluate.json").read_text())["report"]["images"])
    assert found[0] == found[1]


def test_many_classes_with_long_names_stay_under_4_mb():
    names = [f"{'long name ' * 9}{number}" for number in range(200)]
    result = ClassificationResult(np.random.default_rng(0).normal(size=(400, 200)), np.arange(400) % 200, names)
    figure = get_task("cls").figures(result, {})[0]
    drawn = charts.bars({"student": dataclasses.asdict(figure)}, colours={"student": 0})
    assert len(drawn) < 20_000
    forty = ClassificationResult(np.random.default_rng(0).normal(size=(4000, 40)), np.arange(4000) % 40, names[:40])
    figure = get_task("cls").figures(forty, {})[0]
    assert len(charts.matrix(dataclasses.asdict(figure), "student")) < 700_000
