"""A batch of long runs that was killed: what is finished stays, what was begun goes on, the rest is done."""

import csv
import json
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Annotated

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from pydantic import Field, SkipValidation
from small_checkpoint import save_silicon

import nfflr.workflows
from nfflr.cli.main import run
from nfflr.storage.archives import Archive
from nfflr.units import Unit
from nfflr.workflows.framework.interface import Progress, Settings, Table, Text, silent
from nfflr.workflows.framework.results import Result


class LongWorkSettings(Settings):
    steps: int = Field(3, description="how many")


class LongWorkResult(Result):
    total: Annotated[float, Unit("eV")]
    note: Annotated[str, Text(".yaml")]
    table: Table
    missing: ase.Atoms | None
    frames: SkipValidation[Sequence[ase.Atoms]]


computed: list[tuple[int, float]] = []


def long_work(
    atoms: ase.Atoms,
    calculator: Calculator,
    settings: LongWorkSettings = LongWorkSettings(),
    progress: Progress = silent,
    archive: Archive = Archive(),
) -> LongWorkResult:
    """Adds up energies, each kept when it is done; a cell above 5.5 Å is killed before its last step once."""
    energies = []
    for step in range(settings.steps):
        record = archive.load(f"step-{step}")
        if record is None:
            if step == 2 and 5.5 < atoms.cell[0, 0] < 5.6 and not any(s == 99 for s, _ in computed):
                computed.append((99, 0.0))
                raise KeyboardInterrupt
            computed.append((step, float(atoms.cell[0, 0])))
            record = {"energy": np.array(calculator.get_property("energy", atoms) + step)}
            archive.save(f"step-{step}", record)
        energies.append(float(record["energy"]))
    return LongWorkResult(
        converged=True,
        message="done",
        total=sum(energies),
        note="a: 1\n",
        table=Table({"energy (eV)": np.array(energies)}),
        missing=None,
        frames=[atoms],
    )


@pytest.fixture
def command(tmp_path, tmp_path_factory, monkeypatch):
    """``nff long_work`` on three cells, of which the second is killed the first time."""
    module = ModuleType("long_lasting", "Work that takes long.")
    module.long_work = long_work
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = tmp_path_factory.mktemp("workflows") / "long_lasting.py"
    source.write_text('"""Work that takes long."""')
    entry = EntryPoint("long_work", "long_lasting:long_work", "nfflr.workflows")
    monkeypatch.setattr(nfflr.workflows, "_entry_points", lambda: {"long_work": entry})
    monkeypatch.setattr(nfflr.workflows, "workflow_file", lambda name: source)
    computed.clear()
    path = save_silicon(tmp_path)
    for name, a in (("a", 5.4), ("b", 5.55), ("c", 5.7)):
        bulk("Si", a=a, cubic=True).write(tmp_path / f"{name}.xyz")
    return ["long_work", str(tmp_path), "-m", str(path), "-o", str(tmp_path / "out")]


def test_a_killed_batch_is_continued(capsys, tmp_path, command):
    out = tmp_path / "out"
    assert run(command) == 130
    assert (out / "a-long_work.json").exists() and not (out / "b-long_work.json").exists()
    assert (out / "b-long_work.state").is_dir()
    finished, before = (out / "a-long_work.json").read_bytes(), len(computed)
    capsys.readouterr()

    assert run([*command, "--resume"]) == 0
    assert "resuming from" in capsys.readouterr().out
    assert (out / "a-long_work.json").read_bytes() == finished
    steps = [(step, round(a, 2)) for step, a in computed[before:]]
    assert steps == [(2, 5.55), (0, 5.7), (1, 5.7), (2, 5.7)]  # nothing twice
    assert not list(out.glob("*.state"))
    with open(out / "long_work-summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["structure"][-5:] for r in rows] == ["a.xyz", "b.xyz", "c.xyz"]
    assert float(rows[0]["total (eV)"]) == json.loads(finished)["result"]["total"]
    assert "note" not in rows[0]  # a text is a file, not a cell

    # something else asked for is not what is there
    assert run([*command, "--resume", "--steps", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "a-long_work.json").read_bytes() == finished


@pytest.mark.parametrize("what", ["structure", "precision"])
def test_a_finished_result_of_something_else_is_not_taken_for_this_one(capsys, tmp_path, command, what):
    (tmp_path / "b.xyz").unlink()
    assert run(command) == 0
    assert run([*command, "--resume"]) == 0  # as it was: nothing to do
    before = len(computed)
    if what == "structure":
        bulk("Si", a=5.3, cubic=True).write(tmp_path / "a.xyz")
        bulk("Si", a=5.2, cubic=True).write(tmp_path / "c.xyz")
    changed = ["--dtype", "float64"] if what == "precision" else []
    capsys.readouterr()
    assert run([*command, "--resume", *changed]) == 2
    assert "--overwrite" in capsys.readouterr().err and len(computed) == before
    assert run([*command, "--overwrite", *changed]) == 0 and len(computed) == 2 * before


def test_without_an_option_an_interrupted_run_is_not_dropped(capsys, tmp_path, command):
    assert run(command) == 130
    assert run(command) == 2
    capsys.readouterr()
    (tmp_path / "out" / "long_work-summary.csv").unlink()
    assert run(command) == 2
    error = capsys.readouterr().err
    assert "a-long_work.json: exists" in error and "--resume" in error
    assert (tmp_path / "out" / "c-long_work.json").exists()


def test_texts_tables_and_trajectories_are_files(tmp_path, command):
    (tmp_path / "b.xyz").unlink()
    assert run(command) == 0
    out = tmp_path / "out"
    record = json.loads((out / "a-long_work.json").read_text())
    assert record["files"] == {
        "json": "a-long_work.json",
        "note": "a-long_work.yaml",
        "table": "a-long_work.csv",
        "frames": "a-long_work.traj",
    }
    assert set(record["result"]) == {"converged", "message", "total"}
    assert (out / "a-long_work.yaml").read_text() == "a: 1\n"
    assert (out / "a-long_work.csv").read_text().startswith("energy (eV)\n")
    assert len(ase.io.read(out / "a-long_work.traj", ":")) == 1
