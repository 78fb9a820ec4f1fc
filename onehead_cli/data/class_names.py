"""Files of class names: a YAML list, a mapping from index to name, YOLO's `names:`, or a text of a name per line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from onehead_cli.config.sections import IGNORE_INDEX
from onehead_cli.config.yaml_text import compose_yaml
from onehead_cli.errors import DataError
from onehead_cli.wording import is_one_line

#: Of files with a name per line; all others are YAML, which JSON is too.
_TEXTS = (".txt", ".names")


def read_class_names(path: Path) -> list[str]:
    """The names, in the order of the labels, as they are written: `no`, `1` and `2024-01-01` are text.

    Raises:
        DataError: the file cannot be read, or an entry is no name; it is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise DataError(f"{path}: not UTF-8 text") from None
    if path.suffix.lower() in _TEXTS:
        names = [line.strip() for line in text.rstrip().split("\n")]
    else:
        # JSON takes tabs between values, where YAML takes none; within its strings there are none.
        names = _in_yaml(text.expandtabs() if path.suffix.lower() == ".json" else text, path)
    if not any(names):
        raise DataError(f"{path}: expected a list of class names, background first")
    for index, name in enumerate(names):
        _check(name, names[:index], f"{path}: class {index}")
    if len(names) > IGNORE_INDEX:
        raise DataError(f"{path}: {len(names)} class names, but a mask has room for {IGNORE_INDEX}")
    return names


def _check(name: str, before: Sequence[str], where: str) -> None:
    if not name.strip():
        raise DataError(f"{where} has no name")
    if not is_one_line(name):
        raise DataError(f"{where}: {name!a} holds a control character or half a character")
    if name in before:
        raise DataError(f"{where} repeats the name {name} of class {before.index(name)}")


def _in_yaml(text: str, path: Path) -> list[str]:
    try:
        # Not its values, of which `no` is false and 012 is ten: its nodes, which have the text and keys written twice.
        root = compose_yaml(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if isinstance(root, yaml.MappingNode):
        named = [value for key, value in root.value if key.value == "names"]
        if len(named) > 1:
            raise DataError(f"{path}: 'names' is written twice")
        root = named[0] if named else root
    if isinstance(root, yaml.SequenceNode):
        return [_text(node, f"{path}: class {index}") for index, node in enumerate(root.value)]
    if isinstance(root, yaml.MappingNode):
        return _by_index(root, path)
    raise DataError(f"{path}: expected a list of class names, background first")


def _by_index(mapping: yaml.MappingNode, path: Path) -> list[str]:
    found: dict[int, str] = {}
    for key, value in mapping.value:
        written = key.value if isinstance(key, yaml.ScalarNode) else "?"
        if not re.fullmatch(r"[0-9]{1,9}", written):
            raise DataError(f"{path}: {written!a} is not a class index; expected a list of names, or index: name")
        if int(written) in found:
            raise DataError(f"{path}: class {int(written)} is written twice")
        found[int(written)] = _text(value, f"{path}: class {int(written)}")
    gaps = [index for index in range(len(found)) if index not in found]
    if gaps:
        raise DataError(f"{path}: class {gaps[0]} is missing, and there is a class {max(found)}")
    return [found[index] for index in range(len(found))]


def _text(node: yaml.Node, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
        raise DataError(f"{where} is a {kind}, not a name")
    # JSON writes an emoji as two halves, which YAML leaves apart.
    return str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
