"""Parts of pages that follow from the code: workflows, models, commands, tutorials, fields of settings.

A new workflow, model, command or tutorial is on its page without another edit.
"""

import os
import re
from pathlib import Path

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.util.nodes import nested_parse_with_titles
from sphinx.util.typing import stringify_annotation

from nfflr.cli.main import TOPICS, Description, command_files, nff
from nfflr.models.registry import architectures
from nfflr.units import unit_of
from nfflr.workflows import FILES

ROOT = Path(__file__).resolve().parents[1]


class Generated(Directive):
    """A directive that stands for the text that ``text`` returns."""

    def text(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        node = nodes.section()
        node.document = self.state.document
        nested_parse_with_titles(self.state, StringList(self.text(), source=type(self).__name__), node)
        return node.children


def titled(title: str, mark: str, *body: str) -> list[str]:
    return [title, mark * len(title), "", *body, ""]


def module(name: str) -> list[str]:
    return [f".. automodule:: {name}"]


class Workflows(Generated):
    """Every workflow with its settings and result."""

    def text(self):
        return [
            line
            for name, file in FILES.items()
            for line in titled(name, "-", *module(f"nfflr.workflows.{file}"))
        ]


class Models(Generated):
    """Every registered architecture."""

    def text(self):
        modules = {key: cls.__module__ for key, cls in sorted(architectures().items())}
        lines: list[str] = []
        for name in dict.fromkeys(modules.values()):
            keys = ", ".join(f"``{key}``" for key, module_name in modules.items() if module_name == name)
            lines += titled(
                name.rpartition(".")[2], "-", f"In configs and checkpoints: {keys}.", "", *module(name)
            )
        return lines


class Commands(Generated):
    """The help of every command, by topic."""

    def text(self):
        context, lines = click.Context(nff, info_name="nff"), []
        files = {name: Description.of(path) for name, path in command_files().items()}
        for topic in TOPICS:
            lines += titled(topic, "-")
            for name, description in sorted(files.items(), key=lambda item: item[1].place):
                if description.topic == topic:
                    command = nff.get_command(context, name)
                    shown = command.get_help(
                        click.Context(command, info_name=name, parent=context, terminal_width=90)
                    )
                    lines += titled(f"nff {name}", "~", ".. code-block:: text", "")
                    lines += [f"   {line}" for line in shown.splitlines()] + [""]
        return lines


class Tutorials(Generated):
    """Every tutorial: its cells, and the figure that it makes."""

    def text(self):
        lines: list[str] = []
        for script in sorted((ROOT / "tutorials").glob("[0-9]*_*.py")):
            cells = re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.M)[1:]
            for cell in cells:
                kind, _, body = cell.partition("\n")
                if "[markdown]" in kind:
                    text = re.sub(r"^# ?", "", body, flags=re.M)
                    lines += [*re.sub(r"^#", "##", text, flags=re.M).splitlines(), ""]
                else:
                    lines += ["```python", *body.strip().splitlines(), "```", ""]
            figure = ROOT / "tutorials" / "figures" / f"{script.stem}.png"
            where = os.path.relpath(figure, ROOT / "docs")
            lines += [f"![The figure of {script.stem}]({where})", "", f"`tutorials/{script.name}`", ""]
        return lines


def default_of(field) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is PydanticUndefined else f"``{value!r}``"


def add_fields(app, what, name, item, options, lines):
    """A table of what the fields of settings and results are, below the docstring of their class."""
    if what != "class" or not issubclass(item, BaseModel) or not item.model_fields:
        return
    rows = [
        {
            "field": f"``{key}``",
            # Without modules, and as text, which wraps.
            "type": re.sub(
                r"[\w.]+\.(\w+)", r"\1", stringify_annotation(field.annotation, "fully-qualified")
            ),
            "unit": unit_of(field) or "",
            "default": default_of(field),
            "": field.description or "",
        }
        for key, field in item.model_fields.items()
    ]
    shown = [column for column in rows[0] if any(row[column] for row in rows)]
    widths = {"field": 22, "type": 18, "unit": 9, "default": 15, "": 36}
    lines += ["", ".. list-table::", "   :header-rows: 1", "   :width: 100%"]
    lines += [f"   :widths: {' '.join(str(widths[column]) for column in shown)}", ""]
    for row in [{column: column for column in shown}, *rows]:
        lines += [f"   {'*' if k == 0 else ' '} - {row[column]}" for k, column in enumerate(shown)]
    lines.append("")


def short_signature(app, what, name, item, options, signature, annotation):
    """Fields stand in their table."""
    if what == "class" and isinstance(item, type) and issubclass(item, BaseModel):
        return "(**fields)", ""
    return None


def setup(app):
    for name, directive in {
        "workflows": Workflows,
        "models": Models,
        "commands": Commands,
        "tutorials": Tutorials,
    }.items():
        app.add_directive(name, directive)
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-signature", short_signature)
    return {"parallel_read_safe": True}
