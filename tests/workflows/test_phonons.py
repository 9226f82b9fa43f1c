"""Phonons: references and analytic crystals are reproduced, nothing is computed twice, verdicts are right."""

import io
import json

import ase
import ase.io
import numpy as np
import phonopy
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list
from ase.units import _amu, _e, kB
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
    Stillinger_Weber_PRB_31_5262_Si,
    StillingerWeber,
)
from phonon_replay import CASES, Case

from nfflr.calculator import NFFLrCalculator
from nfflr.errors import ConfigError, NumericsError, StructureError
from nfflr.storage.archives import Archive, FolderArchive
from nfflr.workflows.framework.interface import silent
from nfflr.workflows.lattice.harmonic import at_rest, displaced, set_force_constants, thermal
from nfflr.workflows.lattice.supercells import diagonal_supercell, shortest_image, supercell_matrix
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons, plot

THZ = np.sqrt(_e / _amu) * 1e10 / (2 * np.pi) / 1e12  # of sqrt(eV/(Å² u))
KJ_PER_MOL = 96.48533212  # per eV
GAS = 8.314462618  # J/(K mol)
QUICK = {"mesh": (4, 4, 4), "band_points": 11}


def loaded(result):
    """What phonopy makes of the file."""
    return phonopy.load(io.StringIO(result.phonopy))


