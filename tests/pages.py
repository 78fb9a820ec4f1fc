"""The Markdown pages of the repository: what they link to, and the commands in them, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import forked
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tiny import SMALL

ROOT = Path(__file__).parents[1]
#: Folders whose pages are others', or are made by a run.
_NOT_OURS = {"node_modules", "output", "data", "build", "dist"}
_PARSER = MarkdownIt("commonmark").enable("table")

#: After a block's language: it is not run, and why.
NO_RUN = "no-run:"
#: What each command gets besides what the page says, so that it takes a second or two.
_SMALLER: Mapping[str, Sequence[str]] = {
    "train-teacher": [*SMALL, "--epochs", "1"],
    "train-unified": [*SMALL, "--epochs", "1"],
    "evaluate": ["--set", "evaluation.resamples=50"],
    "profile": ["--runs", "1"],
}
_SMALLER_DATA = ["--sizes", "12,10,10", "--image-size", "72"]
#: Commands in one process, for the imports take longer than they.
_CHAIN = """
import json, sys
from onehead_cli.app import run
for command in json.loads(sys.argv[1]):
    print("$", *command, file=sys.stderr, flush=True)
    if code := run(command):
        sys.exit(code)
"""


def pages() -> list[Path]:
    """All Markdown files, relative to the repository."""
    found = []
    for folder, names, files in os.walk(ROOT):
        names[:] = sorted(name for name in names if name not in _NOT_OURS and not name.startswith("."))
        found += [Path(folder, name).relative_to(ROOT) for name in sorted(files) if name.endswith(".md")]
    return found


@dataclass(frozen=True)
class Link:
    line: int
    target: str


def links(page: Path) -> list[Link]:
    """The targets of links and images."""
    return [
        Link(line, str(token.attrs["href" if token.type == "link_open" else "src"]))
        for line, token in _inline(_parsed(page))
        if token.type in ("link_open", "image")
    ]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    tokens, found = _parsed(page), set[str]()
    for heading, content in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(child.content for child in content.children or () if child.type in ("text", "code_inline"))
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            # The second heading of one name gets a number.
            found.add(next(each for each in _numbered(name) if each not in found))
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}-{number}"
        number += 1


def _parsed(page: Path) -> list[Token]:
    return _PARSER.parse((ROOT / page).read_text(encoding="utf-8"))


def _inline(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """The tokens within paragraphs, cells and headings, each with the first line of its block."""
    line = 0
    for token in tokens:
        line = token.map[0] + 1 if token.map else line
        for child in token.children or ():
            yield line, child
            yield from ((line, inner) for inner in child.children or ())


@dataclass(frozen=True)
class Block:
    """A block of commands. why_not: it is not run, because."""

    line: int
    text: str
    why_not: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks marked as `sh`."""
    found = []
    for token in _parsed(page):
        language, _, rest = token.info.strip().partition(" ")
        if token.type == "fence" and language == "sh":
            assert not rest or rest.startswith(NO_RUN), f"{page}: unknown mark of a block: {token.info}"
            why_not = rest.removeprefix(NO_RUN).strip() if rest else None
            found.append(Block((token.map or [0])[0] + 1, token.content, why_not))
    return found


def run_page(page: Path, folder: Path, variables: Mapping[str, str] | None = None) -> list[str]:
    """Run a page's blocks in their order, in a folder. Returns the commands that were run."""
    lines = [
        line
        for block in blocks(page)
        if block.why_not is None
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    waiting: list[list[str]] = []
    for line in [*lines, None]:
        command = _simple(line) if line else None
        if command is not None:
            waiting.append(_smaller(command))
            continue
        if waiting:
            done = forked.run("-c", _CHAIN, json.dumps(waiting), cwd=folder, variables=variables)
            assert done.returncode == 0, f"{page}: exit code {done.returncode}\n{done.stderr}"
            waiting = []
        if line:
            _in_a_shell(page, line, folder, variables or {})
    return lines


def _simple(line: str) -> list[str] | None:
    """The arguments of one command of onehead; None for what needs a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words = list(lexer)
    is_simple = words[0] == "onehead" and not any(set(word) <= set("();<>|&") for word in words if word)
    return words[1:] if is_simple else None


def _smaller(command: list[str]) -> list[str]:
    if command[0] == "prepare-data" and "synthetic" in command:
        return [*command, *_SMALLER_DATA]
    return [*command, *_SMALLER.get(command[0], ())]


def _in_a_shell(page: Path, line: str, folder: Path, variables: Mapping[str, str]) -> None:
    shell = shutil.which("bash")
    assert shell is not None, f"{page}: no bash for: {line}"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, **variables, "PATH": path}
    command = [shell, "-euo", "pipefail", "-c", line]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {line}: exit code {done.returncode}\n{done.stderr}"
