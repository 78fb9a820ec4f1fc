"""The check that nobody outside a task's room asks which task it has."""

import pytest
from rooms import all_questions


def test_nobody_asks():
    assert all_questions() == []


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("training/run.py", "if task == 'seg': pass\n", "training/run.py:1: names the task 'seg'"),
        ("engine/use.py", "from onehead_cli.tasks.detection.task import Detection\n", "imports from onehead_cli.tasks"),
        (
            "evaluation/report.py",
            "from onehead_cli.tasks.classification.task import Classification as C\nisinstance(task, (int, C))\n",
            "evaluation/report.py:2: asks for C",
        ),
    ],
)
def test_who_asks_is_named(tmp_path, where, code, said):
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_text(code)
    assert any(said in line for line in all_questions(tmp_path))


def test_a_room_may_know_itself_and_the_list_may_name_all(tmp_path):
    for where in ("tasks/detection/task.py", "registry.py", "data/prepare/official.py"):
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / where).write_text("NAME = 'det'\n")
    assert all_questions(tmp_path) == []
