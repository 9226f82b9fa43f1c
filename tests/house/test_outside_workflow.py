"""A workflow in one file of another package has its place in ``nff``, in Python and in suites."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase.build import bulk

EMT = "ase:ase.calculators.emt:EMT"
FILE = '''
"""Energy against a rigid shift of one atom."""

from typing import Annotated

import ase
import matplotlib.figure
import numpy as np
from pydantic import Field

from nfflr.workflows import Array, Progress, Result, Rule, Settings, Unit
from nfflr.workflows import evaluate, field_score, workflow

TOPIC = "Vibrations and heat"
EXAMPLES = ("nff well cu.xyz --size 0.2",)
ATTRIBUTES = Rule()


class WellSettings(Settings):
    """Options of a well."""

    size: Annotated[float, Unit("Å")] = Field(0.1, gt=0, description="largest shift")
    points: int = Field(5, ge=3, description="shifts, of both signs")


class WellResult(Result):
    """The well of one atom."""

    curvature: Annotated[float, Unit("eV/Å^2")]
    shifts: Annotated[Array, Unit("Å")]
    energies: Annotated[Array, Unit("eV")]


SCORES = {"curvature_error": field_score("curvature", "eV/Å^2")}


@workflow
def well(atoms: ase.Atoms, calculator, settings: WellSettings, progress: Progress) -> WellResult:
    """Shift the first atom along x."""
    shifts = np.linspace(-settings.size, settings.size, settings.points)
    frames = []
    for shift in shifts:
        frame = atoms.copy()
        frame.positions[0, 0] += shift
        frames.append(frame)
    energies = np.array([r["energy"] for r in evaluate(calculator, frames)])
    progress(1, 1, {"E (eV)": energies.min()}, atoms)
    curvature = 2 * np.polyfit(shifts, energies, 2)[0]
    return WellResult(converged=True, message="fitted", curvature=curvature, shifts=shifts, energies=energies)


def plot(result: WellResult) -> matplotlib.figure.Figure:
    """The energies."""
    figure = matplotlib.figure.Figure()
    figure.subplots().plot(result.shifts, result.energies)
    return figure
'''


@pytest.fixture
def installed(tmp_path):
    """A function that runs a program where the package with the workflow is installed."""
    site = tmp_path / "site"
    (site / "wells-1.0.dist-info").mkdir(parents=True)
    (site / "wells.py").write_text(FILE, encoding="utf-8")
    (site / "wells-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: wells\nVersion: 1.0\n"
    )
    points = site / "wells-1.0.dist-info" / "entry_points.txt"
    points.write_text("[nfflr.workflows]\nwell = wells:well\n")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    bulk("Cu", a=3.6, cubic=True).write(tmp_path / "cu.xyz")

    def run(*arguments, expect=0):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr

    run.site, run.points, run.folder = site, points, tmp_path
    return run


def nff(installed, *arguments, expect=0):
    return installed("-m", "nfflr", *arguments, expect=expect)


def test_the_map_and_the_help_show_it(installed):
    shown = nff(installed, "--help")
    topic = shown[shown.index("Vibrations and heat:") : shown.index("Stiffness:")]
    assert "  well " in topic and "Energy against a rigid shift of one atom" in topic
    shown = nff(installed, "well", "--help")
    assert "--size" in shown and "Largest shift (Å)." in shown and "[default: 0.1]" in shown
    assert shown.rstrip().endswith("nff well cu.xyz --size 0.2")
    assert "did you mean 'well'" in nff(installed, "wel", "cu.xyz", expect=2)


def test_it_writes_json_a_figure_and_a_table(installed):
    bulk("Cu", a=3.7, cubic=True).write(installed.folder / "wide.xyz")
    told = nff(installed, "well", "cu.xyz", "wide.xyz", "--model", EMT, "--size", "0.2", "--out", "out")
    assert "curvature" in told and "eV/Å²" in told.replace("^2", "²")
    record = json.loads((installed.folder / "out/cu-well.json").read_text())
    assert record["settings"] == {"size": 0.2, "points": 5} and record["units"]["curvature"] == "eV/Å^2"
    assert (installed.folder / "out/cu-well.png").stat().st_size > 1000
    with open(installed.folder / "out/well-summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["structure"] for row in rows] == ["cu.xyz", "wide.xyz"]
    assert float(rows[0]["curvature (eV/Å^2)"]) == record["result"]["curvature"]


def test_it_is_a_task_of_a_suite(installed):
    nff(installed, "well", "cu.xyz", "--model", EMT, "--out", "reference")
    task = {
        "name": "cu",
        "workflow": "well",
        "structure": "cu.xyz",
        "reference": "reference/cu-well.json",
        "limits": {"curvature_error": 0.0},
    }
    (installed.folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    assert "curvature_error" in nff(installed, "validate", ".", "--model", EMT, "--out", "scores")


def test_python_calls_it_by_its_name_and_reads_its_results(installed):
    program = """
import nfflr
from ase.build import bulk
from ase.calculators.emt import EMT
from wells import well
atoms = bulk("Cu", a=3.6, cubic=True)
atoms.calc = EMT()
result = well(atoms, size=0.2)
again = nfflr.read_result(result.save("out")["json"])
assert type(again) is type(result) and again.curvature == result.curvature and repr(again) == repr(result)
print(result.curvature)
"""
    nff(installed, "well", "cu.xyz", "--model", EMT, "--size", "0.2")
    written = json.loads((installed.folder / "cu-well.json").read_text())["result"]["curvature"]
    assert np.isclose(float(installed("-c", program)), written, rtol=1e-9)


def test_one_that_cannot_be_imported_does_not_disturb_the_others(installed):
    (installed.site / "broken.py").write_text("import nothing_of_this_name")
    (installed.site / "unreadable.py").write_text("def (:")
    installed.points.write_text(
        "[nfflr.workflows]\nwell = wells:well\nbroken = broken:work\nlost = nowhere.at_all:work\n"
        "unreadable = unreadable:work\nrelax = wells:well\n"
    )
    shown = nff(installed, "--help")
    assert "  well " in shown and "  lost " in shown and "  unreadable " in shown
    for name in ("broken", "lost", "unreadable"):
        told = nff(installed, name, "cu.xyz", expect=2)
        assert f"error: {name}: this workflow of the package wells cannot be loaded" in told
    assert "fmax" in nff(installed, "relax", "--help")  # a name of this package's own stays its own


def test_what_is_no_workflow_is_refused_in_one_line(installed):
    (installed.site / "plain.py").write_text("def work(a, b):\n    return a + b\n")
    installed.points.write_text("[nfflr.workflows]\nwork = plain:work\n")
    told = nff(installed, "work", "cu.xyz", expect=2)
    assert "error: work: plain.work is no workflow; expected a function" in told
