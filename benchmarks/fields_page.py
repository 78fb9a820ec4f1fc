"""Write docs/fields.md, every field of the config, from what the fields say of themselves.

`python benchmarks/fields_page.py` after a field was added or changed; a test compares the page with the fields.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from onehead_cli.config.fields import FieldDescription, describe_fields
from onehead_cli.config.sections import Config
from onehead_cli.files.atomic import write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "fields.md"
TEXT = """
# Every field of the config

`--config FILE` reads YAML, `--set section.key=value` changes any field, and most commands have flags for the commonest
ones; [Recipes and configs](recipes.md#how-settings-are-given) explains how the three combine.
`onehead train-unified --show-config` lists the same fields with the values that a run would use.

`python benchmarks/fields_page.py` wrote this page from the fields themselves. A dash means that there is nothing to
say, *unset* that a field has no value until you give it one.
"""
#: What a limit of pydantic's is called.
_LIMITS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
_WORDS = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text", "Path": "path"}


def page() -> str:
    """The content of docs/fields.md."""
    config = Config()
    fields = describe_fields(config)
    of_section = {name: [each for each in fields if each.key.startswith(f"{name}.")] for name in _sections(config)}
    top = [each for each in fields if "." not in each.key]
    lines = [*TEXT.strip().splitlines(), "", "## Without a section", "", *_table(config, top)]
    for name, model in _sections(config).items():
        lines += ["", f"## {name}", "", *_about(model), "", *_table(config, of_section[name])]
    return "\n".join(lines) + "\n"


def _sections(config: Config) -> dict[str, type[BaseModel]]:
    names = {info.alias or name: getattr(config, name) for name, info in type(config).model_fields.items()}
    return {name: type(value) for name, value in names.items() if isinstance(value, BaseModel)}


def _about(model: type[BaseModel]) -> list[str]:
    """The first paragraph of a section's docstring."""
    paragraph = (model.__doc__ or "").strip().partition("\n\n")[0]
    return [re.sub(r"\s+", " ", paragraph)]


def _table(config: Config, fields: Iterable[FieldDescription]) -> list[str]:
    lines = ["| key | value | default | unit | meaning |", "|---|---|---|---|---|"]
    for each in fields:
        limits = _limits(type(config), each.key.split("."))
        kind = ", ".join([_kind(each.type), *limits])
        unit = "–" if each.unit == "-" else each.unit
        lines.append(f"| `{each.key}` | {kind} | {_default(each.default)} | {unit} | {_cell(each.meaning)} |")
    return lines


def _kind(name: str) -> str:
    """What may be given, in words."""
    plain = " or ".join(_WORDS.get(part, part) for part in name.split(" or ") if part != "none")
    return plain.replace("list of int", "list of whole numbers").replace("|", r" \| ")


def _default(text: str) -> str:
    """As YAML has it."""
    words = {"None": "*unset*", "True": "`true`", "False": "`false`"}
    return words.get(text, f"`{text}`")


def _limits(model: type[BaseModel], parts: list[str]) -> list[str]:
    """What values a number may have."""
    for name in parts[:-1]:
        info = next(each for key, each in model.model_fields.items() if (each.alias or key) == name)
        default: Any = info.get_default(call_default_factory=True)
        model = type(default)
    info = next(each for key, each in model.model_fields.items() if (each.alias or key) == parts[-1])
    found = []
    for limit in info.metadata:
        if words := _LIMITS.get(type(limit)):
            value = next(getattr(limit, slot) for slot in ("ge", "gt", "le", "lt") if hasattr(limit, slot))
            found.append(f"{words} {value}")
    return found


def _cell(text: str) -> str:
    """Braces and angle brackets as code, for Markdown takes the latter for HTML."""
    return re.sub(r"(?<!`)(\S*\{[^}]*\}\S*)", r"`\1`", text).replace("|", r"\|").replace(".`", "`.").replace(",`", "`,")


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text = page()
    write_atomically(PAGE, lambda file: file.write(text.encode()))
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
