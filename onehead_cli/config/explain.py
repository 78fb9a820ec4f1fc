"""What is wrong with a config, in one line: where the value stands or which flag gave it, the key, and the limit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onehead_cli.config.yaml_text import line_of
from onehead_cli.suggestion import did_you_mean, nearest, suggestion

#: Type of pydantic's errors, as it begins -> what is wanted; of the others pydantic's own words do.
_WANTED = {
    "model_": "must be a section, with keys below it",
    "tuple_type": "must be a list",
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "bool_": "must be true or false",
    "path_type": "must be a path",
    "string_type": "must be text; put it in quotes",
}


@dataclass(frozen=True)
class Origins:
    """Where the values of a config come from.

    path, text: the YAML file. given: by dotted key, how it was given otherwise, such as "--epochs 0"; the later holds.
    """

    path: Path | None = None
    text: str = ""
    given: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str) -> str:
        """The beginning of a message on a key: the flag, or the file and its line; "" where neither is known."""
        for other, words in reversed(list(self.given.items())):
            if _is_within(key, other) or _is_within(other, key):
                return f"{words}: " if words else ""
        if self.path is None:
            return ""
        line = line_of(self.text, [key]) or line_of(self.text, key.split("."))
        return f"{self.path}: line {line}: " if line else f"{self.path}: "

    def with_given(self, key: str, words: str) -> Origins:
        """With one more that was given; words: "" where nobody is to be told how."""
        earlier = {other: said for other, said in self.given.items() if other != key}
        return dataclasses.replace(self, given={**earlier, key: words})

    def is_in_file(self, key: str) -> bool:
        return self.path is not None and self.of(key).startswith(f"{self.path}: ")


def explain(error: ValidationError, known: Collection[str], origins: Origins) -> str:
    """One line for the first problem of a validation.

    Args:
        known: the dotted keys of all fields and sections.
    """
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{origins.of(key)}unknown key '{key}'{_suggest_key(key, known)}"
    message = str(first["msg"]).removeprefix("Value error, ")
    about = message.partition(" ")[0]
    if about in known:  # what depends on several fields names the one that is wrong
        return origins.of(about) + message
    key = _known_part(first["loc"], known)
    # `seed.x` makes a section of a field that is none.
    if below := [other for other in origins.given if other.startswith(f"{key}.") and other not in known]:
        return f"{origins.of(below[-1])}unknown key '{below[-1]}'{_suggest_key(below[-1], known)}"
    wanted = next((words for kind, words in _WANTED.items() if first["type"].startswith(kind)), None)
    message = wanted or re.sub("^Input should be", "must be", message)
    value, field_key = first["input"], re.sub(r"(\.\d+)+$", "", key)
    if (origins.is_in_file(key) or field_key != key) and isinstance(value, str | int | float) and len(repr(value)) < 60:
        message += f", not {value!r}"
    if first["type"] == "literal_error":
        message += did_you_mean(str(value), re.findall("'([^']*)'", str(first["ctx"]["expected"])))
    between = "" if not field_key else " " if message.startswith("must") else ": "
    return f"{origins.of(key)}{field_key}{between}{message}"


def _known_part(place: Iterable[Any], known: Collection[str]) -> str:
    """A dotted key without what pydantic says of the members of a union behind it."""
    parts: list[str] = []
    for part in map(str, place):
        if ".".join([*parts, part]) not in known and not part.isdecimal():
            break
        parts.append(part)
    return ".".join(parts)


def _suggest_key(key: str, known: Collection[str]) -> str:
    """For an unknown key: the same name in another section, else one spelt almost so, here or there."""
    if key in known:  # with a dot in it, at the top of a file
        section, _, name = key.partition(".")
        return f" with a dot in it; write '{name}:' below '{section}:'"
    section, _, name = key.rpartition(".")
    same = [each for each in known if _name(each) == name or _plain(each) == _plain(key)]
    if same:
        least = min(each.count(".") for each in same)
        return suggestion([each for each in same if each.count(".") == least])
    here = {_name(each): each for each in known if each.rpartition(".")[0] == section}
    if near := nearest(name, here):
        return suggestion([here[each] for each in near])
    names = nearest(name, dict.fromkeys(map(_name, known)))
    return suggestion([each for each in known if _name(each) in names])


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(key: str) -> list[str]:
    return sorted(re.split(r"[._-]", key.casefold()))


def _is_within(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")
