"""Packages that bring half a task, a broken one, or one that clashes: a line that says so, and no traceback."""

import forked
import pytest
from plugins import install

_FORMAT = """
from onehead_cli.data.mask_folders import MaskFolders
LIKE = MaskFolders()
"""
_TASK = """
from onehead_cli.tasks.segmentation.task import Segmentation

class Again(Segmentation):
    name = "again"

AGAIN = Again()
"""
_TASKS, _FORMATS = {"again": "again.task:AGAIN"}, {"again": "again.kind:LIKE"}


@pytest.mark.parametrize(
    ("groups", "broken", "said"),
    [
        ({"onehead.tasks": _TASKS}, None, "no entry point of this name in the group onehead.formats"),
        ({"onehead.formats": _FORMATS}, None, "no entry point of this name in the group onehead.tasks"),
        ({"onehead.tasks": _TASKS, "onehead.formats": _FORMATS}, "kind", "again.kind:LIKE cannot be loaded (Zero"),
        ({"onehead.tasks": _TASKS, "onehead.formats": _FORMATS}, "task", "again.task:AGAIN cannot be loaded (Zero"),
        ({"onehead.tasks": _TASKS, "onehead.formats": _FORMATS}, None, "its score miou has the key of one of the task"),
    ],
)
def test_what_is_wrong_with_a_package_is_one_line(groups, broken, said, tmp_path):
    package = tmp_path / "code" / "again"
    package.mkdir(parents=True)
    for name, text in (("kind", _FORMAT), ("task", _TASK)):
        (package / f"{name}.py").write_text("1 / 0" if name == broken else text)
    path = install(tmp_path / "site", "onehead-again", groups, tmp_path / "code")
    command = ["-m", "onehead_cli", "train-teacher", "--task", "again", "--set", "data.tasks=[cls, again]"]
    done = forked.run(*command, cwd=tmp_path, variables={"PYTHONPATH": path})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "task 'again'" in done.stderr and said in done.stderr
