"""`onehead export` through its entry point, and what is read of its outcome."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from onehead_cli.app import run
from onehead_cli.checkpoint.checkpoint import load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student


def export(file, *more):
    return run(["export", "--output", str(file), "--quiet", *map(str, more)])


def report(file):
    return json.loads(file.with_name(f"{file.stem}.export.json").read_text())


def error_of(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    return said


def renamed(data: Path, to: Path) -> Path:
    """The drawn data with the classes of the shipped student."""
    classes = load_checkpoint(shipped_student()).architecture.classes
    shutil.copytree(data, to)
    for split in ("train", "val", "test"):
        folder = to / "imagenette-160" / split
        for old, new in zip(sorted(folder.iterdir()), classes["cls"], strict=True):
            old.rename(folder / new)
        path = to / "mini_coco_det" / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for category, name in zip(document["categories"], classes["det"], strict=True):
            category["name"] = name
        path.write_text(json.dumps(document))
    (to / "mini_voc_seg" / "classes.yaml").write_text("".join(f"- {name}\n" for name in classes["seg"]))
    (to / "manifest.json").unlink()
    return to
