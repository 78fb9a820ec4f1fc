"""The only place that knows rich: progress bars, tables, lines. Results go to stdout, everything else to stderr.

Names in messages and cells may hold any character; what would move the cursor or break a line is shown escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console as RichConsole
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from onehead_cli.files.json_files import SCHEMA
from onehead_cli.runtime import launch
from onehead_cli.wording import shown


class Console:
    """A terminal gets bars and colour; a pipe or file gets plain lines without control characters.

    Of several processes of a run, only the first shows anything.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.silent = not launch.is_main()
        self.quiet = quiet or self.silent
        self.as_json = as_json
        # Without emoji: a file may be named ":cat:.jpg".
        self._err = RichConsole(stderr=True, highlight=False, emoji=False)
        self._out = RichConsole(highlight=False, emoji=False)
        self._bars: Progress | None = None

    def note(self, message: str) -> None:
        """A line about what is going on; not with --quiet."""
        if not self.quiet:
            self.say(message)

    def say(self, message: str) -> None:
        """A line that --quiet shows as well."""
        if not self.silent:
            self._err.print(shown(message), markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        if not self.silent:
            self._err.print(f"warning: {shown(message)}", style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int, *, unit: str = "") -> Iterator[Callable[[int, str], None]]:
        """A bar on a terminal, a plain line at each tenth elsewhere, nothing with --quiet.

        A bar that is opened while another is open stands below it. unit: "bytes" writes amounts as 1.2 MB.
        """

        def amount(done: int) -> str:
            return f"{decimal(done)}/{decimal(total)}" if unit == "bytes" else f"{done}/{total}"

        if self.quiet:
            yield lambda done, detail: None
        elif self._err.is_terminal:
            with self._open_bars() as bars:
                bar = bars.add_task(shown(label), total=total, detail="")

                def move(done: int, detail: str) -> None:
                    bars.update(bar, completed=done, detail=amount(done) if unit else shown(detail))

                try:
                    yield move
                finally:
                    bars.remove_task(bar)
        else:
            tenths = 0

            def advance(done: int, detail: str) -> None:
                nonlocal tenths
                if done * 10 // max(total, 1) > tenths:
                    tenths = done * 10 // max(total, 1)
                    self.note(f"{label}: {amount(done)}" + (f" {detail}" if detail else ""))

            yield advance

    @contextmanager
    def _open_bars(self) -> Iterator[Progress]:
        """The bars that are on the terminal, or new ones."""
        if self._bars is not None:
            yield self._bars
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        try:
            with Progress(*columns, console=self._err, transient=True) as self._bars:
                yield self._bars
        finally:
            self._bars = None

    def result(self, document: Mapping[str, Any], *tables: Table | str) -> None:
        """The command's result on stdout: the document with --json, else the tables and lines."""
        if self.silent:
            return
        if self.as_json:
            sys.stdout.write(json.dumps({"schema": SCHEMA, **document}, indent=2, allow_nan=False) + "\n")
            return
        for table in tables:
            if isinstance(table, str):
                self._out.print(shown(table), markup=False, soft_wrap=True)
            else:
                self._out.print(table)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Table:
    """A plain table; the first `left` columns are aligned to the left, the rest to the right."""
    drawn = Table(
        title=escape(shown(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    for index, name in enumerate(header):
        # A long name is folded rather than pushing the other columns out of the terminal.
        is_left = index < left
        drawn.add_column(
            Text(shown(name)), justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(Text(shown(cell)) for cell in row))  # as Text: a cell such as "[red]" is no markup
    return drawn


def number(value: float | None, form: str = ".4f") -> str:
    """A score, or a dash where there is none."""
    return "–" if value is None else format(value, form)
