"""A task is a room: `python tests/rooms.py` says where code outside of onehead_cli/tasks asks which task it has.

Three things give it away: the name of one of onehead's own tasks as a string, an import of what is particular to one,
and `isinstance` of it. `make check` runs this.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "onehead_cli"
OWN = ("cls", "seg", "det")
#: The rooms of the tasks. What they share is for all: the contract, the canvas, the architecture, labels, soft targets.
ROOMS = tuple(
    f"onehead_cli.tasks.{name}" for name in ("classification", "segmentation", "detection", "boxes_from_masks")
)
#: Where names may stand: the list of all tasks, the names of folders, each format's own, and the three datasets.
NAMES_MAY_STAND = (
    "registry.py",
    "data/layout.py",
    "data/class_folders.py",
    "data/mask_folders.py",
    "data/coco.py",
    "data/prepare/",
)


def questions(path: Path, name: str) -> Iterator[str]:
    """A line for each place of a file that knows a task. Args: name: of the file, below the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ROOMS):
            of_rooms |= {alias.asname or alias.name for alias in node.names}
            yield f"{name}:{node.lineno}: imports from {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in OWN and not name.startswith(NAMES_MAY_STAND):
            yield f"{name}:{node.lineno}: names the task '{node.value}'"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            if asked & of_rooms:
                yield f"{name}:{node.lineno}: asks for {', '.join(sorted(asked & of_rooms))}"


def all_questions(package: Path = PACKAGE) -> list[str]:
    """Those of all files outside the tasks' rooms."""
    files = [(path, path.relative_to(package).as_posix()) for path in sorted(package.rglob("*.py"))]
    return [line for path, name in files if not name.startswith("tasks/") for line in questions(path, name)]


if __name__ == "__main__":
    found = all_questions()
    print("\n".join(found) or "no code outside onehead_cli/tasks asks which task it has")
    sys.exit(bool(found))
