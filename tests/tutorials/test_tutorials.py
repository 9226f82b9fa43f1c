"""Every tutorial runs as a reader runs it, makes its figure, and finds the numbers that its text tells.

The numbers are asserted in the tutorials themselves, beside the sentences that tell them.
"""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / "tutorials"
LARGEST = 60_000  # bytes of a figure that is checked in


def _runner():
    spec = spec_from_file_location("tutorials_run", HOME / "run.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()
SCRIPTS = RUNNER.tutorials()


def test_the_tutorials_are_there_and_numbered():
    assert [script.name.partition("_")[0] for script in SCRIPTS] == list("0123456789")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_runs_and_makes_its_figure(script, tmp_path):
    if "dgl" in script.read_text() and sys.version_info >= (3, 12):
        pytest.skip("DGL is published for Python below 3.12")
    if "lammps" in script.read_text():
        pytest.importorskip("mpi4py", exc_type=ImportError)
    done = RUNNER.run(script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    figure = (tmp_path / f"{script.stem}.png").read_bytes()
    assert figure.startswith(b"\x89PNG") and len(figure) < LARGEST


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_opens_as_a_notebook_and_asserts_what_it_tells(script):
    text = script.read_text()
    assert text.startswith("# %% [markdown]\n# # ") and text.count("\n# %%\n") >= 3
    assert re.search(r"^assert ", text, re.M)
    assert f'savefig("{script.stem}.png"' in text
    assert 0 < (HOME / "figures" / f"{script.stem}.png").stat().st_size < LARGEST
