"""Tables and text on the terminal, without rich's markup.

Names of files, groups or models may hold brackets, which rich reads as markup. ``Table`` and ``Console`` of
this file show strings as they stand, and ``styled`` makes coloured text.
"""

from __future__ import annotations

import os
import textwrap
from typing import Any

import rich.box
import rich.console
import rich.table
from rich.text import Text

PIPE_WIDTH = 120  # characters of a table that no terminal limits


def styled(text: str, style: str) -> Text:
    """Text in a colour or weight, such as ``"red"`` or ``"bold"``; brackets in it are plain characters."""
    return Text(text, style=style)


class Table(rich.table.Table):
    """``rich.table.Table`` whose strings are plain text."""

    def __init__(self, *headers: Any, title: Any = None, **options: Any):
        super().__init__(*headers, title=_plain(title), **options)

    def add_column(self, header: Any = "", footer: Any = "", **options: Any) -> None:
        super().add_column(_plain(header), _plain(footer), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


class Console(rich.console.Console):
    """``rich.console.Console`` that prints strings as they stand; as wide as the terminal, or ``width``."""

    def __init__(self, width: int | None = None, **options: Any):
        super().__init__(markup=False, emoji=False, **options)
        if width is not None and not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = width


def narrow_table(title: str) -> Table:
    """A table without vertical lines, for many numbers in 80 columns; names that are too long go on below."""
    return Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=0)


def wrapped(text: str, indent: str = "", most: int = 100) -> str:
    """Text broken at words to the terminal's width; on a pipe one line, which programs can search."""
    console = Console()
    if not console.is_terminal:
        return text
    return textwrap.fill(text, min(console.width, most), subsequent_indent=indent, break_on_hyphens=False)


def show(table: Table, width: int = PIPE_WIDTH) -> None:
    """Print a table on stdout, on a pipe ``width`` characters wide."""
    Console(width).print(table)


def _plain(cell: Any) -> Any:
    return Text(cell) if isinstance(cell, str) else cell
