"""A YAML file, `--set` and flags merged once, then validated once."""

from __future__ import annotations

import copy
import difflib
import functools
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model

from onehead_cli import registry
from onehead_cli.config.fields import fields_of, keys_of
from onehead_cli.config.sections import Config
from onehead_cli.config.yaml_text import parse_yaml
from onehead_cli.errors import ConfigError

#: Where the configs of the README are: in a clone, and where the wheel puts them.
_OWN_CONFIGS = (
    Path(__file__).parents[2] / "configs",
    Path(sysconfig.get_path("data"), "share", "onehead", "configs"),
)

#: Keys that are gone, with the default they had; where one still stands at it, it is passed over.
_GONE: dict[str, Any] = {"distill.gate_masks": False}


@functools.cache
def config_class() -> type[Config]:
    """The config with the sections that formats of other packages bring."""
    formats = {name: registry.load_format(name) for name in registry.TASKS if name not in registry.OWN_TASKS}
    sections = {name: (found.section, found.section()) for name, found in formats.items() if found.section}
    if taken := sorted(sections.keys() & Config.model_fields.keys()):
        raise ConfigError(
            f"a task from another package may not be named {', '.join(taken)}: the config has that section"
        )
    return create_model("Config", __base__=Config, **sections) if sections else Config  # type: ignore[call-overload]


def default_config() -> Config:
    return config_class()()


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Merge a YAML file and overrides (dotted key -> value; None is left out), then validate.

    A relative path inside the file is taken from the file's folder; one given as an override from the working folder.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not accepted; the nearest known key is named.
    """
    raw = _read_yaml(path) if path else {}
    # An empty section is read as None; what is meant is its defaults.
    raw = {key: {} if value is None else value for key, value in raw.items()}
    if path:
        _anchor_paths(raw, path.parent)
    for key, value in (overrides or {}).items():
        if value is not None:
            _set_dotted(raw, key, value)
    _pass_over_gone(raw)
    try:
        return config_class().model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def config_of(stored: Mapping[str, Any]) -> Config:
    """The config that a checkpoint or a kept result holds, whatever version wrote it.

    Raises:
        ConfigError: it holds what no version knew.
    """
    raw = copy.deepcopy(dict(stored))
    _pass_over_gone(raw)
    try:
        return config_class().model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, None)) from None


def is_gone(key: str, value: Any) -> bool:
    """Whether a dotted key is known no more and stood at the default it had, so that it meant nothing."""
    return key in _GONE and _GONE[key] == value


def _pass_over_gone(raw: dict[str, Any]) -> None:
    for key in _GONE:
        *parents, last = key.split(".")
        node: Any = raw
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node and is_gone(key, node[last]):
            del node[last]


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `--set a.b=value` options into {"a.b": value}; the value is read as YAML.

    Raises:
        ConfigError: an assignment without `=`, or a value that is not YAML.
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment}: write it as section.key=value")
        try:
            parsed[key.strip()] = parse_yaml(value)
        except ValueError:
            raise ConfigError(f"--set {assignment}: the value is not valid YAML") from None
    return parsed


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        own = next((folder / path.name for folder in _OWN_CONFIGS if (folder / path.name).is_file()), None)
        raise ConfigError(f"{path}: no such file" + (f"; onehead's own is {own}" if own else "")) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not valid YAML (not UTF-8)") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as 'data:' and 'student:', found {type(raw).__name__}")
    return raw


def _anchor_paths(raw: dict[str, Any], folder: Path) -> None:
    for known in fields_of(config_class()):
        if Path not in known.members:
            continue
        *parents, last = known.key.split(".")
        node: Any = raw
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), str) and node[last] not in known.words:
            node[last] = os.path.normpath(folder / node[last])


def _set_dotted(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: '{parent}' is not a section")
        node = child
    node[last] = value


def _explain(error: ValidationError, path: Path | None) -> str:
    """One line for the first problem of a validation; an unknown key names the nearest known one."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    source = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        known = list(keys_of(config_class()))
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        # A right key in the wrong section is closer to what was meant than a similar word.
        same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
        return f"{source}unknown key '{key}'; did you mean '{(same_name or near)[0]}'?"
    message = first["msg"].removeprefix("Value error, ")
    return f"{source}{key}: {message}" if key and not message.startswith(key) else f"{source}{message}"
