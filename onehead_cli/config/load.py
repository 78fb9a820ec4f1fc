"""A YAML file, `--set` and flags merged once, then validated once."""

from __future__ import annotations

import copy
import functools
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model

from onehead_cli import registry
from onehead_cli.config.explain import Origins, explain
from onehead_cli.config.fields import fields_of, keys_of
from onehead_cli.config.paths import full_path
from onehead_cli.config.sections import Config
from onehead_cli.config.yaml_text import parse_yaml, read_text
from onehead_cli.errors import ConfigError
from onehead_cli.wording import shown

#: Where the configs of the README are: in a clone, and where the wheel puts them.
_OWN_CONFIGS = (
    Path(__file__).parents[2] / "configs",
    Path(sysconfig.get_path("data"), "share", "onehead", "configs"),
)

#: Keys that are gone, with the default they had, and why; where one still stands at its default, it is passed over.
_GONE: dict[str, tuple[Any, str]] = {"distill.gate_masks": (False, "removed in 0.2.0: it lost mIoU")}


@functools.cache
def config_class() -> type[Config]:
    """The config with the sections that formats of other packages bring."""
    others = [name for name in registry.TASKS if name not in registry.OWN_TASKS]
    if taken := sorted({*others} & {*Config.model_fields, "all"}):
        raise ConfigError(
            f"a task from another package may not be named {', '.join(taken)}: that is a part of the config, or `all`"
        )
    formats = {name: registry.load_format(name) for name in others}
    sections = {name: (found.section, found.section()) for name, found in formats.items() if found.section}
    return create_model("Config", __base__=Config, **sections) if sections else Config  # type: ignore[call-overload]


def default_config() -> Config:
    return config_class()()


def load_config(
    path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    given: Mapping[str, str] | None = None,
) -> Config:
    """Merge a YAML file and overrides (dotted key -> value), then validate. None unsets a field that may be unset.

    A relative path inside the file is taken from the file's folder; one given as an override from the working folder.
    `~` and `$NAME` are filled in, in both.

    Args:
        given: by dotted key, how an override was given, such as "--epochs 0"; errors name it.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not accepted; where it comes from is named, and of
            an unknown key the nearest known one, where one is near.
    """
    path = None if path is None else Path(path)
    text, raw = _read(path) if path else ("", {})
    origins = Origins(path, text)
    if path:
        _fill_in_paths(raw, origins, path.parent)
    for key, value in (overrides or {}).items():
        later = origins.with_given(key, (given or {}).get(key, ""))
        piece = _set_dotted({}, key, value, origins)
        _fill_in_paths(piece, later)
        _set_dotted(raw, key, functools.reduce(lambda node, part: node[part], key.split("."), piece), origins)
        _drop_own_of_tasks(raw, key)
        origins = later
    return _validated(raw, origins)


def config_of(stored: Mapping[str, Any]) -> Config:
    """The config that a checkpoint or a kept result holds, whatever version wrote it.

    Raises:
        ConfigError: it holds what no version knew.
    """
    return _validated(copy.deepcopy(dict(stored)), Origins())


def _validated(raw: dict[str, Any], origins: Origins) -> Config:
    _pass_over_gone(raw, origins)
    try:
        return config_class().model_validate(raw)
    except ValidationError as error:
        raise ConfigError(shown(explain(error, list(keys_of(config_class())), origins))) from None


def is_gone(key: str, value: Any) -> bool:
    """Whether a dotted key is known no more and stood at the default it had, so that it meant nothing."""
    return key in _GONE and _GONE[key][0] == value


def why_gone(key: str) -> str | None:
    """Of a dotted key that is known no more: "removed in", the version and the reason."""
    return _GONE[key][1] if key in _GONE else None


def _pass_over_gone(raw: dict[str, Any], origins: Origins) -> None:
    for key in _GONE:
        *parents, last = key.split(".")
        node: Any = raw
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            if not is_gone(key, node[last]):
                raise ConfigError(f"{origins.of(key)}{key} was {why_gone(key)}")
            del node[last]


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `--set a.b=value` options into {"a.b": value}; the value is read as YAML.

    Raises:
        ConfigError: an assignment without `=`, or a value that is not YAML.
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {assignment}: write it as section.key=value")
        try:
            found = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {assignment}: {error}") from None
        parsed.pop(key.strip(), None)  # a key that is given twice holds as given last, also against its neighbours
        parsed[key.strip()] = found
    return parsed


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a YAML file and the sections in it."""
    try:
        text = read_text(path)
        raw = parse_yaml(text)
    except FileNotFoundError:
        own = next((folder / path.name for folder in _OWN_CONFIGS if (folder / path.name).is_file()), None)
        raise ConfigError(f"{path}: no such file" + (f"; onehead's own is {own}" if own else "")) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder, not a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(raw, dict | None):
        raise ConfigError(f"{path}: expected sections such as 'data:' and 'student:', found {type(raw).__name__}")
    # An empty section is read as None; what is meant is its defaults.
    return text, {key: {} if value is None else value for key, value in (raw or {}).items()}


def _fill_in_paths(raw: dict[str, Any], origins: Origins, folder: Path | None = None) -> None:
    """Fill in `~` and variables of every path; folder: what relative ones are taken from, if not the working folder."""
    for known in fields_of(config_class()):
        if Path not in known.members:
            continue
        *parents, last = known.key.split(".")
        node: Any = raw
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), str) and node[last] not in known.words:
            try:
                filled = full_path(node[last], folder or Path())
            except ValueError as error:
                raise ConfigError(f"{origins.of(known.key)}{known.key}: {error}") from None
            node[last] = filled if folder is None else os.path.normpath(folder / filled)


def _drop_own_of_tasks(raw: dict[str, Any], key: str) -> None:
    """What is given for all teachers, as by --epochs, holds for those too of which the file says something else."""
    section, _, name = key.partition(".")
    if section != "teacher" or not isinstance(raw["teacher"], dict):
        return
    for task in registry.TASKS:
        own = raw["teacher"].get(task)
        if isinstance(own, dict):
            own.pop(name, None)


def _set_dotted(raw: dict[str, Any], key: str, value: Any, origins: Origins) -> dict[str, Any]:
    *parents, last = key.split(".")
    node = raw
    for depth, parent in enumerate(parents, start=1):
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            section = ".".join(parents[:depth])
            raise ConfigError(f"{origins.of(section)}{section} must be a section, with keys below it")
    node[last] = value
    return raw
