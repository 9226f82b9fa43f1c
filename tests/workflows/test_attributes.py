"""What structures carry, in every workflow: kept and acting, dropped with a note, or refused."""

import sys
import types

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled
from ase.io import write
from lennard_jones import LennardJones, argon

from nfflr.cli.main import run
from nfflr.errors import StructureError
from nfflr.workflows import workflow_names
from nfflr.workflows.framework.attributes import RULES, Rule, Treatment, apply_rule, rule_of
from nfflr.workflows.framework.contract import find_workflow, workflow
from nfflr.workflows.lattice.harmonic import masses_keep_symmetry
from nfflr.workflows.molecular_dynamics import MdSettings, md
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons
from nfflr.workflows.relaxation import RelaxSettings, relax
from nfflr.workflows.single_point import energy
from nfflr.workflows.vacancies import VacancySettings, vacancy

LATTICE = {"supercell": (1, 1, 1), "relax": "none", "mesh": (1, 1, 1)}
QUICK = {
    "energy": {},
    "relax": {"steps": 2},
    "md": {"steps": 2, "interval": 1},
    "phonons": LATTICE | {"band_points": 2, "t_step": 500.0},
    "qha": LATTICE | {"volumes": 5, "t_max": 20.0},
    "gruneisen": LATTICE | {"band_points": 2, "t_step": 500.0},
    "elastic": {"internal": False, "points": 2},
    "eos": {"points": 5},
    "vacancy": {"supercell": (1, 1, 1), "site": 1, "steps": 1},
    "surface": {"thickness": 3.0, "slabs": 3, "relax": False, "vacuum": 5.0},
    "neb": {"images": 1, "steps": 1, "relax": False, "interpolation": "linear"},
}

# k: kept, d: dropped with a note; in the order of ATTACH.
EXPECTED = {
    "energy": "dddkkkk",
    "relax": "kkkkkkk",
    "md": "kkkkkkd",
    "phonons": "dddkddd",
    "qha": "dddkddd",
    "gruneisen": "dddkddd",
    "elastic": "dddkkkk",
    "eos": "dddkkkk",
    "vacancy": "dddkkkk",
    "surface": "ddddddd",
    "neb": "kkkkkkd",
}

ATTACH = {
    "fixed": lambda atoms: atoms.set_constraint(FixAtoms([0])),
    "partly_fixed": lambda atoms: atoms.set_constraint(FixScaled([0], (True, True, False))),
    "other_constraints": lambda atoms: atoms.set_constraint(FixCom()),
    "masses": lambda atoms: atoms.set_masses([127.0, None, None, None]),
    "charges": lambda atoms: atoms.set_initial_charges([0.5, 0, 0, 0]),
    "magnetic_moments": lambda atoms: atoms.set_initial_magnetic_moments([1.5, 0, 0, 0]),
    "velocities": lambda atoms: atoms.set_velocities([[0.01, 0, 0], [0] * 3, [0] * 3, [-0.01, 0, 0]]),
}
ARRAYS = {
    "masses": "masses",
    "charges": "initial_charges",
    "magnetic_moments": "initial_magmoms",
    "velocities": "momenta",
}


class Recorder(EMT):
    """Keeps what it is asked for."""

    def __init__(self):
        super().__init__()
        self.structures = []

    def calculate(self, atoms=None, *args):
        self.structures.append(atoms.copy())
        super().calculate(atoms, *args)


def crystal() -> ase.Atoms:
    return bulk("Cu", a=3.62, cubic=True)


def compute(name, attribute=None):
    """The result of a quick run, and the structures that the calculator met."""
    workflow, calculator = find_workflow(name), Recorder()
    structures = [crystal() for _ in workflow.structures]
    if name == "relax":
        structures[0].positions += 0.1 * np.random.default_rng(1).normal(size=(4, 3))
    if name == "neb":
        structures[1].positions[[1, 2]] += [[0, 0, 0.7], [0, 0.4, 0]]
    for atoms in structures:
        if attribute:
            ATTACH[attribute](atoms)
    result = workflow.function(*structures, calculator, workflow.settings(**QUICK[name]))
    return result, calculator.structures, structures


def comparable(result):
    return result.model_dump_json(
        exclude={"trajectory", "path", "table", "phonopy"} | structure_fields(result)
    )


