"""Energies against forces and stresses along the data: units and signs that were planted are named."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from builders import copper

from nfflr.data.quality.agreement import agreement, near_steps
from nfflr.data.quality.diagnosis import diagnose
from nfflr.data.records import read_records
from nfflr.errors import ConfigError


def relabelled(frames, energy=1.0, forces=1.0, stress=1.0) -> list:
    """Copies of frames whose labels are multiplied by numbers, or by a function of the atoms."""
    made = []
    for frame in frames:
        results, factors = dict(frame.calc.results), {"energy": energy, "forces": forces, "stress": stress}
        for name, factor in factors.items():
            if name in results:
                results[name] = results[name] * (factor(frame) if callable(factor) else factor)
        atoms = frame.copy()
        atoms.calc = SinglePointCalculator(atoms, **results)
        made.append(atoms)
    return made


def labelled(atoms, energy_per_atom=-3.5):
    atoms = atoms.copy()
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy() + energy_per_atom * len(atoms),
        "forces": atoms.get_forces(),
    }
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def rattled(count=24, seed=0, drift=0.0) -> list:
    """Thermal copper in one cell, whose atoms cross its faces and drift."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(count):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.positions += rng.normal(scale=0.08, size=(len(atoms), 3)) + [drift * k, 0, 0]
        atoms.wrap()
        frames.append(labelled(atoms))
    return frames


def tumbling(count=24) -> list:
    """A molecule that vibrates and turns."""
    rng, frames = np.random.default_rng(1), []
    for k in range(count):
        atoms = molecule("CH3CH2OH")
        atoms.positions += rng.normal(scale=0.04, size=(len(atoms), 3))
        atoms.rotate(37.0 * k, (1, 2, 3))
        frames.append(labelled(atoms))
    return frames


SETS = {
    "crystal": rattled,
    "drifting crystal": lambda: rattled(drift=0.4),
    "molecule": tumbling,
    "strained crystal": lambda: copper(24, ((1, 1, 1),), seed=3),
}


@pytest.fixture(scope="module", params=SETS)
def frames(request):
    return SETS[request.param]()


def test_a_good_set_agrees_with_itself(frames):
    found = agreement(read_records(frames))
    assert found.forces.sharp and found.forces.value == pytest.approx(1, abs=0.12)
    assert not [f for f in diagnose(frames).findings if "energies" in f.reason]


FAULTS = {
    "Hartree": ({"energy": 1 / units.Hartree}, "--energy-units Ha --force-units eV/Å"),
    "kcal/mol": ({"energy": units.mol / units.kcal}, "--energy-units kcal/mol --force-units eV/Å"),
    "gradients": ({"forces": -1.0}, "--force-sign -1"),
    "Ha/Bohr": ({"forces": units.Bohr / units.Hartree}, "--force-units Ha/Bohr"),
    "atomic units": (
        {"energy": 1 / units.Hartree, "forces": units.Bohr / units.Hartree},
        "--energy-units Ha --force-units Ha/Bohr",
    ),
    "Hartree, gradients": (
        {"energy": 1 / units.Hartree, "forces": -1.0},
        "--energy-units Ha --force-units eV/Å --force-sign -1",
    ),
    "per atom": ({"energy": lambda atoms: 1 / len(atoms)}, "--energy-units eV/atom"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_unit_or_sign_is_named_with_the_option_that_mends_it(frames, fault):
    factors, options = FAULTS[fault]
    spoilt = relabelled(frames, **factors)
    found = diagnose(spoilt)
    (finding,) = [f for f in found.findings if f.fatal]
    assert finding.advice == f"give {options}" or f": {options})" in finding.reason  # of two that are alike
    arguments = arguments_of(options)
    mended = read_records(spoilt, **arguments)
    for record, true in zip(mended, read_records(frames), strict=True):
        np.testing.assert_allclose(record.labels["total_energy"], true.labels["total_energy"], rtol=1e-9)
        np.testing.assert_allclose(record.labels["forces"], true.labels["forces"], atol=1e-9)
    stress = {"stress_units": "eV/Å^3"} if "stress" in frames[0].calc.results else {}
    assert diagnose(spoilt, **arguments, **stress).usable


def arguments_of(options: str) -> dict:
    words = options.split()
    pairs = {n[2:].replace("-", "_"): v for n, v in zip(words[::2], words[1::2], strict=True)}
    return {name: int(v) if name.endswith("sign") else v for name, v in pairs.items()}


def test_structures_that_are_far_apart_tell_nothing_and_nothing_is_claimed():
    rng, frames = np.random.default_rng(5), []
    for _ in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.positions = rng.uniform(0, 1, (4, 3)) @ atoms.cell.array
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(4, 3)))
        frames.append(atoms)
    assert not [f for f in diagnose(frames).findings if "energies change" in f.reason]


