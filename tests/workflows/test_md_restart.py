"""A run that was killed and resumed is the run left alone, bit for bit."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from lennard_jones import LennardJones, argon

from nfflr.calculator import NFFLrCalculator
from nfflr.errors import ConfigError, ResourceError
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.dynamics import simulation as run_module
from nfflr.workflows.molecular_dynamics import MdSettings, md

ENSEMBLES = ["nve", "nvt-bussi", "nvt-langevin", "nvt-nose-hoover", "npt", "npt-isotropic", "npt-berendsen"]


@pytest.fixture(autouse=True)
def every_state_is_saved(monkeypatch):
    monkeypatch.setattr(run_module, "SAVING", 0.0)


class PulledPlugError(Exception):
    pass


def pull_plug_at(step):
    def progress(now, *_):
        if now >= step:
            raise PulledPlugError

    return progress


def interrupted(folder, atoms, calculator, settings, stops):
    """Run into each stop, each time with a new calculator, then to the end."""
    for stop in stops:
        archive = FolderArchive(folder)
        with pytest.raises(PulledPlugError):
            md(atoms, calculator(), settings, pull_plug_at(stop), archive)
        archive.close()
    archive = FolderArchive(folder)
    result = md(atoms, calculator(), settings, archive=archive)
    archive.close()
    return result


def assert_same(one, other):
    assert len(one.trajectory) == len(other.trajectory)
    for a, b in zip([*one.trajectory, one.final], [*other.trajectory, other.final], strict=True):
        assert a.info == b.info
        for name in ("positions", "momenta"):
            assert np.array_equal(a.arrays[name], b.arrays[name]), (a.info["step"], name)
        assert np.array_equal(a.cell.array, b.cell.array)
        assert np.array_equal(a.get_forces(), b.get_forces())
        assert a.get_potential_energy() == b.get_potential_energy()
    for name, column in one.table.columns.items():
        assert np.array_equal(column, other.table.columns[name], equal_nan=True), name
    fields = set(type(one).model_fields) - {"table", "final", "trajectory"}
    assert one.model_dump_json(include=fields) == other.model_dump_json(include=fields)


def short(ensemble, **more):
    return MdSettings(
        ensemble=ensemble,
        temperature=60,
        timestep=6,
        steps=85,
        interval=5,
        checkpoint=20,
        thermostat_time=100,
        barostat_time=300,
        compressibility=0.5,
        seed=3,
        rdf_cutoff=2,
        **more,
    )


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("ramp", [False, True], ids=["", "ramp"])
def test_every_ensemble_continues_exactly(tmp_path, ensemble, ramp):
    more = {}
    if ramp and ensemble == "nve":
        pytest.skip("has no thermostat")
    if ramp:
        more = {"temperature_end": 100} | ({"pressure_end": 1} if ensemble.startswith("npt") else {})
    settings = short(ensemble, **more)
    whole = md(argon(), LennardJones(), settings)
    broken = interrupted(tmp_path / "state", argon(), LennardJones, settings, (10, 35, 40, 70, 85))
    assert [f.info["step"] for f in broken.trajectory] == list(range(0, 86, 5))
    assert_same(whole, broken)


def hot_silicon():
    atoms = bulk("Si", a=5.469, cubic=True)
    atoms.rattle(0.02, seed=1)
    return atoms


def test_a_kept_neighbour_list_does_not_show(tmp_path):
    # At 3000 K the list is built anew now and then, at steps that depend on where it was built last.
    settings = MdSettings(
        ensemble="nvt-langevin",
        temperature=3000,
        timestep=2,
        steps=60,
        interval=5,
        checkpoint=20,
        rdf_cutoff=2,
    )

    def silicon():
        return NFFLrCalculator.load("mlearn-si-fast")

    used = silicon()
    used.get_potential_energy(hot_silicon())
    whole = md(hot_silicon(), used, settings)
    assert used._neighbours.builds > 5
    assert_same(whole, interrupted(tmp_path / "state", hot_silicon(), silicon, settings, (25, 45)))


def test_a_longer_run_continues_a_shorter_one(tmp_path):
    # The shorter one ends between two saved states.
    settings = short("npt")
    archive = FolderArchive(tmp_path)
    md(argon(), LennardJones(), settings.model_copy(update={"steps": 33}), archive=archive)
    archive.close()
    archive = FolderArchive(tmp_path)
    longer = md(argon(), LennardJones(), settings, archive=archive)
    assert_same(md(argon(), LennardJones(), settings), longer)
    archive.close()


def test_a_ramp_cannot_be_lengthened(tmp_path):
    settings = short("nvt", temperature_end=100)
    archive = FolderArchive(tmp_path)
    md(argon(), LennardJones(), settings, archive=archive)
    with pytest.raises(ConfigError, match="--steps"):
        md(argon(), LennardJones(), settings.model_copy(update={"steps": 100}), archive=archive)
    archive.close()


def test_another_model_or_structure_is_refused(tmp_path):
    settings = short("nvt")
    archive = FolderArchive(tmp_path)
    md(argon(), LennardJones(), settings, archive=archive)
    other = argon()
    other.positions[0, 0] += 1e-6
    with pytest.raises(ConfigError, match="positions"):
        md(other, LennardJones(), settings, archive=archive)
    with pytest.raises(ConfigError, match="class"):
        md(argon(), EMT(), settings, archive=archive)
    archive.close()


def test_a_state_whose_frames_are_gone_is_refused(tmp_path):
    settings = short("nvt")
    archive = FolderArchive(tmp_path)
    md(argon(), LennardJones(), settings, archive=archive)
    archive.close()
    (tmp_path / "frames.traj").unlink()
    with pytest.raises(ResourceError, match="damaged"):
        md(argon(), LennardJones(), settings, archive=FolderArchive(tmp_path))


# Real processes, really killed

PROGRAM = """
import sys
import numpy as np
from pathlib import Path
from ase.build import bulk
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.dynamics import simulation as run
from nfflr.workflows.molecular_dynamics import MdSettings, md