def structure_fields(result):
    return {name for name in type(result).model_fields if isinstance(getattr(result, name), ase.Atoms)}


@pytest.fixture(scope="module")
def bare():
    return {name: comparable(compute(name)[0]) for name in QUICK}


def test_every_workflow_states_its_rule():
    modules = {name: sys.modules[find_workflow(name).function.__module__] for name in workflow_names()}
    stated = {name for name, module in modules.items() if hasattr(module, "ATTRIBUTES")}
    assert set(workflow_names()) == set(RULES) | stated
    assert set(RULES) == set(EXPECTED) == set(QUICK)


@pytest.mark.parametrize("attribute", ATTACH)
@pytest.mark.parametrize("name", EXPECTED)
def test_each_attribute_in_each_workflow(name, attribute, bare, caplog):
    letter = EXPECTED[name][list(ATTACH).index(attribute)]
    result, met, given = compute(name, attribute)
    notes = notes_of(caplog)
    words = {"other_constraints": "FixCom", "partly_fixed": "partly fixed atom 0"}
    if letter == "d":
        assert len(notes) == len(given) and words.get(attribute, attribute.replace("_", " ")) in notes[0]
        assert not any(atoms.constraints for atoms in met)
        assert comparable(result) == bare[name]
        if attribute in ARRAYS and name != "md":  # which draws velocities of its own
            assert not any(atoms.has(ARRAYS[attribute]) for atoms in met)
    else:
        assert notes == []
        check_kept(name, attribute, result, met, given[0])
    assert all(has(atoms, attribute) for atoms in given)  # the caller's own are left as they were


def notes_of(caplog):
    """Notes about what structures carry; the small cells of these tests get one of their own from md."""
    notes = [record.getMessage() for record in caplog.records if record.name == "nfflr"]
    return [text for text in notes if "the periodic cell has" not in text]


def has(atoms, attribute) -> bool:
    return atoms.has(ARRAYS[attribute]) if attribute in ARRAYS else bool(atoms.constraints)


def described(atoms):
    return [constraint.todict() for constraint in atoms.constraints]


def check_kept(name, attribute, result, met, given):
    if attribute in ARRAYS and name not in ("phonons", "qha", "gruneisen"):
        own = given.arrays[ARRAYS[attribute]]
        for atoms in met:
            assert np.array_equal(atoms.arrays[ARRAYS[attribute]][0], own[0])
    elif attribute in ARRAYS:  # masses: not of displaced supercells, but of the lattice; see below
        assert comparable(result) != comparable(compute(name)[0])
    else:
        frames = result.path if name == "neb" else result.trajectory
        assert all(described(frame) == described(given) for frame in frames)
        moves = np.ptp([frame.positions for frame in frames], axis=0)  # (N, 3)
        assert moves.max() > 1e-3
        held = {"fixed": [0, 1, 2], "partly_fixed": [0, 1]}.get(attribute, [])
        assert np.abs(moves[0, held]).max(initial=0) < 1e-12
        if attribute == "partly_fixed" and name != "neb":
            assert moves[0, 2] > 1e-4


# The physics of what is kept


def test_forces_of_energy_are_raw_and_sum_to_zero():
    atoms = crystal()
    atoms.rattle(0.1, seed=0)
    free = energy(atoms, EMT())
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1], (True, False, True))])
    held = energy(atoms, EMT())
    assert np.array_equal(held.forces, free.forces) and np.abs(held.forces[0]).min() > 0.01
    assert held.net_force < 1e-10


def lattice(masses):
    atoms = crystal()
    atoms.set_masses(masses)
    settings = PhononsSettings(supercell=(2, 2, 2), relax="none", mesh=(2, 2, 2), band_points=3)
    return phonons(atoms, EMT(), settings)


def test_frequencies_scale_with_the_root_of_the_mass():
    light, heavy = lattice([63.5] * 4), lattice([254.0] * 4)
    np.testing.assert_allclose(heavy.band_frequencies, light.band_frequencies / 2, atol=1e-9)
    assert light.symbols == ["Cu"]


