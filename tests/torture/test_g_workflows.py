"""G. Relaxation, MD and phonons: not converged, exploded, killed and resumed."""

import json
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import ase.io
import faults
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from lennard_jones import LennardJones, argon
from processes import KILL, Fault, assert_refused, assert_same, chosen, contents, until

from nfflr.calculator import NFFLrCalculator
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.molecular_dynamics import MdSettings, md
from nfflr.workflows.relaxation import CHECKPOINT, RelaxSettings, relax


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    """A folder with structures: a crystal, and one whose atoms are off their sites."""
    folder = tmp_path_factory.mktemp("silicon")
    bulk("Si", a=5.469, cubic=True).write(folder / "si.xyz")
    atoms = bulk("Si", a=5.6, cubic=True)
    atoms.rattle(0.08, seed=1)
    atoms.write(folder / "rattled.xyz")
    return folder


def simulate(name, structure, out, *options) -> list:
    return [name, structure, "-m", "mlearn-si-fast", "-o", out, *options]


def record(path: Path) -> dict:
    return json.loads(path.read_text())["result"]


def check_killed_anywhere(processes, command, out, expected, every: int, seed: int = 0) -> None:
    """Kill a command inside file operations, then resume it."""
    total = sum(processes.run(*command, fault=Fault(out)).calls.values())
    assert_same(contents(out), expected)
    shutil.rmtree(out)
    for n in chosen(total, every, seed):
        assert processes.run(*command, fault=Fault(out, n, KILL)).code == -9
        done = processes.run(*command, "--resume")
        assert done.code in (0, 5), (n, done.stderr)
        assert_same(contents(out), expected)
        shutil.rmtree(out)


# 76: relaxation


def test_case_76_a_relaxation_that_does_not_converge_exits_5_with_the_last_frame(
    silicon, tmp_path, processes
):
    structure = silicon / "rattled.xyz"
    command = simulate("relax", structure, tmp_path, "--steps", 4, "--fmax", 1e-9)
    assert_refused(processes.run(*command), 5, structure, "after 4 steps", "--steps")
    found, last = record(tmp_path / "rattled-relax.json"), ase.io.read(tmp_path / "rattled-relaxed.xyz")
    assert found["converged"] is False and found["steps"] == 4
    frames = ase.io.read(tmp_path / "rattled-relax.traj", ":")
    assert len(frames) == 5
    np.testing.assert_allclose(frames[-1].positions, found["positions"])
    np.testing.assert_allclose(last.get_scaled_positions(), frames[-1].get_scaled_positions(), atol=1e-6)
    assert not list(tmp_path.glob("*.state"))


RELAXATIONS = [{"optimizer": "fire"}, {"optimizer": "lbfgs"}, {"optimizer": "bfgs", "cell": True}]
RELAXATIONS += [{"cell": True, "symmetry": True, "pressure": 2.0}]