def test_steps_are_the_ways_that_atoms_went():
    """Across faces of a skew cell, with a strain and a rotation of the whole."""
    rng = np.random.default_rng(2)
    first = bulk("Cu", "fcc", a=3.6) * (2, 2, 1)
    first.rattle(0.05, seed=1)
    strain = np.array([[0.01, 0.004, 0.0], [0.004, -0.02, 0.003], [0.0, 0.003, 0.015]])
    moved = rng.normal(scale=0.05, size=(len(first), 3))
    moved -= moved.mean(axis=0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    second = first.copy()
    second.set_cell(first.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    second.positions += moved @ (np.eye(3) + strain)
    second.set_cell(second.cell.array @ turn, scale_atoms=True)
    second.positions += rng.integers(-2, 3, (len(first), 3)) @ second.cell.array + [0.7, 0.2, -5.0] @ turn
    pair = [labelled(first), labelled(second)]
    (step,) = near_steps(read_records(pair))
    values, axes = np.linalg.eigh(np.eye(3) + strain)
    np.testing.assert_allclose(step.strain, (axes * np.log(values)) @ axes.T, atol=1e-12)
    np.testing.assert_allclose(step.moved, moved @ (np.eye(3) + strain / 2), atol=1e-12)
    np.testing.assert_allclose(step.turn, turn, atol=1e-12)


@pytest.fixture(scope="module")
def strained():
    return copper(20, ((1, 1, 1),), seed=4)


VIRIALS = {"-V σ": -1, "V σ": 1}


@pytest.mark.parametrize("sign", VIRIALS.values(), ids=VIRIALS)
@pytest.mark.parametrize("name", ["virial", "REF_virials"])
def test_virials_beside_no_stress_are_recognised(strained, sign, name):
    frames = []
    for frame in strained:
        results = dict(frame.calc.results)
        atoms = frame.copy()
        atoms.info[name] = sign * frame.get_volume() * frame.get_stress(voigt=False)
        results.pop("stress")
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    (note,) = [str(f) for f in diagnose(frames).findings if "stress" in str(f)]
    assert f"--key stress={name} --stress-units eV --stress-sign {sign}" in note
    options = {"keys": {"stress": name}, "stress_units": "eV", "stress_sign": sign}
    for record, frame in zip(read_records(frames, **options), strained, strict=True):
        np.testing.assert_allclose(record.labels["stress"], frame.get_stress(voigt=False), atol=1e-12)
    with pytest.raises(ConfigError, match="stress_units"):
        read_records(frames, keys={"stress": name})
    with pytest.raises(ConfigError, match="stress_sign"):
        read_records(frames, keys={"stress": name}, stress_units="eV")
    wrong = diagnose(frames, keys={"stress": name}, stress_units="kbar", stress_sign=-1)
    assert f"--stress-units eV --stress-sign {sign}" in "".join(f.advice for f in wrong.findings if f.fatal)
    asked = diagnose(frames, keys={"stress": name})
    assert [f.kind for f in asked.findings if f.fatal] == [ConfigError]
    assert not diagnose(frames, **options).findings


@pytest.mark.parametrize("order", ["voigt", "vasp"])
@pytest.mark.parametrize("scale", [1.0, -10 / units.GPa], ids=["eV/Å^3", "kbar"])
def test_the_order_of_six_numbers_is_asked_for_and_told(order, scale):
    frames = []
    for frame in sheared():
        atoms = frame.copy()
        results = dict(frame.calc.results)
        square = frame.get_stress(voigt=False) * scale
        places = {"voigt": [(1, 2), (0, 2), (0, 1)], "vasp": [(0, 1), (1, 2), (2, 0)]}[order]
        results.pop("stress")
        atoms.info["REF_stress"] = np.array([*np.diag(square), *(square[p] for p in places)])
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    keys = {"stress": "REF_stress"}
    with pytest.raises(ConfigError, match="stress_order"):
        read_records(frames, keys=keys)
    (finding,) = [f for f in diagnose(frames, keys=keys).findings if f.fatal]
    assert f"--stress-order {order}" in finding.advice and finding.kind is ConfigError
    units_ = {"stress_units": "kbar", "stress_sign": -1} if scale != 1 else {}
    wrong = {"voigt": "vasp", "vasp": "voigt"}[order]
    (finding,) = [f for f in diagnose(frames, keys=keys, stress_order=wrong, **units_).findings if f.fatal]
    assert f"--stress-order {order}" in finding.advice
    assert diagnose(frames, keys=keys, stress_order=order, **units_).usable


def test_six_numbers_without_shear_need_no_order():
    (frame,) = copper(1)
    atoms = frame.copy()
    atoms.info["REF_stress"] = np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.0])
    (record,) = read_records([atoms], keys={"stress": "REF_stress"})
    np.testing.assert_array_equal(record.labels["stress"], np.diag([0.1, 0.2, 0.3]))


def sheared(count=16, seed=0) -> list:
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        strain = rng.uniform(-0.02, 0.02, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        frames.append(labelled(atoms))
    return frames


@pytest.mark.parametrize("part", ["shear", "normal"])
def test_stresses_of_which_a_part_contradicts_the_energies_are_left_out(part):
    """As mlearn's lithium, whose shear stresses have the wrong sign."""
    frames = sheared()
    for frame in frames:
        stress = frame.calc.results["stress"]
        chosen = slice(3, 6) if part == "shear" else slice(0, 3)
        stress[chosen] *= -0.8 if part == "shear" else 0.55
    found = diagnose(frames)
    (finding,) = [f for f in found.findings if "strains" in f.reason]
    assert finding.reason.startswith(f"{part} stresses") and part in found.stress_fault


@pytest.mark.parametrize("order", ["voigt", "vasp"])
def test_six_numbers_of_a_file_are_asked_for_their_order(order):
    """As the reader of extended XYZ leaves ``stress="xx yy zz .. .. .."``: the result ``stress6``."""
    frames = []
    for frame in sheared():
        atoms, results = frame.copy(), dict(frame.calc.results)
        stress = results.pop("stress")
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.calc.results["stress6"] = stress if order == "voigt" else stress[[0, 1, 2, 5, 3, 4]]
        frames.append(atoms)
    (finding,) = diagnose(frames).findings
    assert finding.fatal and f"--stress-order {order}" in finding.advice
    for record, frame in zip(read_records(frames, stress_order=order), sheared(), strict=True):
        np.testing.assert_allclose(record.labels["stress"], frame.get_stress(voigt=False), atol=1e-12)
    assert not diagnose(frames, stress_order=order).findings