def test_isotopes_are_kept_apart_where_symmetry_would_make_them_one():
    # Squares of the frequencies at one q add up to a sum over atoms of force constant over mass, and in a
    # crystal of one element the force constants are equal. Mesh and path are those of the cubic cell.
    traces = []
    for masses in ([254.0, 63.5, 63.5, 63.5], [63.5, 63.5, 254.0, 63.5], [63.5, 63.5, 63.5, 63.6]):
        result = lattice(masses)
        assert result.symbols == ["Cu"] * 4 and result.space_group == "P1" and sum(result.mesh) == 6
        for frequencies in (result.band_frequencies[0], result.band_frequencies[-1]):
            traces.append(np.square(frequencies).sum() / np.sum(1 / np.array(masses)))
    np.testing.assert_allclose(traces[::2], traces[0], rtol=1e-6)
    np.testing.assert_allclose(traces[1::2], traces[1], rtol=1e-6)


def test_unequal_masses_on_sites_that_differ_leave_the_symmetry():
    atoms = crystal()
    atoms.symbols[0] = "Au"
    assert masses_keep_symmetry(atoms, 1e-5)
    atoms.set_masses([150.0, None, None, None])
    assert masses_keep_symmetry(atoms, 1e-5)
    atoms.set_masses([None, 60.0, None, None])
    assert not masses_keep_symmetry(atoms, 1e-5)


def test_a_heavy_atom_is_slow():
    # Verlet from rest: the first step is F dt² / 2 m.
    atoms = argon(1)
    atoms.rattle(0.1, seed=2)
    settings = MdSettings(ensemble="nve", temperature=0, steps=1, interval=1, timestep=2.0)
    steps = []
    for factor in (1, 5):
        heavy = atoms.copy()
        heavy.set_masses(atoms.get_masses() * [factor, 1, 1, 1])
        steps.append(md(heavy, LennardJones(), settings).final.positions - atoms.positions)
    np.testing.assert_allclose(steps[1][0], steps[0][0] / 5, rtol=1e-6)
    np.testing.assert_allclose(steps[1][1:], steps[0][1:], rtol=1e-6)


def test_velocities_are_kept_when_asked_for_and_their_absence_is_refused(caplog):
    atoms = argon(1)
    settings = MdSettings(ensemble="nve", temperature=30, steps=1, interval=1, keep_velocities=True)
    with pytest.raises(StructureError, match="no velocities to keep"):
        md(atoms, LennardJones(), settings)
    atoms.set_momenta(np.zeros((4, 3)))
    with pytest.raises(StructureError, match="no velocities to keep"):
        md(atoms, LennardJones(), settings)
    momenta = np.random.default_rng(0).normal(size=(4, 3))
    atoms.set_momenta(momenta)
    assert np.array_equal(md(atoms, LennardJones(), settings).trajectory[0].get_momenta(), momenta)
    assert notes_of(caplog) == []
    cold = settings.model_copy(update={"ensemble": "nvt", "temperature": 5000.0})
    md(atoms, LennardJones(), cold)
    assert "--temperature is 5000 K" in caplog.text


def test_a_vacancy_is_that_of_the_free_crystal_whatever_is_fixed():
    settings = VacancySettings(supercell=(2, 2, 2), steps=4)
    free = vacancy(crystal(), EMT(), settings)
    for constraint in (FixAtoms([0, 1]), FixScaled([0], (False, False, True)), FixedPlane([1], (0, 0, 1))):
        atoms = crystal()
        atoms.set_constraint(constraint)
        assert vacancy(atoms, EMT(), settings).formation_energy == pytest.approx(
            free.formation_energy, abs=1e-9
        )


def test_each_constraint_that_holds_atoms_acts_in_a_relaxation():
    slab = fcc111("Cu", (2, 2, 3), vacuum=6)
    slab.rattle(0.1, seed=0)
    directions = {
        FixCartesian([0], (True, False, True)): [[1, 0, 0], [0, 0, 1]],
        FixedPlane([0], (1, 1, 0)): [[1, 1, 0]],
        FixedLine([0], (0, 0, 1)): [[1, 0, 0], [0, 1, 0]],
        FixScaled([0], (False, False, True)): [[0, 0, 1]],
    }
    for constraint, held in directions.items():
        atoms = slab.copy()
        atoms.set_constraint(constraint)
        move = relax(atoms, EMT(), RelaxSettings(steps=10)).positions[0] - slab.positions[0]
        assert np.abs(np.array(held) @ move).max() < 1e-12 and np.linalg.norm(move) > 1e-3


