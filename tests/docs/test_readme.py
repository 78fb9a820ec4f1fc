"""The README is short, and what it shows is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from PIL import Image

from onehead_cli import __version__
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.files.checksum import sha256_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
RESULTS = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
KEPT = ROOT / "benchmarks" / "results"


def _section(lines: list[str], heading: str) -> list[str]:
    """The lines below a heading, up to the next one."""
    below = lines[lines.index(heading) + 1 :]
    return below[: next((place for place, line in enumerate(below) if line.startswith("#")), len(below))]


def _tables(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            found.append([])
        elif found:
            found[-1].append(line)
    return [table for table in found if table]


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README) <= 150


def test_the_verdicts_are_those_of_the_results() -> None:
    verdicts, scores = _tables(_section(README, "## Was anything lost?"))
    assert verdicts == _tables(_section(RESULTS, "## Drop check, full, pooled"))[0]
    header, _, *rows = _tables(_section(RESULTS, "### Val and test pooled"))[0]
    wanted = [row for row in rows if row.split("|")[1].strip() in ("unified, full", "baselines, full")]
    assert [scores[0].split(), *scores[2:]] == [header.split(), *wanted]


def test_the_verdicts_are_those_of_the_kept_runs() -> None:
    section = _section(README, "## Was anything lost?")
    _, _, *rows = _tables(section)[0]
    cells = {int(row.split("|")[1]): row.split("|")[2:5] for row in rows if "over" not in row}
    kept = {int(path.stem.rpartition("seed")[2]): path for path in KEPT.glob("lite-long-full-seed*.json")}
    assert cells.keys() == kept.keys() <= {0, 1, 2}
    assert ("So far two of the three seeds are there." in " ".join(section)) == (len(kept) == 2)
    for seed, path in kept.items():
        document = json.loads(path.read_text())
        for cell, drop in zip(cells[seed], document["evaluation"]["pooled"]["drop"].values(), strict=True):
            assert cell.split()[0] == f"{drop['diff']:+.4f}" and cell.split()[-1] == drop["verdict"]


def test_the_picture_is_of_the_shipped_student() -> None:
    picture = ROOT / "docs" / "door.jpg"
    with Image.open(picture) as image:
        said = image.info["comment"].decode()
        assert 800 <= image.width <= 1000
    assert said == f"student {sha256_of(shipped_student())}", (
        "run `python benchmarks/door_picture.py`, and read the words below the picture"
    )
    assert picture.stat().st_size <= 200_000


def test_the_page_of_fields_is_the_generated_one() -> None:
    from fields_page import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(), "run `python benchmarks/fields_page.py`"


def test_the_page_of_the_export_begins_as_its_script_writes_it() -> None:
    """Its figures are measured by hand, its text is not."""
    script = (ROOT / "benchmarks" / "deploy_page.py").read_text(encoding="utf-8")
    text = script.partition('TEXT = """\n')[2].partition('"""')[0]
    assert text and (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").startswith(text)


def test_the_citation_has_the_licence_and_name_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["authors"]
    assert (citation["title"], citation["license"]) == ("onehead", "Apache-2.0")


def test_the_workflow_runs_what_make_test_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    [command] = [
        line.split("python ")[1]
        for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
        if "-m pytest -m" in line and "not install" in line
    ]
    assert f"python {command}" in steps


def test_the_citation_and_the_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## ")
    assert citation["version"] == __version__
    assert first == f"## {__version__} ({citation['date-released']})"
