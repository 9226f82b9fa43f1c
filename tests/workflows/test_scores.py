"""Scores of results against numbers worked out by hand or by another route."""

import io
import json
from types import SimpleNamespace

import ase
import numpy as np
import phonopy
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from lennard_jones import LennardJones, argon

from nfflr.errors import NumericsError
from nfflr.validation.suite import Task
from nfflr.workflows.elasticity import own_constants
from nfflr.workflows.equation_of_state import EosSettings, eos
from nfflr.workflows.framework.contract import find_workflow
from nfflr.workflows.framework.results import result_record
from nfflr.workflows.framework.saved_results import read_fields
from nfflr.workflows.framework.scores import field_error, has_fields, relative_score
from nfflr.workflows.molecular_dynamics import SCORES as MD
from nfflr.workflows.molecular_dynamics import MdSettings, md
from nfflr.workflows.phonon_dispersion import SCORES as PHONONS
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons, rows_of
from nfflr.workflows.relaxation import SCORES as RELAX
from nfflr.workflows.relaxation import RelaxSettings, relax

QUICK = PhononsSettings(supercell=(2, 2, 2), mesh=(3, 3, 3), band_points=5, t_step=100, relax="none")


@pytest.fixture(scope="module")
def copper():
    return phonons(bulk("Cu"), EMT(), QUICK)


def changed(result, **fields):
    return result.model_copy(update=fields)


# Any result


def test_errors_of_numbers_arrays_and_dicts_are_mean_absolute_differences():
    ours = SimpleNamespace(a=3.0, b=np.array([[1.0, 2], [3, 4]]), c={"x": [1.0, 1], "y": [0.0]})
    theirs = SimpleNamespace(a=5.0, b=[[1, 4], [3, 0]], c={"y": [3.0], "x": [1, 1]})
    assert field_error("a", ours, theirs) == 2
    assert field_error("b", ours, theirs) == pytest.approx((0 + 2 + 0 + 4) / 4)
    assert field_error("c", ours, theirs) == pytest.approx((0 + 0 + 3) / 3)
    assert relative_score("a").of(ours, theirs, None) == pytest.approx(40)


