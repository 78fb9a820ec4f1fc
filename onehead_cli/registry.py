"""Which tasks there are, found without loading them: `--help` and `prepare-data` must not wait for torch.

A task is an object (`tasks.task.Task`) and so is the format of its data on disk (`data.format.Format`). onehead's own
stand below; another package adds its own by entry points of one name in the groups `onehead.tasks` and
`onehead.formats`, each naming an object as "module:NAME".
"""

from __future__ import annotations

import functools
import zlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

from onehead_cli.errors import ConfigError

TASK_GROUP, FORMAT_GROUP = "onehead.tasks", "onehead.formats"

#: Name -> task, format. Their order is that of the head's groups and of the seeds, so a new one goes to the end.
_OWN = {
    "cls": ("onehead_cli.tasks.classification:CLASSIFICATION", "onehead_cli.data.class_folders:CLASS_FOLDERS"),
    "seg": ("onehead_cli.tasks.segmentation.task:SEGMENTATION", "onehead_cli.data.mask_folders:MASK_FOLDERS"),
    "det": ("onehead_cli.tasks.detection.task:DETECTION", "onehead_cli.data.coco:COCO_BOXES"),
}


@functools.cache
def _entries() -> dict[str, tuple[EntryPoint, EntryPoint]]:
    """By name, the entry points of each task and its format: onehead's own, then those of other packages by name."""
    found = {
        name: (EntryPoint(name, task, TASK_GROUP), EntryPoint(name, kind, FORMAT_GROUP))
        for name, (task, kind) in _OWN.items()
    }
    formats = {entry.name: entry for entry in entry_points(group=FORMAT_GROUP)}
    for task in sorted(entry_points(group=TASK_GROUP), key=lambda entry: entry.name):
        if task.name in formats and task.name not in found:
            found[task.name] = (task, formats[task.name])
    return found


OWN_TASKS: tuple[str, ...] = tuple(_OWN)
#: All tasks' names, onehead's own first.
TASKS: tuple[str, ...] = tuple(_entries())

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[TASKS]


def seed_of(task: str) -> int:
    """The number of a task in seeds; that of one from another package does not depend on what else is installed."""
    return OWN_TASKS.index(task) if task in OWN_TASKS else zlib.crc32(task.encode())


@functools.cache
def load_task(name: str) -> Any:
    """The `Task` of a name; the first call imports it, and torch with it.

    Raises:
        ConfigError: there is none of this name, or its package cannot be imported.
    """
    return _load(name, 0)


@functools.cache
def load_format(name: str) -> Any:
    """The `Format` of a task's data on disk; without torch.

    Raises:
        ConfigError: there is none of this name, or its package cannot be imported.
    """
    return _load(name, 1)


def _load(name: str, which: int) -> Any:
    if name not in TASKS:
        raise ConfigError(f"no task '{name}'; there are {', '.join(TASKS)}: install the package that brings it")
    entry = _entries()[name][which]
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"task '{name}': {entry.value} cannot be loaded ({error})") from None