@pytest.mark.parametrize("options", RELAXATIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_case_76_a_relaxation_that_was_interrupted_continues_to_the_bit(silicon, tmp_path, options):
    """With a calculator that keeps a neighbour list, and steps that stop between two states and on one."""
    settings = RelaxSettings(fmax=1e-6, steps=CHECKPOINT + 12, **options)
    start = ase.io.read(silicon / "rattled.xyz")
    if options.get("symmetry"):
        start = bulk("Si", a=5.6)
    whole = relax(start, NFFLrCalculator.load("mlearn-si-fast"), settings)
    for stop in (3, CHECKPOINT + 7):
        archive = FolderArchive(tmp_path)

        def progress(step, *_, stop=stop):
            if step >= stop:
                raise KeyboardInterrupt

        if stop < whole.steps:
            with pytest.raises(KeyboardInterrupt):
                relax(start, NFFLrCalculator.load("mlearn-si-fast"), settings, progress, archive)
        archive.close()
    archive = FolderArchive(tmp_path)
    asked = []
    calculator = NFFLrCalculator.load("mlearn-si-fast")
    compute = calculator.calculate
    calculator.calculate = lambda *given, **more: (asked.append(1), compute(*given, **more))
    resumed = relax(start, calculator, settings, archive=archive)
    archive.close()
    assert len(asked) < whole.steps + 1 or whole.steps < CHECKPOINT  # or nothing was remembered
    assert resumed.model_dump_json(exclude={"relaxed", "trajectory"}) == whole.model_dump_json(
        exclude={"relaxed", "trajectory"}
    )
    for one, other in zip(whole.trajectory, resumed.trajectory, strict=True):
        assert np.array_equal(one.positions, other.positions) and np.array_equal(one.cell, other.cell)
        assert np.array_equal(one.get_forces(), other.get_forces())


@pytest.mark.usefixtures("disk")
def test_case_76_a_relaxation_killed_inside_file_operations(silicon, tmp_path, processes):
    options = ["--steps", 24, "--fmax", 1e-9]
    whole = tmp_path / "whole"
    assert processes.run(*simulate("relax", silicon / "rattled.xyz", whole, *options)).code == 5
    out = tmp_path / "out"
    command = simulate("relax", silicon / "rattled.xyz", out, *options)
    check_killed_anywhere(processes, command, out, contents(whole), every=300)


# 77: explosions


LIMITS = {
    "temperature": ["--max-temperature", 350, "--temperature", 300, "--temperature-end", 3000],
    "displacement": ["--max-displacement", 0.05, "--temperature", 3000, "--timestep", 4],
    "distance": ["--min-distance", 2.25, "--temperature", 1500],
}
SAYS = {"temperature": "the temperature reached", "displacement": "moved", "distance": "Å"}


@pytest.mark.parametrize("limit", LIMITS)
def test_case_77_a_limit_stops_md_within_a_step(silicon, tmp_path, processes, limit):
    options = ["--steps", 400, "--interval", 1, "--rdf-cutoff", 3, *LIMITS[limit]]
    found = processes.run(*simulate("md", silicon / "si.xyz", tmp_path, *options))
    assert_refused(found, 5, silicon / "si.xyz", "exploded at step", SAYS[limit])
    result = record(tmp_path / "si-md.json")
    assert result["verdict"] == "exploded" and result["converged"] is False
    assert result["verdict_step"] == result["steps"] + 1 and f"at step {result['verdict_step']}" in found.last
    frames = ase.io.read(tmp_path / "si-md.traj", ":")
    assert [f.info["step"] for f in frames] == list(range(result["steps"] + 1))
    for frame in frames:
        assert np.isfinite(frame.positions).all() and np.isfinite(frame.get_forces()).all()
        assert frame.get_temperature() < 20_000
    broken = [_broken(limit, a, b) for a, b in pairwise(frames)]
    assert not any(broken)  # no sound frame is beyond the limit, so it stopped in the first step that is


def _broken(limit: str, before, after) -> bool:
    if limit == "temperature":
        return after.get_kinetic_energy() > 1.5 * 350 * 8.617333e-5 * (len(after) - 1) * (1 + 1e-6)
    if limit == "displacement":
        return np.linalg.norm(after.positions - before.positions, axis=1).max() > 0.05
    distances = after.get_all_distances(mic=True)[np.triu_indices(len(after), 1)]
    return distances.min() < 2.25


class Spoiled(LennardJones):
    """NaN from the fortieth structure on."""

    count = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.count += 1
        if self.count > 40:
            self.results = {k: np.full_like(v, np.nan) for k, v in self.results.items()}


@pytest.mark.parametrize("ensemble", ["nve", "npt"])
def test_case_77_md_that_becomes_nan_ends_with_the_last_finite_frame(ensemble):
    settings = MdSettings(ensemble=ensemble, temperature=60, steps=80, interval=1, rdf_cutoff=2)
    result = md(argon(), Spoiled(), settings)
    assert result.verdict == "exploded" and not result.converged and 20 < result.steps < 41
    assert f"step {result.verdict_step}" in result.message
    for frame in [*result.trajectory, result.final]:
        assert np.isfinite(frame.positions).all() and np.isfinite(frame.get_forces()).all()
    assert len(result.trajectory) == result.steps + 1


# 78: MD killed

RAMP = [
    "--temperature",
    "300",
    "--temperature-end",
    "900",
    "--ensemble",
    "npt",
    "--interval",
    "3",
    "--checkpoint",
    "10",
    "--rdf-cutoff",
    "3",
]


def check_killed_md(silicon, tmp_path, processes, kills: int, steps: int) -> None:
    command = simulate("md", silicon / "si.xyz", tmp_path / "whole", "--steps", steps, *RAMP)
    begun = time.perf_counter()
    assert processes.run(*command).code == 0
    length = time.perf_counter() - begun
    expected, out = contents(tmp_path / "whole"), tmp_path / "out"
    command = simulate("md", silicon / "si.xyz", out, "--steps", steps, *RAMP)
    rng, done = np.random.default_rng(int(time.time())), 0
    while done < kills:
        ended = processes.start(*command, "--resume").kill_after(rng.uniform(0, 3 * length / kills))
        if ended.code == 0:  # it came to its end before all kills were done
            assert_same(contents(out), expected)
            shutil.rmtree(out)
            continue
        done += ended.code == -9
    assert processes.run(*command, "--resume").code == 0
    assert_same(contents(out), expected)
    frames = ase.io.read(out / "si-md.traj", ":")
    assert [f.info["step"] for f in frames] == list(range(0, steps + 1, 3))


def test_case_78_md_killed_5_times_has_every_frame_once_thermostat_and_ramp_exact(
    silicon, tmp_path, processes
):
    check_killed_md(silicon, tmp_path, processes, kills=5, steps=300)


@pytest.mark.slow
def test_case_78_md_killed_50_times(silicon, tmp_path, processes):
    check_killed_md(silicon, tmp_path, processes, kills=50, steps=3000)


@pytest.mark.usefixtures("disk")
def test_case_78_md_killed_inside_file_operations(silicon, tmp_path, processes):
    assert (
        processes.run(*simulate("md", silicon / "si.xyz", tmp_path / "whole", "--steps", 40, *RAMP)).code == 0
    )
    command = simulate("md", silicon / "si.xyz", tmp_path / "out", "--steps", 40, *RAMP)
    check_killed_anywhere(processes, command, tmp_path / "out", contents(tmp_path / "whole"), every=90)


# 79: phonons killed

PHONONS = ["--supercell", "2", "2", "2", "--mesh-length", "8"]


@pytest.mark.usefixtures("disk")
def test_case_79_phonons_killed_between_displacements_give_the_same_force_constants(
    silicon, tmp_path, processes
):
    """48 displacements of 64 atoms are two batches: the kill comes when one is saved."""
    command = simulate("phonons", silicon / "rattled.xyz", tmp_path / "whole", *PHONONS)
    done = processes.run(*command)
    assert done.code == 0, done.stderr
    expected, out = contents(tmp_path / "whole"), tmp_path / "out"
    command = simulate("phonons", silicon / "rattled.xyz", out, *PHONONS)
    running = processes.start(*command)
    until(lambda: list(out.glob("rattled-phonons.state/batch-*.npz")))
    running.send(signal.SIGKILL)
    assert running.wait().code == -9
    assert len(list(out.glob("rattled-phonons.state/batch-*.npz"))) == 1
    done = processes.run(*command, "--resume")
    assert done.code == 0 and "resuming" in done.stdout
    assert_same(contents(out), expected)


# and its neighbours


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
@pytest.mark.parametrize("name", ["md", "relax"])
def test_a_signal_prints_one_line_and_the_run_can_be_resumed(
    silicon, tmp_path, processes, name, signum, code
):
    options = (
        ["--steps", 100_000, "--checkpoint", 20] if name == "md" else ["--steps", 100_000, "--fmax", 1e-12]
    )
    command = simulate(name, silicon / "rattled.xyz", tmp_path, *options)
    running = processes.start(*command)
    state = tmp_path / f"rattled-{name}.state"
    until((state / "state.npz").exists)
    running.send(signum)
    ended = running.wait()
    assert_refused(ended, code, state, "interrupted", "--resume")
    lines = ended.stderr.strip().splitlines()
    assert len([line for line in lines if line and not line.startswith("note: ")]) == 1
    assert [p.name for p in tmp_path.iterdir()] == [state.name]
    assert not list(state.glob(".*"))  # neither a lock nor a temporary file


def test_two_runs_of_one_structure_do_not_share_a_state(silicon, tmp_path, processes):
    command = simulate("md", silicon / "si.xyz", tmp_path, "--steps", 100_000)
    first = processes.start(*command)
    until((tmp_path / "si-md.state" / "run.npz").exists)
    for options in ([], ["--resume"], ["--overwrite"]):
        assert_refused(processes.run(*command, *options), 6, f"process {first.pid}", "in use")
    first.send(signal.SIGTERM)
    assert first.wait().code == 143


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("name", [name for name in faults.CASES if name != "training"])
def test_a_full_or_failing_disk_at_some_operations(tmp_path, processes, name):
    faults.prepare(tmp_path)
    faults.inject(processes, tmp_path, name, every=1000)


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("name", [name for name in faults.CASES if name != "training"])
def test_a_full_or_failing_disk_at_every_operation(tmp_path, processes, name):
    faults.prepare(tmp_path)
    faults.inject(processes, tmp_path, name)
