"""What people import: names where they look for them, loaded on first use, and used by all that we show."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nfflr
from nfflr import workflows
from nfflr.cli.main import run
from nfflr.errors import ConfigError

ROOT = Path(__file__).parents[2]
ROOMS = (
    "nfflr",
    "nfflr.data",
    "nfflr.models",
    "nfflr.nn",
    "nfflr.train",
    "nfflr.validation",
    "nfflr.jobs",
    "nfflr.structures",
    "nfflr.workflows",
)
OVERVIEW = {"nfflr.data.dataset", "nfflr.data.graph", "nfflr.models.gnn", "nfflr.models.gnn.alignn_ff"}
DOCUMENTED = {"nfflr.errors", "nfflr.units", "nfflr.learn", "nfflr.compiled"}  # whole modules, in docs/api
SCRIPTS = [
    *sorted((ROOT / "tutorials").rglob("*.py")),
    *sorted((ROOT / "calculators").rglob("*.py")),
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def nothing_imported(program):
    heavy = ("torch", "phonopy", "ase", "numpy", "pydantic")
    end = f"; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + end], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_imports_nothing_that_computes(room):
    assert nothing_imported(f"import {room}; {room}.__all__")


@pytest.mark.parametrize("room", ROOMS)
def test_each_name_of_a_room_is_there_and_others_are_not(room):
    module = importlib.import_module(room)
    assert len(module.__all__) >= 3 and dir(module) == module.__all__  # what an editor completes
    assert all(getattr(module, name) is not None for name in module.__all__ if "pyg" not in name)
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("name", workflows.workflow_names())
def test_a_workflow_is_imported_by_its_name_with_settings_and_result(name):
    function = getattr(workflows, name)
    assert function.__name__ == name and callable(function)
    for kind in ("Settings", "Result"):
        assert getattr(workflows, f"{name.title()}{kind}").__name__ == f"{name.title()}{kind}"


def test_no_file_has_the_name_of_its_function():
    for name, file in workflows.FILES.items():
        assert name not in workflows.FILES.values() and (ROOT / f"nfflr/workflows/{file}.py").is_file()
        assert not (ROOT / "nfflr/workflows" / name).exists()


@pytest.mark.parametrize(
    "lines",
    [
        "from nfflr.workflows import relax; import nfflr.workflows.relaxation",
        "import nfflr.workflows.relaxation; from nfflr.workflows import relax",
        "from nfflr.workflows.framework import contract; contract.find_workflow('relax'); "
        "from nfflr.workflows import relax",
    ],
)
def test_a_name_is_the_function_whatever_was_imported_before(lines):
    program = f"{lines}; import nfflr.workflows as w; assert callable(relax) and w.relax is relax"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_bundled_calculator_is_a_folder_that_everything_takes():
    folder = nfflr.bundled("mlearn-si")
    load = nfflr.NFFLrCalculator.load
    assert load(folder).todict()["digest"] == load("mlearn-si").todict()["digest"]
    assert nfflr.read_suite(folder / "suite").tasks
    with pytest.raises(ConfigError, match="did you mean 'mlearn-si'"):
        nfflr.bundled("mlearn_si2")


def private_imports(text):
    """Imports of names that are not part of the public surface."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] == "nfflr" and a.name not in ROOMS]
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "nfflr":
            continue
        if node.module in OVERVIEW | DOCUMENTED:
            continue
        offered = importlib.import_module(node.module).__all__ if node.module in ROOMS else ()
        allowed = {*offered, *(m.rpartition(".")[2] for m in OVERVIEW | DOCUMENTED)}
        found += [f"{node.module}.{a.name}" for a in node.names if a.name not in allowed]
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_use_the_public_surface(path):
    assert private_imports(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_use_the_public_surface(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        assert private_imports(block) == []


def test_nff_init_writes_a_config_that_uses_the_public_surface(tmp_path):
    assert run(["init", str(ROOT / "calculators/mlearn-si/test.xyz.xz"), "--out", str(tmp_path)]) == 0
    assert private_imports((tmp_path / "config.py").read_text(encoding="utf-8")) == []
    template = (ROOT / "nfflr/train/templates/config.py.jinja").read_text("utf-8")
    lines = re.findall(r"^from nfflr[\w.]* import [\w, ]+$", template, re.MULTILINE)
    assert len(lines) > 2 and private_imports("\n".join(lines)) == []
