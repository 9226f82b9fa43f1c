"""Text of users on the terminal: brackets are characters, wherever a table or a bar shows them."""

import ast
import io
from pathlib import Path

import pytest
from builders import copper
from hypothesis import example, given
from hypothesis import strategies as st

from nfflr.cli.console import Console, Table, narrow_table, styled
from nfflr.cli.main import run

PACKAGE = Path(__file__).parents[2] / "nfflr"
BRACKETS = ["surf[/hkl]", "a$x^$b", "_hidden", "md[nvt]", "[red]x", "[/]", ":smile:", "[[a]]", "\\[b]"]
WORDS = st.text(st.sampled_from("ab/[]\\:=_"), min_size=1, max_size=12).filter(lambda text: text.strip())


def shown(view) -> str:
    out = io.StringIO()
    Console(400, file=out).print(view)
    return out.getvalue()


@given(WORDS)
@example("surf[/hkl]")
@example("[bold]a[/bold]")
def test_titles_headers_and_cells_are_shown_as_they_stand(text):
    for make in (Table, narrow_table):
        view = make(title=text)
        view.add_column(text)
        view.add_row(text)
        view.add_row(styled(text, "red"))
        assert shown(view).count(text.strip()) >= 4
    assert shown(Table(text)).count(text.strip()) >= 1
    assert text in shown(text)


def test_rich_is_imported_in_the_console_and_the_progress_bar_alone():
    """Whoever imports rich's own table has markup in what users wrote."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported = [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
            if any(n.split(".")[0] == "rich" for n in names) and {"Console", "Table"} & {*imported, *names}:
                found.add(path.name)
            if any(n in ("rich.table", "rich.console") for n in names) and not imported:
                found.add(path.name)
    assert found - {"progress_bar.py"} == {
        "console.py"
    }  # a bar draws columns, which name no user's text as markup


@pytest.mark.parametrize("command", ["init", "evaluate"])
def test_groups_with_brackets_have_their_rows(command, tmp_path, capsys):
    import ase.io

    frames = copper(2 * len(BRACKETS), ((1, 1, 1),))
    for k, frame in enumerate(frames):
        frame.info["config_type"] = [*BRACKETS[:-1], "all"][k // 2]
    ase.io.write(tmp_path / "data.xyz", frames)
    source = [str(tmp_path / "data.xyz"), "--out", str(tmp_path)]
    assert (
        run([command, "--model", "mlearn-cu", *source] if command == "evaluate" else [command, *source]) == 0
    )
    out = capsys.readouterr().out
    for name in BRACKETS[:-1]:  # ASE drops the backslash
        assert [line.split()[0] for line in out.splitlines() if line.strip()].count(name) == 1
    rows = [line.split() for line in out.splitlines() if line.strip().startswith("all ")]
    assert {"2", str(len(frames))} <= {word for row in rows for word in row}  # the group and the total
