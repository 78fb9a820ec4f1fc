"""Writes docs/FAULTS.md from the tests: `python tests/fault_table.py`.

A fault's test is a function `test_fault_NN_what`; the first paragraph of its docstring says what the program does.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "FAULTS.md"

_HEAD = """# Faults, and what happens

Generated from the tests by `python tests/fault_table.py`: the name of a test gives the fault, its docstring what
happens. `pytest -k fault_NN` runs one.

| no. | fault | behaviour | test |
|---|---|---|---|
"""


@dataclass(frozen=True)
class FaultTest:
    """One test of a fault; path: of its file, from the repository's root."""

    number: int
    name: str
    behaviour: str
    path: str

    @property
    def fault(self) -> str:
        return self.name.removeprefix(f"test_fault_{self.number:02d}_").replace("_", " ")


def fault_tests() -> list[FaultTest]:
    """All tests whose name begins with test_fault, by number."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_fault"):
                continue
            match = re.fullmatch(r"test_fault_(\d{2,3})_(?!.*fault)\w+", node.name)
            if match is None:
                raise SystemExit(f"{path}: {node.name} is not named test_fault_NN_what")
            behaviour = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            found.append(FaultTest(int(match[1]), node.name, behaviour, path.relative_to(TESTS.parent).as_posix()))
    return sorted(found, key=lambda test: (test.number, test.name))


def table() -> str:
    """The content of docs/FAULTS.md."""
    return _HEAD + "".join(
        f"| {test.number} | {test.fault} | {test.behaviour} | [`{test.path}`](../{test.path}) |\n"
        for test in fault_tests()
    )


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
