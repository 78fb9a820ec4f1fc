"""Reading YAML from users, whatever it holds."""

from __future__ import annotations

import codecs
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"
#: In front of text in UTF-16 and UTF-32.
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def read_yaml(path: Path) -> Any:
    """The document of a file as plain Python objects; None where it holds comments alone.

    Raises:
        OSError: the file cannot be read.
        ValueError: see `read_text` and `parse_yaml`; the message fits behind a file name.
    """
    return parse_yaml(read_text(path))


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty, or in another encoding; the message fits behind a file name.
    """
    content = path.read_bytes()
    if content.startswith(_MARKS):
        raise ValueError("not in UTF-8 but in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save the file as UTF-8") from None
    if not text.strip():
        raise ValueError("the file is empty")
    return text


def parse_yaml(text: str) -> Any:
    """The document as plain Python objects; None where it is empty.

    Raises:
        ValueError: not YAML, or a key is written twice, with the line where it is known; the message fits behind a
            file name.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except _RepeatedKeyError as error:
        raise ValueError(str(error)) from None
    # PyYAML lets pass whatever its parts stumble over: KeyError for `!!bool maybe`, AttributeError for `!!timestamp x`,
    # ValueError for 2001-99-99, RecursionError for deep nesting.
    except Exception as error:
        raise ValueError(_explain(error, text)) from None


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a document, whose scalars are the text that was written; None where it is empty.

    Raises:
        ValueError: not YAML; see `parse_yaml`.
    """
    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except Exception as error:  # as there
        raise ValueError(_explain(error, text)) from None


def line_of(text: str, keys: Sequence[str | int]) -> int | None:
    """The line of the last of these nested keys that stands in a valid document; None where not even the first does."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = None
    for key in keys:
        found = next((pair for pair in _pairs(node) if pair[0] == str(key)), None)
        if found is None:
            break
        _, line, node = found
    return line


def _pairs(node: yaml.Node | None) -> Iterator[tuple[str, int, yaml.Node]]:
    """Key, its line and its value, of a mapping with what is merged into it, or of a list."""
    if isinstance(node, yaml.SequenceNode):
        for place, each in enumerate(node.value):
            yield str(place), each.start_mark.line + 1, each
    elif isinstance(node, yaml.MappingNode):
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield str(key.value), key.start_mark.line + 1, value
        for each in merged:
            yield from _pairs(each)


class _RepeatedKeyError(ValueError):
    pass


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which PyYAML keeps the last; what is merged may be written again."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                where = f"line {line}" if lines[name] == line else f"lines {lines[name]} and {line}"
                raise _RepeatedKeyError(f"{name!r} is written twice, at {where}")
            lines[name] = line
        return node


def _explain(error: Exception, text: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        sign = chr(error.character) if isinstance(error.character, int) else error.character
        return f"not valid YAML at line {text.count(chr(10), 0, error.position) + 1}: {sign!r} is not allowed"
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "not valid YAML"
    problem = str(getattr(error, "problem", None) or "")
    if "'\\t'" in problem:
        return f"a tab at line {mark.line + 1}, where YAML allows only spaces"
    return f"not valid YAML at line {mark.line + 1}" + (f" ({' '.join(problem.split())})" if problem else "")