@pytest.mark.parametrize(
    "ours, theirs, reason",
    [
        (None, 1.0, "the result has none"),
        ([1.0], [1.0, 2.0], r"shape \(1,\), the reference has \(2,\)"),
        ({"Si": 1.0}, {"C": 1.0}, "of Si; the reference has C"),
        (np.nan, 1.0, "is not finite"),
        ([1.0, np.inf], [1.0, 2.0], "is not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, theirs, reason):
    with pytest.raises(NumericsError, match=f"x: .*{reason}"):
        field_error("x", SimpleNamespace(x=ours), SimpleNamespace(x=theirs))


def test_a_workflow_without_scores_of_its_own_has_those_of_fields_with_units():
    workflow = find_workflow("energy")
    assert workflow.scores["energy_error"].unit == "eV"
    assert workflow.scores["forces_mae"].unit == "eV/Å"
    a, b = (workflow.function(bulk("Cu", a=x), EMT(), workflow.settings()) for x in (3.6, 3.7))
    found = workflow.scores["energy_error"].of(a, b, None)
    assert found == pytest.approx(abs(a.energy - b.energy)) and found > 0.01
    neb = find_workflow("neb").scores
    assert neb["barrier_error"].unit == "eV" and neb["energies_mae"].unit == "eV"


@pytest.mark.parametrize("name", ["phonons", "elastic", "relax", "md", "eos", "vacancy", "surface", "energy"])
def test_each_score_has_fields_that_exist(name):
    workflow = find_workflow(name)
    assert workflow.scores
    for score in workflow.scores.values():
        assert set(score.needs) <= workflow.result.model_fields.keys()


def test_a_partial_reference_knows_what_it_has():
    result = find_workflow("eos").result.model_construct(volume=1.0, bulk_modulus=None)
    assert has_fields(result, ("volume",)) and not has_fields(result, ("bulk_modulus",))
    assert not has_fields(result, ("energy",)) and has_fields(None, ()) and not has_fields(None, ("volume",))


# Phonons


def test_frequencies_that_all_shift_have_the_shift_as_error(copper):
    shifted = changed(copper, band_frequencies=copper.band_frequencies + 0.25)
    assert PHONONS["frequency_mae"].of(copper, copper, QUICK) == 0
    assert PHONONS["frequency_mae"].of(shifted, copper, QUICK) == pytest.approx(0.25)
    one = copper.band_frequencies.copy()
    one[7, 2] += 3
    raised = changed(copper, band_frequencies=one)
    assert PHONONS["frequency_max"].of(copper, raised, QUICK) == pytest.approx(3)
    # The path passes some points twice; a result is looked up where it passes first.
    assert PHONONS["frequency_mae"].of(copper, raised, QUICK) == pytest.approx(3 / one.size)


def test_the_order_of_bands_does_not_matter(copper):
    other = changed(copper, band_frequencies=copper.band_frequencies[:, ::-1])
    assert PHONONS["frequency_max"].of(copper, other, QUICK) == 0


def test_masses_scale_frequencies_as_they_should(copper):
    heavy = bulk("Cu")
    heavy.set_masses([4 * copper_mass()])
    slow = phonons(heavy, EMT(), QUICK)
    found = PHONONS["frequency_mae"].of(slow, copper, QUICK)
    assert found == pytest.approx(np.abs(copper.band_frequencies).mean() / 2, rel=1e-3)


def copper_mass():
    return bulk("Cu").get_masses()[0]


@pytest.mark.parametrize(
    "equal",
    [
        [0.5, 0, 0.5],  # X itself
        [-0.5, 0, -0.5],  # time reversal
        [1.5, 2, -0.5],  # a reciprocal lattice vector away
        [0.5, 0.5, 0],  # another face
        [0, 0.5, 0.5],
    ],
)
def test_equal_q_points_are_found(copper, equal):
    row = rows_of(np.array([equal]), copper)[0]
    assert copper.band_qpoints[row] == pytest.approx([0.5, 0, 0.5])


def test_equal_q_points_have_equal_frequencies_by_phonopy(copper):
    phonon = phonopy.load(io.StringIO(copper.phonopy))
    rng = np.random.default_rng(0)
    rows = rng.choice(len(copper.band_qpoints), 12)
    rotations = phonon.primitive_symmetry.pointgroup_operations
    for row in rows:
        q = rotations[rng.integers(len(rotations))].T @ copper.band_qpoints[row] + rng.integers(-2, 3, 3)
        found = copper.band_frequencies[rows_of(q[None], copper)[0]]
        expected = phonon.run_qpoints([q]).frequencies[0]
        assert found == pytest.approx(expected, abs=1e-3)


def test_a_q_point_off_the_path_is_named(copper):
    with pytest.raises(NumericsError, match=r"q-point \(0.11, 0.23, 0.37\): is not on the band path"):
        rows_of(np.array([[0.11, 0.23, 0.37]]), copper)


def test_other_numbers_of_bands_are_refused(copper):
    other = changed(copper, band_frequencies=np.hstack([copper.band_frequencies] * 2))
    with pytest.raises(NumericsError, match="3 bands, the reference has 6"):
        PHONONS["frequency_mae"].of(copper, other, QUICK)


# Molecular dynamics


@pytest.fixture(scope="module")
def hot():
    settings = MdSettings(temperature=60, timestep=4, steps=80, interval=4, seed=1)
    return md(argon(), LennardJones(), settings), settings


def test_radial_distributions_differ_by_the_mean_over_distances(hot):
    result, settings = hot
    assert MD["rdf_mae"].of(result, result, settings) == 0
    lifted = changed(result, rdf={name: g + 0.2 for name, g in result.rdf.items()})
    assert MD["rdf_mae"].of(result, lifted, settings) == pytest.approx(0.2)
    half = {name: np.where(result.rdf_distance < 3, g + 1, g) for name, g in result.rdf.items()}
    share = np.mean(result.rdf_distance < 3)
    assert MD["rdf_mae"].of(result, changed(result, rdf=half), settings) == pytest.approx(share)
    cooler = md(argon(), LennardJones(), settings.model_copy(update={"temperature": 10}))
    assert 0.05 < MD["rdf_mae"].of(cooler, result, settings) < 2  # sharper shells


def test_radial_distributions_on_other_distances_are_refused(hot):
    result, settings = hot
    other = changed(result, rdf_distance=result.rdf_distance * 1.1)
    with pytest.raises(NumericsError, match="--rdf-cutoff"):
        MD["rdf_mae"].of(result, other, settings)


def test_what_is_lost_is_the_part_of_the_run_after_its_end(hot):
    result, settings = hot
    lost = MD["lost_fraction"].of
    assert lost(result, None, settings) == 0
    assert lost(changed(result, verdict="exploded", steps=20), None, settings) == pytest.approx(0.75)
    assert lost(changed(result, verdict="melted", verdict_step=60), None, settings) == pytest.approx(0.25)
    assert lost(changed(result, verdict="melted", verdict_step=0), None, settings) == 1
    outside = changed(result, verdict="outside training range", verdict_step=40)
    assert lost(outside, None, settings) == pytest.approx(0.5)
    assert lost(changed(result, verdict="drifting", verdict_step=80), None, settings) == 0


def test_drift_has_no_sign_and_is_refused_where_there_is_none(hot):
    result, settings = hot
    assert MD["drift"].of(changed(result, drift=-3.0), None, settings) == 3
    with pytest.raises(NumericsError, match="too short"):
        MD["drift"].of(changed(result, drift=None), None, settings)


# Relaxation


def shaped(positions, cell, symbols=None):
    positions = np.asarray(positions, dtype=float)
    symbols = symbols or ["Cu"] * len(positions)
    return SimpleNamespace(positions=positions, cell=np.asarray(cell, dtype=float), symbols=symbols)


BOX = np.array([[4.0, 0, 0], [1, 5, 0], [0, 0.5, 6]])
SITES = np.random.default_rng(2).uniform(size=(6, 3)) @ BOX


def rmsd(ours, theirs):
    return RELAX["position_rmsd"].of(ours, theirs, None)


def test_positions_differ_by_what_is_left_of_a_displacement_without_its_mean():
    moved = 0.05 * np.random.default_rng(3).normal(size=(6, 3))
    expected = np.sqrt(((moved - moved.mean(axis=0)) ** 2).sum() / 6)
    assert rmsd(shaped(SITES + moved, BOX), shaped(SITES, BOX)) == pytest.approx(expected, abs=1e-12)
    no_cell = np.zeros((3, 3))
    assert rmsd(shaped(SITES + moved, no_cell), shaped(SITES, no_cell)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shift", [0.1, 0.5, 0.77])
def test_translations_and_images_do_not_count(shift):
    noise = 1e-9 * np.random.default_rng(4).normal(size=(6, 3))
    images = np.random.default_rng(5).integers(-2, 3, size=(6, 3)) @ BOX
    ours = SITES + noise + images + shift * BOX.sum(axis=0)
    assert rmsd(shaped(ours, BOX), shaped(SITES, BOX)) < 1e-8


def test_a_strain_moves_no_atom():
    strain = np.eye(3) + 0.02 * np.random.default_rng(6).normal(size=(3, 3))
    ours, theirs = shaped(SITES @ strain, BOX @ strain), shaped(SITES, BOX)
    assert rmsd(ours, theirs) < 1e-12
    expected = np.abs(ase.cell.Cell(BOX @ strain).lengths() - ase.cell.Cell(BOX).lengths()).mean()
    assert RELAX["length_mae"].of(ours, theirs, None) == pytest.approx(expected)


def test_other_atoms_are_refused():
    with pytest.raises(NumericsError, match="other atoms"):
        rmsd(shaped(SITES, BOX), shaped(SITES, BOX, ["Cu"] * 5 + ["Au"]))


def test_a_relaxation_is_scored_on_energy_volume_lengths_and_positions():
    atoms = bulk("Cu", a=3.7, cubic=True)
    settings = RelaxSettings(cell=True, fmax=0.001)
    result = relax(atoms, EMT(), settings)
    large = changed(result, cell=result.cell * 1.01, positions=result.positions * 1.01)
    large = changed(large, volume=result.volume * 1.01**3, energy=result.energy + 0.5)
    found = {name: score.of(result, large, settings) for name, score in RELAX.items()}
    assert found["energy_error"] == pytest.approx(0.5)
    assert found["volume_error"] == pytest.approx(100 * (1 - 1.01**-3))
    assert found["length_mae"] == pytest.approx(0.01 * np.linalg.norm(result.cell, axis=1).mean())
    assert found["position_rmsd"] == pytest.approx(0, abs=1e-9)


# Elastic constants and the equation of state


def test_elastic_constants_are_compared_where_the_reference_has_any():
    scores = find_workflow("elastic").scores
    cubic = np.zeros((6, 6))
    cubic[:3, :3] = 50
    np.fill_diagonal(cubic, [150] * 3 + [100] * 3)
    ours = cubic.copy()
    np.fill_diagonal(ours, [154] * 3 + [98] * 3)
    ours[0, 5] = 7  # zero by symmetry: no constant of the reference
    of = scores["clamped_mae"].of
    result, reference = SimpleNamespace(clamped=ours), SimpleNamespace(clamped=cubic)
    assert of(result, reference, None) == pytest.approx((3 * 4 + 3 * 2 + 3 * 0) / 9)
    with pytest.raises(NumericsError, match=r"expected \(6, 6\)"):
        of(result, SimpleNamespace(clamped=cubic[:3, :3]), None)


def test_each_elastic_constant_has_a_score_so_that_a_mean_hides_none():
    cubic = np.zeros((6, 6))
    cubic[:3, :3] = 100
    np.fill_diagonal(cubic, [150] * 3 + [10] * 3)
    soft = cubic.copy()
    np.fill_diagonal(soft, [150] * 3 + [5] * 3)
    workflow = find_workflow("elastic")
    reference = workflow.result.model_construct(clamped=cubic)
    result = workflow.result.model_construct(clamped=soft)
    task = Task("x", workflow, (bulk("Cu"),), workflow.settings(), reference)
    names = {"clamped_mae", "clamped_C11_error", "clamped_C12_error", "clamped_C44_error"}
    assert set(task.scores) == names
    errors = {name: score.of(result, reference, None) for name, score in task.scores.items()}
    assert errors["clamped_C44_error"] == 5 and errors["clamped_mae"] < 2
    assert errors["clamped_C11_error"] == errors["clamped_C12_error"] == 0


def test_constants_of_their_own_follow_the_symmetry_and_not_chance():
    def constants(**values):
        matrix = np.zeros((6, 6))
        for name, value in values.items():
            i, j = int(name[1]) - 1, int(name[2]) - 1
            matrix[i, j] = matrix[j, i] = value
        return [f"C{i + 1}{j + 1}" for i, j in own_constants(matrix)]

    block = {"c11": 9, "c22": 9, "c12": 4, "c13": 3, "c23": 3, "c33": 8, "c44": 2, "c55": 2, "c66": 2.5}
    assert constants(**block) == ["C11", "C12", "C13", "C33", "C44", "C66"]  # hexagonal
    assert constants(**block, c14=1, c24=-1, c56=1) == [
        *("C11", "C12", "C13", "C14", "C33", "C44", "C56", "C66")
    ]  # trigonal
    same = {"c11": 9, "c22": 9, "c33": 9, "c12": 4, "c13": 4, "c23": 4, "c44": 4, "c55": 4, "c66": 4}
    assert constants(**same) == ["C11", "C12", "C44"]  # a Cauchy solid: C12 = C44


def test_curves_of_an_equation_of_state_are_compared_above_their_minima():
    scores = find_workflow("eos").scores
    settings = EosSettings()
    result = eos(bulk("Cu", a=3.6), EMT(), settings)
    lifted = changed(result, energies=result.energies + 2, energy=result.energy + 2)
    assert scores["curve_mae"].of(result, lifted, settings) == pytest.approx(0, abs=1e-12)
    steep = changed(result, energies=result.energy + 2 * (result.energies - result.energy))
    heights = (result.energies - result.energy).mean()
    assert scores["curve_mae"].of(result, steep, settings) == pytest.approx(heights)
    four = eos(bulk("Cu", a=3.6, cubic=True), EMT(), settings)  # per atom they are the same
    assert all(s.of(four, result, settings) < 1e-6 for s in scores.values())
    with pytest.raises(NumericsError, match="volumes: not those of the reference"):
        scores["curve_mae"].of(result, changed(result, volumes=result.volumes * 1.01), settings)


def test_a_reference_read_back_scores_zero(copper, tmp_path):
    workflow = find_workflow("phonons")
    path = tmp_path / "ref.json"
    path.write_text(json.dumps({"workflow": "phonons", **result_record(copper)}))
    reference, _ = read_fields(path, workflow, partial=True)
    assert {name: s.of(copper, reference, QUICK) for name, s in PHONONS.items()} == dict.fromkeys(PHONONS, 0)