class Pairs(Calculator):
    """A pair potential phi(r) with derivative dphi(r), cut off between two shells."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, phi, dphi, cutoff):
        super().__init__()
        self.phi, self.dphi, self.cutoff = phi, dphi, cutoff

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, r, vectors = neighbor_list("idD", atoms, self.cutoff)
        pull = self.dphi(r)[:, None] * vectors / r[:, None]
        forces = np.stack([np.bincount(i, pull[:, k], len(atoms)) for k in range(3)], axis=1)
        stress = 0.5 * np.einsum("ea,eb->ab", pull, vectors) / atoms.get_volume()
        stress = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        self.results = {"energy": 0.5 * self.phi(r).sum(), "forces": forces, "stress": stress}


def springs(length, k=2.0):
    """Nearest neighbours of fcc copper tied by springs of k eV/Å² at rest."""
    return Pairs(lambda r: 0.5 * k * (r - length) ** 2, lambda r: k * (r - length), 1.2 * length)


def stillinger_weber():
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


# References of phonopy, their own forces fed through


def from_reference(name, tmp_path):
    """Phonopy object of our route, and the case."""
    case = Case(name)
    settings = PhononsSettings(
        relax="none",
        supercell_matrix=case.reference["supercell_matrix"],
        born=case.write_born(tmp_path / "BORN"),
        symmetrize=name != "Si",  # the reference of silicon has raw force constants
    )
    start = at_rest(case.unitcell, case.calculator, settings, silent, Archive())
    phonon = displaced(start, supercell_matrix(start, settings), settings)
    set_force_constants([phonon], case.calculator, settings, silent, Archive())
    return phonon, case


@pytest.mark.parametrize("name", CASES)
def test_the_forces_of_a_reference_give_its_frequencies_and_thermal_properties(name, tmp_path):
    phonon, case = from_reference(name, tmp_path)
    reference = case.reference
    assert phonon.primitive_matrix == pytest.approx(np.array(reference["primitive_matrix"]), abs=1e-9)
    for label, q in reference["qpoints_fractional_primitive_reciprocal"].items():
        found = phonon.run_qpoints([q]).frequencies[0]
        assert found == pytest.approx(reference["frequencies"][label], abs=1e-5), label
    if "frequencies_gamma_nac_direction_100" in reference:
        found = phonon.run_qpoints([[0, 0, 0]], nac_q_direction=[1, 0, 0]).frequencies[0]
        assert found == pytest.approx(reference["frequencies_gamma_nac_direction_100"], abs=1e-5)

    mesh = phonon.run_mesh(reference["mesh"], is_gamma_center=True)
    assert mesh.frequencies.max() == pytest.approx(reference["mesh_max_frequency"], abs=1e-5)
    expected = {k: np.array(v) for k, v in reference["thermal_THz_kJmol_JKmol"].items()}
    t = expected["T"]
    heat = thermal(phonon, t)
    assert heat.free_energy[0] * KJ_PER_MOL == pytest.approx(expected["F_kJ_per_mol_primitive"][0], abs=1e-4)
    # The reference counts translations at Γ whose frequency came out above zero by rounding, n = 0 to 3 of
    # 3 N · 21³ modes: classical oscillators of unknown frequency, which add a term n R/21³ to the heat
    # capacity and are absent here. Everything else must agree.
    t = t[1:]
    share = GAS / np.prod(reference["mesh"])
    extra_cv = expected["Cv_J_per_K_mol"][1:] - heat.heat_capacity[1:] * KJ_PER_MOL * 1000
    n = round(extra_cv.mean() / share)
    assert 0 <= n <= 3 and extra_cv == pytest.approx(n * share, abs=1e-4)
    extra_s = expected["S_J_per_K_mol"][1:] - heat.entropy[1:] * KJ_PER_MOL * 1000 - n * share * np.log(t)
    assert extra_s == pytest.approx(extra_s.mean(), abs=1e-4) and (n > 0 or abs(extra_s.mean()) < 1e-4)
    extra_f = expected["F_kJ_per_mol_primitive"][1:] - heat.free_energy[1:] * KJ_PER_MOL
    predicted = -t * (extra_s.mean() + n * share * (np.log(t) - 1)) / 1000
    assert extra_f == pytest.approx(predicted, abs=2e-4)


def test_sodium_chloride_splits_at_gamma_along_the_path(tmp_path):
    case = Case("NaCl")
    settings = PhononsSettings(
        relax="none",
        supercell=(2, 2, 2),
        born=case.write_born(tmp_path / "BORN"),
        mesh=(2, 2, 2),
        band_points=3,
    )
    result = phonons(case.unitcell, case.calculator, settings)
    at_gamma = [k for k, q in enumerate(result.band_qpoints) if np.abs(q).max() < 1e-9]
    assert len(at_gamma) == 3  # the first point, the end of a piece, and the beginning of the next
    for k in at_gamma:
        assert result.band_frequencies[k, :3] == pytest.approx(0, abs=1e-4)
        assert result.band_frequencies[k, 3:] == pytest.approx([4.6164, 4.6164, 7.3963], abs=1e-3)
    assert result.stable and result.symbols == ["Na", "Cl"] and result.displacements == 2
    without = phonons(case.unitcell, case.calculator, settings.model_copy(update={"born": None}))
    assert without.band_frequencies[0, 3:] == pytest.approx([4.6164] * 3, abs=1e-3)
    assert loaded(result).run_qpoints([[0, 0, 0]], nac_q_direction=[0, 0, 1]).frequencies[
        0, -1
    ] == pytest.approx(7.3963, abs=1e-3)


def test_bundled_silicon_is_within_0_3_thz_of_dft():
    case = Case("Si")
    calculator = NFFLrCalculator.load("mlearn-si-fast")
    result = phonons(case.unitcell, calculator, PhononsSettings(supercell=(2, 2, 2), **QUICK))
    phonon = loaded(result)
    points = case.reference["qpoints_fractional_primitive_reciprocal"]
    assert set(points) == {"G", "X", "L", "W"}
    errors = [
        phonon.run_qpoints([q]).frequencies[0] - case.reference["frequencies"][p] for p, q in points.items()
    ]
    assert np.abs(errors).mean() <= 0.3
    assert result.stable and result.modulated is None and "stable: no imaginary" in result.message


# Independent routes


def test_fcc_with_springs_between_neighbours_has_the_analytic_dispersion():
    a, k = 3.6, 2.0
    atoms = bulk("Cu", a=a)
    settings = PhononsSettings(relax="none", supercell=(4, 4, 4), displacement=1e-3, **QUICK)
    result = phonons(atoms, springs(a / np.sqrt(2), k), settings)
    mass = atoms.get_masses()[0]
    ijk = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
    neighbours = ijk[np.square(ijk).sum(axis=1) == 2] * a / 2  # (12, 3)
    n = neighbours / np.linalg.norm(neighbours, axis=1)[:, None]
    reciprocal = np.linalg.inv(result.cell)  # columns
    for q, found in zip(result.band_qpoints, result.band_frequencies, strict=True):
        phase = 2 * np.pi * neighbours @ reciprocal @ q
        matrix = k / mass * np.einsum("e,ea,eb->ab", 1 - np.cos(phase), n, n)
        expected = np.sqrt(np.abs(np.linalg.eigvalsh(matrix))) * THZ
        assert found == pytest.approx(expected, abs=2e-3)
    assert result.band_labels[:2] == ["Γ", "X"]
    at_x = result.band_frequencies[result.band_pieces[1] - 1]
    assert at_x == pytest.approx(np.sqrt(np.array([4, 4, 8]) * k / mass) * THZ, abs=2e-3)
    # Sound along [100]: v = (a/4) ω(X), for both polarisations.
    near = result.band_velocities[1]
    speeds = np.sort(np.linalg.norm(near, axis=1))
    expected = np.array([1, 1, 2**0.5]) * a / 4 * 2 * np.pi * THZ * np.sqrt(4 * k / mass) * 0.1
    along = result.band_distances[1] / result.band_label_distances[1]
    assert speeds == pytest.approx(expected * np.cos(np.pi / 2 * along), rel=1e-3)


def test_stillinger_weber_silicon_has_the_spectrum_of_its_analytic_hessian():
    atoms = bulk("Si", a=5.431)
    settings = PhononsSettings(relax="none", supercell=(2, 2, 2), displacement=1e-3, **QUICK)
    result = phonons(atoms, stillinger_weber(), settings)
    phonon = loaded(result)
    supercell = atoms.repeat(2)
    hessian = stillinger_weber().get_property("hessian", supercell).toarray()
    squared = np.linalg.eigvalsh(hessian) / atoms.get_masses()[0]
    expected = np.sort(np.sqrt(np.abs(squared)) * np.sign(squared) * THZ)
    grid = np.array(np.meshgrid(*[[0, 0.5]] * 3)).reshape(3, -1).T
    found = np.sort(phonon.run_qpoints(grid).frequencies.ravel())
    assert found[3:] == pytest.approx(expected[3:], abs=2e-3)
    assert found[:3] == pytest.approx(0, abs=1e-3)
    assert result.stable and result.highest_frequency == pytest.approx(expected.max(), abs=2e-3)


def test_copper_with_emt_obeys_sum_rules():
    result = phonons(bulk("Cu", cubic=True), EMT(), PhononsSettings(supercell_length=7, **QUICK))
    assert result.stable and len(result.symbols) == 1 and result.displacements == 1
    assert np.array_equal(result.supercell_matrix, 2 * np.eye(3)) and result.space_group == "Fm-3m"
    assert result.band_frequencies[0] == pytest.approx(0, abs=1e-4)
    assert np.trapezoid(result.dos, result.dos_frequencies) == pytest.approx(3, rel=0.02)
    assert result.projected_dos.sum(axis=0) == pytest.approx(result.dos)
    # Thermodynamics: F = E0 - ∫S dT, S = ∫C/T dT, Dulong and Petit at the end, zero-point energy first.
    t, f, s, c = result.temperatures, result.free_energy, result.entropy, result.heat_capacity
    assert f[0] == pytest.approx(result.zero_point_energy) and s[0] == c[0] == 0
    assert np.gradient(f, t)[10:-5] == pytest.approx(-s[10:-5], rel=0.01)
    assert np.gradient(s, t)[10:-5] == pytest.approx((c / np.maximum(t, 1))[10:-5], rel=0.01)
    modes = 3 * (1 - 1 / 4**3)  # translations at Γ carry no heat
    assert c[-1] == pytest.approx(modes * kB, rel=0.01)


def test_group_velocities_are_slopes_of_the_bands():
    result = phonons(
        bulk("Si", a=5.431), stillinger_weber(), PhononsSettings(supercell=(2, 2, 2), mesh=(2, 2, 2))
    )
    start, end = result.band_pieces[:2]  # Γ to X, along a Cartesian axis
    frequencies, distances = result.band_frequencies[start:end, 2], result.band_distances[start:end]
    slopes = np.gradient(frequencies, distances)[2:-2] * 0.1
    speeds = np.linalg.norm(result.band_velocities[start:end, 2], axis=1)[2:-2]
    assert speeds == pytest.approx(np.abs(slopes), abs=0.02 * speeds.max())


def test_the_file_is_one_phonopy_loads_with_the_same_frequencies():
    result = phonons(bulk("Cu"), EMT(), PhononsSettings(supercell=(3, 3, 3), **QUICK))
    phonon = loaded(result)
    found = phonon.run_qpoints(result.band_qpoints).frequencies
    assert found == pytest.approx(result.band_frequencies, abs=1e-4)


# Stability


def test_an_unstable_crystal_is_a_result_that_names_the_wave_and_the_way_down():
    # bcc copper is unstable against shear of its (110) planes.
    settings = PhononsSettings(supercell=(4, 4, 4), **QUICK)
    result = phonons(bulk("Cu", "bcc", a=2.87), EMT(), settings)
    assert result.converged and not result.stable and result.lowest_frequency < -0.5
    assert result.message.startswith(f"dynamically unstable: {result.lowest_frequency:.3f} THz at q = (")
    phonon = loaded(result)
    at_q = phonon.run_qpoints([result.lowest_qpoint]).frequencies[0]
    assert at_q.min() == pytest.approx(result.lowest_frequency, abs=1e-3)

    # The modulated structure is lower in energy than the crystal.
    way = result.modulated
    crystal = ase.Atoms(result.symbols, scaled_positions=result.scaled_positions, cell=result.cell, pbc=True)
    energies = []
    for atoms in (way, crystal):
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy() / len(atoms))
    assert energies[0] < energies[1]


def test_gamma_translations_are_not_instabilities():
    result = phonons(bulk("Cu"), EMT(), PhononsSettings(supercell=(2, 2, 2), tolerance=0.0, **QUICK))
    assert result.stable and result.lowest_frequency > 0


# Nothing twice


class Killed(BaseException):
    pass


class Counting:
    """Wraps a calculator with ``evaluate``, counts structures, and dies when told."""

    def __init__(self, calculator, dies_after=None):
        self.calculator, self.dies_after, self.count = calculator, dies_after, 0
        self.todict = calculator.todict
        self.get_property = calculator.get_property

    def evaluate(self, structures):
        if self.dies_after is not None and self.count >= self.dies_after:
            raise Killed
        self.count += len(structures)
        return self.calculator.evaluate(structures)


def test_killed_and_resumed_force_constants_are_the_same_bits_and_nothing_is_computed_twice(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("nfflr.workflows.framework.evaluations.BLOCK", 160)
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.02, seed=3)
    settings = PhononsSettings(relax="none", supercell=(2, 1, 1), mesh=(2, 2, 2), band_points=3)
    model = NFFLrCalculator.load("mlearn-si-fast")
    alone = Counting(model)
    expected = phonons(atoms, alone, settings)
    assert alone.count == expected.displacements == 48

    dying = Counting(NFFLrCalculator.load("mlearn-si-fast"), dies_after=20)
    with pytest.raises(Killed):
        phonons(atoms, dying, settings, archive=FolderArchive(tmp_path))
    assert dying.count == 20
    rising = Counting(NFFLrCalculator.load("mlearn-si-fast"))
    resumed = phonons(atoms, rising, settings, archive=FolderArchive(tmp_path))
    assert rising.count == 28
    assert resumed.phonopy == expected.phonopy
    assert np.array_equal(resumed.band_frequencies, expected.band_frequencies)
    assert np.array_equal(resumed.free_energy, expected.free_energy)

    again = Counting(NFFLrCalculator.load("mlearn-si-fast"))
    phonons(atoms, again, settings.model_copy(update={"mesh": (3, 3, 3)}), archive=FolderArchive(tmp_path))
    assert again.count == 0
    phonons(atoms, again, settings.model_copy(update={"displacement": 0.02}), archive=FolderArchive(tmp_path))
    assert again.count == 48


def test_a_finished_relaxation_is_not_repeated(tmp_path):
    class Calls(EMT):
        count = 0

        def calculate(self, *arguments, **keywords):
            Calls.count += 1
            super().calculate(*arguments, **keywords)

    settings = PhononsSettings(supercell=(2, 2, 2), **QUICK)
    first = phonons(bulk("Cu", a=3.7), Calls(), settings, archive=FolderArchive(tmp_path))
    calls, Calls.count = Calls.count, 0
    second = phonons(bulk("Cu", a=3.7), Calls(), settings, archive=FolderArchive(tmp_path))
    assert calls > 5 and Calls.count == 0
    assert second.phonopy == first.phonopy


# Supercells


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu"),
        bulk("Cu", cubic=True),
        bulk("Fe"),
        bulk("Mg"),
        bulk("As", "rhombohedral", a=4.13, alpha=54.1),
        ase.Atoms("Cu", cell=[2, 3, 9], pbc=True),
        ase.Atoms("Cu", cell=[[2.5, 0, 0], [1.2, 3, 0], [0.7, 1, 4]], pbc=True),
    ],
    ids=lambda a: f"{a.symbols}{len(a)}",
)
@pytest.mark.parametrize("length", [6.0, 11.0])
def test_a_supercell_of_a_length_is_the_smallest_that_keeps_images_away(atoms, length):
    matrix = diagonal_supercell(atoms, length)
    repeats = np.diag(matrix)
    assert np.array_equal(matrix, np.diag(repeats))
    around = np.array([[i, j, k] for i in range(-3, 4) for j in range(-3, 4) for k in range(-3, 4)])
    around = around[np.any(around != 0, axis=1)]

    def image_distance(n):
        return np.linalg.norm(around @ (np.diag(n) @ atoms.cell.array), axis=1).min()

    assert image_distance(repeats) >= length - 1e-9
    assert shortest_image(matrix @ atoms.cell.array) == pytest.approx(image_distance(repeats))
    equal = len(set(np.round(atoms.cell.lengths(), 6))) == 1
    smaller = [repeats - 1] if equal else [repeats - row for row in np.eye(3, dtype=int)]
    for n in smaller:
        assert min(n) < 1 or image_distance(n) < length


def test_a_primitive_cell_gives_equal_repeats():
    assert len(set(np.diag(diagonal_supercell(bulk("As", "rhombohedral", a=4.13, alpha=54.1), 9.0)))) == 1


# What goes wrong


@pytest.mark.parametrize(
    "atoms", [fcc111("Cu", (1, 1, 2), vacuum=5), molecule("N2")], ids=["slab", "molecule"]
)
def test_an_open_axis_is_refused_in_words(atoms):
    with pytest.raises(StructureError, match="three periodic axes") as caught:
        phonons(atoms, EMT())
    assert caught.value.exit_code == 3


def test_a_relaxation_that_does_not_converge_stops_the_run():
    with pytest.raises(NumericsError, match="did not converge.*--relax none") as caught:
        phonons(bulk("Cu", a=3.9), EMT(), PhononsSettings(steps=1))
    assert caught.value.exit_code == 5


def test_forces_that_are_not_finite_name_the_displacement():
    broken = Pairs(lambda r: r, lambda r: np.full_like(r, np.nan), 3.0)
    with pytest.raises(NumericsError, match="structure: displacement 0: forces") as caught:
        phonons(bulk("Cu"), broken, PhononsSettings(relax="none", supercell=(2, 2, 2)))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("text", [None, "", "14.4\n1 2 3\n", "14.4\n1 0 0 0 1 0 0 0 1\n", "14.4\nx\n", "\0"])
def test_a_born_file_that_does_not_fit_is_refused(text, tmp_path):
    path = tmp_path / "BORN"
    if text is not None:
        path.write_text(text)
    case = Case("NaCl")
    with pytest.raises(ConfigError, match="BORN"):
        phonons(case.unitcell, case.calculator, PhononsSettings(relax="none", supercell=(2, 2, 2), born=path))
    assert case.calculator.calls == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"supercell": (2, 2, 0)},
        {"supercell": (2, 2)},
        {"supercell_matrix": (1, 0, 0, 0, 1, 0, 0, 0, -1)},
        {"supercell_matrix": [[1, 0, 0], [1, 0, 0], [0, 0, 1]]},
        {"supercell": (1, 1, 1), "supercell_matrix": (1, 0, 0, 0, 1, 0, 0, 0, 1)},
        {"supercell_length": 0},
        {"displacement": -0.01},
        {"mesh": (0, 1, 1)},
        {"t_min": 100, "t_max": 100},
        {"t_step": 0},
        {"relax": "yes"},
    ],
    ids=str,
)
def test_settings_refuse_what_is_impossible(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PhononsSettings(**wrong)


def test_the_input_is_left_as_it_was_and_constraints_do_not_matter():
    atoms = bulk("Cu", cubic=True)
    free = phonons(atoms, EMT(), PhononsSettings(supercell=(1, 1, 1), **QUICK))
    atoms.set_constraint(FixAtoms([0, 1]))
    kept = atoms.copy()
    fixed = phonons(atoms, EMT(), PhononsSettings(supercell=(1, 1, 1), **QUICK))
    assert atoms == kept and atoms.calc is None and len(atoms.constraints) == 1
    assert fixed.band_frequencies == pytest.approx(free.band_frequencies, abs=1e-9)


def test_masses_of_the_structure_are_used():
    heavy = bulk("Cu")
    heavy.set_masses([4 * heavy.get_masses()[0]])
    settings = PhononsSettings(supercell=(2, 2, 2), **QUICK)
    found, usual = (phonons(a, EMT(), settings).highest_frequency for a in (heavy, bulk("Cu")))
    assert found == pytest.approx(usual / 2, rel=1e-3)  # phonopy's and ASE's masses differ a little


def test_the_figure_has_units_and_names(tmp_path):
    result = phonons(bulk("Cu"), EMT(), PhononsSettings(supercell=(2, 2, 2), **QUICK))
    figure = plot(result)
    figure.savefig(tmp_path / "figure.png")
    bands, dos, free, heat = [axes for part in figure.subfigs for axes in part.axes]
    assert [t.get_text() for t in bands.get_xticklabels()] == result.band_labels
    assert "THz" in bands.get_ylabel() and "THz" in dos.get_xlabel()
    assert "meV" in free.get_ylabel() and "K" in heat.get_xlabel()
    assert result.band_labels == ["Γ", "X", "W", "K", "Γ", "L", "U", "W", "L", "K|U", "X"]
    stiff = phonons(bulk("Cu", a=3.5), EMT(), PhononsSettings(supercell=(2, 2, 2), relax="none", **QUICK))
    both = plot(result, {"compressed": stiff}, "relaxed").subfigs[0].axes[0]
    assert {"compressed", "relaxed"} == {t.get_text() for t in both.get_legend().get_texts()}
    xs = {round(line.get_xdata()[-1], 6) for line in both.lines if len(line.get_xdata()) > 2}
    # Pieces end where those of the subject do.
    assert xs <= {round(x, 6) for x in result.band_label_distances}


def test_the_result_is_json_with_units():
    result = phonons(bulk("Cu"), EMT(), PhononsSettings(supercell=(2, 2, 2), **QUICK))
    record = json.loads(result.model_dump_json(exclude={"modulated"}))
    assert record["stable"] is True and np.shape(record["band_velocities"])[1:] == (3, 3)
    assert record["mesh"] == [4, 4, 4]


def test_a_left_handed_cell_has_the_phonons_of_the_crystal():
    right = bulk("Cu")
    left = right.copy()
    left.set_cell(right.cell.array[[1, 0, 2]])
    assert left.cell.handedness == -1
    settings = PhononsSettings(supercell=(2, 2, 2), relax="none", **QUICK)
    found, expected = (phonons(atoms, EMT(), settings) for atoms in (left, right))
    assert found.dos_frequencies == pytest.approx(expected.dos_frequencies, abs=1e-6)
    assert found.highest_frequency == pytest.approx(expected.highest_frequency, abs=1e-6)
    assert found.free_energy == pytest.approx(expected.free_energy, abs=1e-9)
    assert loaded(found).unitcell.volume == pytest.approx(right.get_volume())
