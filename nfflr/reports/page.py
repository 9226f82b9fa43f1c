"""One self-contained HTML page from a template: no script, no file or address outside of it."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import matplotlib.figure
from markupsafe import Markup

SHORT = 22  # characters of a cell that is not broken into lines


def render(template: str, **content: object) -> str:
    """A page by a template of this folder; every value is escaped, so that names in data stay text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def shown(value: object) -> object:
    """A value as people read it: a dash where there is none, numbers in four digits, lists in one line.

    Control characters and lone surrogates, which no page may hold, are left out.
    """
    if isinstance(value, Markup):
        return value
    if value is None or value != value or value in ({}, [], ()):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


@dataclass(frozen=True)
class Grid:
    """A table of rows below headers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]

    def look(self, column: int, value: object) -> Markup:
        """The class attribute of a cell: numbers stand right, what is short is not broken into lines."""
        cells = [row[column] for row in self.rows]
        numeric = all(is_number(c) or c is None for c in cells) and any(map(is_number, cells))
        classes = [name for name, holds in (("number", numeric), ("short", is_short(value))) if holds]
        return Markup(f' class="{" ".join(classes)}"' if classes else "")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_short(value: object) -> bool:
    return len(str(shown(value))) <= SHORT


@dataclass(frozen=True)
class Image:
    """A PNG inside the page, with the words that stand for it."""

    content: bytes
    alt: str

    @property
    def png(self) -> str:
        return base64.b64encode(self.content).decode()


def panels(figure: matplotlib.figure.Figure, dpi: int = 160) -> list[bytes]:
    """Each visible axes of a figure as a PNG of its own: on a phone they go below each other."""
    visible = [axes for axes in figure.axes if axes.axison]
    for axes in visible:
        axes.tick_params(labelbottom=True, labelleft=True)  # shared axes show them at the rim only
        axes.set_xlabel(axes.get_xlabel() or visible[-1].get_xlabel())
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # hiding the others below would move what is left
    return [_alone(figure, axes, dpi) for axes in visible]


def _alone(figure: matplotlib.figure.Figure, axes, dpi: int) -> bytes:
    """The part of a figure that one axes takes, without what reaches into it from the others."""
    for other in figure.axes:
        other.set_visible(other is axes)
    inches = axes.get_tightbbox().transformed(figure.dpi_scale_trans.inverted())
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, bbox_inches=inches.padded(0.08))
    return content.getvalue()
