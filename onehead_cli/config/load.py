"""A YAML file, `--set` and flags merged once, then validated once; and what is shown of the fields."""

from __future__ import annotations

import copy
import difflib
import functools
import os
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, create_model

from onehead_cli import registry
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


@dataclass(frozen=True)
class FieldDescription:
    """One field of the config as --show-config shows it; `key` is dotted."""

    key: str
    type: str
    value: str
    default: str
    unit: str
    meaning: str


def describe_fields(config: Config) -> list[FieldDescription]:
    """Every field of a config, in the order of the sections."""
    return list(_describe(config, default_config(), ""))


def _describe(section: BaseModel, defaults: BaseModel, prefix: str) -> Iterator[FieldDescription]:
    for name, info in type(section).model_fields.items():
        key, value, default = prefix + (info.alias or name), getattr(section, name), getattr(defaults, name)
        if isinstance(value, BaseModel):
            yield from _describe(value, default, f"{key}.")
            continue
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        unit, meaning = str(extra.get("unit", "-")), info.description or ""
        yield FieldDescription(key, _type_name(info.annotation), _shown(value), _shown(default), unit, meaning)


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _type_name(annotation: Any) -> str:
    choices = get_args(annotation)
    if choices and choices[-1] is Ellipsis:
        return f"list of {_type_name(choices[0])}"
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if choices:
        return " or ".join(map(_type_name, choices))
    return "none" if annotation is type(None) else str(annotation.__name__)


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
    for key, words in _path_keys(config_class(), ""):
        *parents, last = key.split(".")
        node: Any = raw
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), str) and node[last] not in words:
            node[last] = os.path.normpath(folder / node[last])


def _path_keys(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The keys that take a path, each with the words that it takes besides."""
    for name, info in section.model_fields.items():
        key, annotation = prefix + (info.alias or name), info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _path_keys(annotation, f"{key}.")
        elif annotation is Path or Path in get_args(annotation):
            yield key, tuple(word for choice in get_args(annotation) for word in get_args(choice))


def _set_dotted(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: '{parent}' is not a section")
        node = child
    node[last] = value


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in section.model_fields.items():
        key, annotation = prefix + (info.alias or name), info.annotation
        yield key
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _known_keys(annotation, f"{key}.")


def _explain(error: ValidationError, path: Path | None) -> str:
    """One line for the first problem of a validation; an unknown key names the nearest known one."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    source = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        known = list(_known_keys(config_class()))
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        # A right key in the wrong section is closer to what was meant than a similar word.
        same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
        return f"{source}unknown key '{key}'; did you mean '{(same_name or near)[0]}'?"
    message = first["msg"].removeprefix("Value error, ")
    return f"{source}{key}: {message}" if key and not message.startswith(key) else f"{source}{message}"
