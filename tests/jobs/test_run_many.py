"""``run_many``: one process, several and a resumed run give equal files; outcomes are typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from nfflr.errors import ConfigError, NumericsError
from nfflr.jobs import Listener, run_many
from nfflr.workflows import NebSettings, RelaxSettings, relax

EMT_NAME = "ase:ase.calculators.emt:EMT"
SETTINGS = RelaxSettings(fmax=0.02)
SCRIPT = """
import sys
from nfflr.jobs import run_many
from nfflr.workflows import RelaxSettings

if __name__ == "__main__":
    run_many("relax", sys.argv[1], sys.argv[2], RelaxSettings(fmax=0.02), out=sys.argv[3], trust=True)
"""
SLOW = """
import time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *arguments, **keywords):
        time.sleep(0.05)
        super().calculate(*arguments, **keywords)
"""


def crystals(number=4):
    structures = {}
    for k in range(number):
        structures[f"cu{k}"] = bulk("Cu", a=3.6 + 0.05 * k, cubic=True)
        structures[f"cu{k}"].rattle(0.05, seed=k)
    return structures


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name, atoms in crystals().items():
        atoms.write(tmp_path / "in" / f"{name}.xyz")
    return tmp_path / "in"


def without_times(path):
    """What a folder of results holds, less what two equal runs differ in."""
    contents = {}
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        if file.suffix == ".json":
            record = json.loads(content)
            del record["wall_time_s"], record["command"]
            content = record
        contents[file.name] = content
    return contents


def test_processes_and_an_interrupt_change_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)
    name = "ase:slow:Slow"
    one = run_many("relax", folder, name, SETTINGS, out=tmp_path / "one", trust=True)
    several = run_many("relax", folder, name, SETTINGS, out=tmp_path / "several", trust=True, jobs=2)

    command = [sys.executable, str(tmp_path / "script.py"), str(folder), name, str(tmp_path / "killed")]
    process = subprocess.Popen(command)
    end = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("*.json")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = next((tmp_path / "killed").glob("*.json"))
    written = first.stat().st_mtime_ns
    assert len(list((tmp_path / "killed").glob("*.json"))) < 4
    resumed = run_many("relax", folder, name, SETTINGS, out=tmp_path / "killed", trust=True, resume=True)
    assert first.stat().st_mtime_ns == written

    expected = without_times(tmp_path / "one")
    assert len(expected) == 4 * 4 + 1
    assert without_times(tmp_path / "several") == expected
    assert without_times(tmp_path / "killed") == expected
    for outcomes in (one, several, resumed):
        assert [outcome.item for outcome in outcomes] == [str(folder / f"cu{k}.xyz") for k in range(4)]
        assert all(outcome.converged and outcome.exit_code == 0 for outcome in outcomes)
        assert [o.result.energy for o in outcomes] == [o.result.energy for o in one]


def test_an_outcome_is_a_result_or_an_error_with_item_and_exit_code(tmp_path):
    structures = {"copper": bulk("Cu"), "iron": bulk("Fe"), "far": bulk("Cu", a=3.9)}
    settings = RelaxSettings(steps=1, fmax=1e-9, cell=True)
    copper, iron, far = run_many("relax", structures, EMT_NAME, settings, out=tmp_path)
    assert copper.result.relaxed.get_chemical_formula() == "Cu" and copper.error is None
    assert copper.files["json"].is_file() and len(copper.result.trajectory) >= 1
    assert iron.result is None and isinstance(iron.error, NumericsError)
    assert (iron.item, iron.exit_code, iron.files) == ("iron", 5, {})
    assert iron.error.item == "iron" and "Fe" in iron.error.problem and "iron.py" not in str(iron.error)
    assert far.exit_code == 5 and not far.converged and far.message == far.result.message


@pytest.mark.parametrize("jobs", [1, 2])
def test_calculators_of_ase_and_functions_are_taken_as_they_are(tmp_path, jobs):
    calculator = EMT()
    outcomes = run_many(relax, list(crystals(2).values()), calculator, SETTINGS, out=tmp_path, jobs=jobs)
    assert [outcome.item for outcome in outcomes] == ["Cu4-1", "Cu4-2"]
    assert calculator.atoms is None  # each structure got a copy
    record = json.loads((tmp_path / "Cu4-1-relax.json").read_text())
    assert record["calculator"]["source"].endswith("EMT") and len(record["structure_sha256"][0]) == 64
    atoms = crystals(1)["cu0"]
    atoms.calc = EMT()
    assert outcomes[0].result.energy < atoms.get_potential_energy()


def test_settings_are_taken_by_name(tmp_path):
    structures = {"copper": bulk("Cu", a=3.7)}
    (outcome,) = run_many(relax, structures, EMT_NAME, SETTINGS, out=tmp_path, steps=2, cell=True)
    settings = json.loads(outcome.files["json"].read_text())["settings"]
    assert (settings["fmax"], settings["steps"], settings["cell"]) == (0.02, 2, True)
    with pytest.raises(ConfigError, match="fmx: there is no such setting; did you mean 'fmax'"):
        run_many(relax, structures, EMT_NAME, out=tmp_path, fmx=0.1)
    with pytest.raises(ConfigError, match="format: there is no 'poscar'"):
        run_many("energy", bulk("Cu"), EMT_NAME, out=tmp_path, format="poscar")
    with pytest.raises(ConfigError, match="job: there is no such setting; did you mean 'jobs'"):
        run_many(relax, structures, EMT_NAME, out=tmp_path, job=2)
    with pytest.raises(ConfigError, match="^fmax: "):
        run_many(relax, structures, EMT_NAME, out=tmp_path, fmax=-1.0)


def test_an_outcome_shows_itself_in_a_line(tmp_path):
    copper, iron = run_many("energy", {"Cu": bulk("Cu"), "Fe": bulk("Fe")}, EMT_NAME, out=tmp_path)
    assert repr(copper) == f"<Outcome Cu with {EMT_NAME}: converged>"
    assert repr(iron).startswith("<Outcome Fe: Fe: ") and "\n" not in repr(iron)


def test_a_changed_structure_is_not_taken_for_a_finished_one(tmp_path):
    def energies(a, **options):
        (outcome,) = run_many("energy", {"cu": bulk("Cu", a=a)}, EMT_NAME, out=tmp_path, **options)
        return outcome

    assert energies(3.6).exit_code == 0
    assert energies(3.6, resume=True).exit_code == 0
    refused = energies(3.7, resume=True)
    assert refused.exit_code == 2 and "overwrite" in refused.message
    assert energies(3.7, overwrite=True).exit_code == 0


def test_pairs_for_workflows_of_two_structures(tmp_path):
    initial = bulk("Cu", cubic=True).repeat((2, 1, 1))
    del initial[0]
    final = initial.copy()
    final.positions[0, 0] += 0.6
    settings = NebSettings(images=1, steps=1, relax=False)
    (outcome,) = run_many("neb", {"hop": (initial, final)}, EMT_NAME, settings, out=tmp_path)
    assert outcome.item == "hop 1, hop 2" and outcome.exit_code in (0, 5)
    assert outcome.files["json"].name == "hop-neb.json"
    with pytest.raises(ConfigError, match="expected 2 files"):
        run_many("neb", [initial], EMT_NAME, settings, out=tmp_path)


@pytest.mark.parametrize(
    ("workflow", "structures", "options", "words"),
    [
        ("rlax", ["a.xyz"], {}, "rlax: no such workflow; did you mean 'relax'"),
        ("relax", [], {}, "there is none"),
        ("relax", [3], {}, "expected a file or ase.Atoms"),
        ("relax", {"a/b": bulk("Cu")}, {}, "choose another name"),
        ("relax", {"a": bulk("Cu")}, {"jobs": 2, "cluster": "x.py"}, "--jobs"),
        ("relax", {"a": bulk("Cu")}, {"jobs": 2, "batch": True}, "--batch"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    workflow, structures, options, words, tmp_path
):
    with pytest.raises(ConfigError, match=words):
        run_many(workflow, structures, EMT_NAME, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class Unpicklable(EMT):
    def __reduce__(self):
        raise TypeError("not to be sent")


def test_a_calculator_that_cannot_be_sent_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="jobs=1"):
        run_many("energy", crystals(2), Unpicklable(), out=tmp_path / "out", jobs=2)


def test_nothing_is_printed_and_threads_stay(tmp_path, capfd):
    class Lines(Listener):
        def __init__(self):
            self.lines, self.items = [], []

        def say(self, line):
            self.lines.append(line)

        def finished(self, outcomes):
            self.items += [outcome.item for outcome in outcomes]

    before, lines = torch.get_num_threads(), Lines()
    run_many("energy", {"si": bulk("Si")}, "mlearn-si-fast", out=tmp_path, threads=before + 1, listener=lines)
    assert torch.get_num_threads() == before
    assert lines.items == ["si"] and any(line.startswith("model mlearn-si-fast") for line in lines.lines)
    assert f"  threads {before + 1}" in "\n".join(lines.lines)
    assert capfd.readouterr() == ("", "")


def test_the_structures_of_the_user_stay_as_they_are(tmp_path):
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    run_many("energy", [atoms], EMT_NAME, out=tmp_path)
    assert atoms.get_potential_energy() == 1.0
    assert Path(tmp_path, "Cu-1-energy.json").is_file()