# Rules of other files


FILE = """
import ase

def mine(atoms: ase.Atoms, calculator, settings=None):
    return atoms
"""


def workflow_of(name, monkeypatch, **constants):
    module = types.ModuleType(name)
    module.__dict__.update(constants)
    monkeypatch.setitem(sys.modules, name, module)
    exec(FILE, module.__dict__)
    return module.mine


def test_a_workflow_that_states_nothing_refuses_constraints_and_keeps_the_rest(monkeypatch):
    function = workflow(workflow_of("states_nothing", monkeypatch))
    atoms = crystal()
    for attribute in ("masses", "charges", "magnetic_moments", "velocities"):
        ATTACH[attribute](atoms)
    assert function(atoms, EMT()) is atoms
    for attribute in ("fixed", "partly_fixed", "other_constraints"):
        ATTACH[attribute](atoms)
        with pytest.raises(StructureError, match=r"structure: has .*; remove them") as caught:
            function(atoms, EMT())
        assert caught.value.exit_code == 3


def test_a_workflow_states_its_rule_in_its_own_file(caplog, monkeypatch):
    rule = Rule(masses=Treatment("dropped", "they do not matter"))
    function = workflow_of("states_a_rule", monkeypatch, ATTRIBUTES=rule)
    assert rule_of(function) is rule
    atoms = crystal()
    ATTACH["masses"](atoms)
    ATTACH["fixed"](atoms)
    returned = workflow(function)(calculator=EMT(), atoms=atoms)
    assert not returned.has("masses") and atoms.has("masses") and returned.constraints
    assert "they do not matter" in caplog.text
    assert workflow(workflow(function))(atoms, EMT()).has("masses") is False


def test_a_rule_applied_twice_says_things_once(caplog):
    atoms = crystal()
    for attach in ATTACH.values():
        attach(atoms)
    once = apply_rule(RULES["surface"], atoms, None, "a.cif")
    count = len(caplog.records)
    assert apply_rule(RULES["surface"], once, None) is once and len(caplog.records) == count


@pytest.mark.parametrize(
    "constraint", [FixCartesian([0], (False,) * 3), FixAtoms([]), FixCartesian([], (True,) * 3)], ids=repr
)
def test_a_constraint_that_holds_nothing_is_not_worth_a_note(constraint, caplog):
    atoms = crystal()
    atoms.set_constraint(constraint)
    energy(atoms, EMT())
    assert not caplog.records


def test_standard_masses_and_zeros_are_not_worth_a_note(caplog):
    atoms = crystal()
    atoms.set_masses(atoms.get_masses() * 1.0001)
    atoms.set_initial_charges([0.0] * 4)
    atoms.set_momenta(np.zeros((4, 3)))
    apply_rule(RULES["surface"], atoms, None)
    assert not caplog.records


# On the command line, where notes and errors name the file


@pytest.mark.parametrize(
    ("name", "attribute", "word"),
    [("vacancy", "partly_fixed", "around a vacancy"), ("energy", "fixed", "those on all atoms")],
)
def test_notes_name_the_file(name, attribute, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = crystal()
    ATTACH[attribute](atoms)
    write("cu.vasp", atoms)
    options = {"vacancy": ["--supercell", "2", "2", "2", "--site", "0"]}.get(name, [])
    assert run([name, "cu.vasp", "-m", "ase:ase.calculators.emt:EMT", *options]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(lines) == 1 and lines[0].startswith("note: cu.vasp: ") and word in lines[0]


def test_velocities_that_a_file_lacks_are_refused_by_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("cu.cif", crystal())
    options = ["--ensemble", "nve", "--keep-velocities", "--steps", "2"]
    assert run(["md", "cu.cif", "-m", "ase:ase.calculators.emt:EMT", *options]) == 3
    assert "error: cu.cif: has no velocities to keep" in capsys.readouterr().err
    assert not list(tmp_path.glob("cu-*"))


def test_constraints_without_a_supercell_of_their_own_are_refused_in_words():
    atoms = crystal()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(StructureError, match="FixBondLength"):
        relax(atoms, EMT(), RelaxSettings(supercell=(2, 1, 1)))