run.SAVING = 0.0  # every state is saved, so that there are many to continue from
case, folder, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if case == "emt":
    from ase.calculators.emt import EMT
    atoms, calculator, ensemble = bulk("Cu", cubic=True), EMT(), "npt"
else:
    import torch
    from nfflr import NFFLrCalculator
    torch.set_num_threads(1)
    atoms, calculator = bulk("Si", cubic=True), NFFLrCalculator.load("mlearn-si-fast")
    ensemble = "nvt-langevin"
settings = MdSettings(
    ensemble=ensemble, temperature=900, steps=steps, interval=2, checkpoint=10, rdf_cutoff=2
)
archive = FolderArchive(folder)
print("begin", flush=True)
result = md(atoms, calculator, settings, archive=archive)
archive.close()
frames = result.trajectory
arrays = {"column %d" % k: c for k, c in enumerate(result.table.columns.values())}
arrays |= {name: np.array([f.arrays[name] for f in frames]) for name in ("positions", "momenta")}
arrays["forces"] = np.array([f.get_forces() for f in frames])
arrays["cell"] = np.array([f.cell.array for f in frames])
arrays |= {"step": np.array([f.info["step"] for f in frames]), "last": result.final.positions}
np.savez(folder.with_suffix(".npz"), **arrays)
print("end", flush=True)
"""


def start(case, folder, steps):
    command = [sys.executable, "-c", PROGRAM, case, str(folder), str(steps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begin\n"
    return process


def finish(process):
    out, _ = process.communicate()
    assert process.returncode == 0 and out == "end\n"


def check_kills(tmp_path, case, steps, kills):
    whole = start(case, tmp_path / "whole", steps)
    begun = time.perf_counter()
    finish(whole)
    length = time.perf_counter() - begun
    rng = np.random.default_rng()  # other instants every time: each of them must do
    done, longest = 0, 1.5 * length / kills
    while done < kills:
        process = start(case, tmp_path / "killed", steps)
        time.sleep(rng.uniform(0, longest))
        process.kill()
        out, _ = process.communicate()
        done += 1
        if out:  # it ended before all kills were done: once more, with shorter stretches
            shutil.rmtree(tmp_path / "killed")
            done, longest = 0, longest / 2
    finish(start(case, tmp_path / "killed", steps))
    one, other = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "killed.npz")
    assert set(one) == set(other) and len(one["step"]) == steps // 2 + 1
    for name in one:
        assert np.array_equal(one[name], other[name], equal_nan=True), name
    assert (tmp_path / "whole" / "frames.traj").read_bytes() == (
        tmp_path / "killed" / "frames.traj"
    ).read_bytes()
    one.close()
    other.close()


@pytest.mark.parametrize("case, kills", [("emt", 4), ("mlearn-si-fast", 2)])
def test_a_process_killed_at_random_instants(tmp_path, case, kills):
    check_kills(tmp_path, case, 100, kills)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["emt", "mlearn-si-fast"])
def test_a_process_killed_at_twenty_random_instants(tmp_path, case):
    check_kills(tmp_path, case, 3000, 20)
