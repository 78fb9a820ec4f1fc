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
from onehead_cli.suggestion import did_you_mean

TASK_GROUP, FORMAT_GROUP = "onehead.tasks", "onehead.formats"

#: Name -> task, format. Their order is that of the head's groups and of the seeds, so a new one goes to the end.
_OWN = {
    "cls": ("onehead_cli.tasks.classification.task:CLASSIFICATION", "onehead_cli.data.class_folders:CLASS_FOLDERS"),
    "seg": ("onehead_cli.tasks.segmentation.task:SEGMENTATION", "onehead_cli.data.mask_folders:MASK_FOLDERS"),
    "det": ("onehead_cli.tasks.detection.task:DETECTION", "onehead_cli.data.coco:COCO_BOXES"),
}


@functools.cache
def _entries() -> dict[str, dict[str, EntryPoint]]:
    """By name, the entry points of each task and its format by group: onehead's own, then other packages' by name."""
    found = {
        name: {TASK_GROUP: EntryPoint(name, task, TASK_GROUP), FORMAT_GROUP: EntryPoint(name, kind, FORMAT_GROUP)}
        for name, (task, kind) in _OWN.items()
    }
    others = [entry for group in (TASK_GROUP, FORMAT_GROUP) for entry in entry_points(group=group)]
    for entry in sorted(others, key=lambda entry: entry.name):
        if entry.name not in _OWN:
            found.setdefault(entry.name, {})[entry.group] = entry
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
    return _load(name, TASK_GROUP)


@functools.cache
def load_format(name: str) -> Any:
    """The `Format` of a task's data on disk; without torch.

    Raises:
        ConfigError: there is none of this name, or its package cannot be imported.
    """
    return _load(name, FORMAT_GROUP)


def _load(name: str, group: str) -> Any:
    if name not in TASKS:
        meant = did_you_mean(name, TASKS) or "; install the package that provides it"
        raise ConfigError(f"no task '{name}' among {', '.join(TASKS)}{meant}")
    entry = _entries()[name].get(group)
    if entry is None:
        raise ConfigError(f"task '{name}': its package has no entry point of this name in the group {group}")
    try:
        return entry.load()
    except Exception as error:  # whatever may be wrong in a package of somebody else
        raise ConfigError(
            f"task '{name}': {entry.value} cannot be loaded ({type(error).__name__}: {error}); "
            "fix its package or uninstall it"
        ) from None
