"""The rules of the house: style, direction of imports, size of files, cheap imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "nfflr").rglob("*.py"))


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_sources_were_found():
    assert {"errors.py", "atoms.py", "graph.py", "base.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    code, output = run("-m", "ruff", *command, "nfflr", "tests", "calculators", "tutorials", "docs")
    assert code == 0, output


def test_imports_run_one_way():
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    code, output = run("-c", program, "--config", "setup.cfg", "--no-cache")
    assert code == 0, output
    assert "0 broken" in output  # the contracts of setup.cfg were really read


def test_types_are_sound(pytestconfig):
    cache = pytestconfig.cache.mkdir("mypy")  # a second run looks only at what changed
    code, output = run("-m", "mypy", "--cache-dir", str(cache))
    assert code == 0, output
    count = re.search(r"in (\d+) source files", output)
    assert count and int(count[1]) >= len(SOURCES)  # all of the package was read


def test_no_file_of_the_package_is_long():
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > 450} == {}


def test_nothing_inside_the_package_imports_the_package_by_name():
    # Relative imports only: an absolute one would run the lazy top level, and could pick another copy.
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found += [f"{path.name}:{node.lineno}" for name in names if name.split(".")[0] == "nfflr"]
    assert found == []


def test_import_nfflr_loads_no_torch_and_no_ase():
    code, output = run("-c", "import sys, nfflr; print([m for m in ('torch', 'ase') if m in sys.modules])")
    assert (code, output.strip()) == (0, "[]")
