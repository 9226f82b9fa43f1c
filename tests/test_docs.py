"""The reference builds without a warning and has everything in it; examples are true."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nfflr
from nfflr.cli.main import command_files
from nfflr.models.registry import architectures
from nfflr.workflows import FILES

ROOT = Path(__file__).parents[1]
SHOWN = [path for path in (ROOT / "nfflr").rglob("*.py") if "    >>> " in path.read_text(encoding="utf-8")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(out / "state")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(out / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


def ids(path: Path) -> set[str]:
    return set(re.findall(r'id="([^"]+)"', path.read_text(encoding="utf-8")))


def test_what_the_package_offers_is_in_the_reference(site):
    found = set().union(*(ids(page) for page in (site / "api").glob("*.html")))
    offered = [getattr(nfflr, name) for name in nfflr.__all__ if not name.startswith("__")]
    offered += [
        cls for cls in architectures().values() if cls.__module__.startswith("nfflr.")
    ]  # not a test's
    wanted = {f"{item.__module__}.{item.__qualname__}" for item in offered}
    wanted |= {f"nfflr.workflows.{file}.{name}" for name, file in FILES.items()}
    assert wanted <= found


def test_commands_and_tutorials_have_their_place(site):
    assert {f"nff-{name}" for name in command_files()} <= ids(site / "commands.html")
    tutorials = (site / "tutorials.html").read_text(encoding="utf-8")
    for script in (ROOT / "tutorials").glob("[0-9]*_*.py"):
        assert f"{script.stem}.png" in tutorials


def test_fields_stand_with_unit_and_default(site):
    text = re.sub(r"<[^>]+>|\s+", " ", (site / "api/workflows.html").read_text(encoding="utf-8"))
    assert re.search(r"fmax\s+float\s+eV/Å\s+0\.01\s+stop when no force exceeds this", text)


@pytest.mark.parametrize(
    "path", SHOWN, ids=lambda path: ".".join(path.relative_to(ROOT).with_suffix("").parts)
)
def test_examples_in_docstrings_are_true(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    done = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert done.attempted and not done.failed


def test_there_are_examples_for_what_people_start_with():
    assert len(SHOWN) >= 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{k}")
    for page in PAGES
    for k, block in enumerate(
        re.findall(r"<!-- run -->\n```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_marked_as_such_run(block, tmp_path):
    for name in ("tutorials", "calculators"):  # read from there; what is written stays here
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_one():
    assert any(block.id.startswith("README") for block in BLOCKS)
