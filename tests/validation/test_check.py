"""``nfflr.validation.check``: sound calculators pass, each planted defect is found by its own check."""

import json
import zlib

import ase
import numpy as np
import planted
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from nfflr.calculator import NFFLrCalculator
from nfflr.errors import ConfigError
from nfflr.validation.check_suite import check, plot
from nfflr.validation.distances import (
    check_minima,
    check_smoothness,
    check_wall_in_crystal,
    check_wall_of_dimers,
    dimer_curves,
    wall_height,
)
from nfflr.validation.exactness import (
    check_batch,
    check_conservative,
    check_forces,
    check_invariance,
    check_resolution,
    check_rounding,
    check_small_cell,
    check_stress,
    check_supercells,
)
from nfflr.validation.samples import LIMITS, CheckResult, make_samples, measured, open_box

STRICT = LIMITS["float64"]


@pytest.fixture(scope="module")
def copper():
    return make_samples(["Cu"], cutoff=planted.CUTOFF)


@pytest.fixture(scope="module")
def sound(copper):
    return check({"float64": planted.Morse()}, copper)


def failures(report) -> set[str]:
    return {result.name.split(",")[0] for result in report.results if result.status in ("fail", "warn")}


def test_a_sound_calculator_passes_all(sound):
    assert failures(sound) == set()
    assert sum(result.status == "pass" for result in sound.results) >= 19


# What each defect must fail, and what it may fail besides, because it breaks that law too.
DEFECTS = {
    "WrongStressSign": ({"stress = dE/dε / V"}, set()),
    "MissingImage": (
        {"neighbour images", "supercells 2x2x2"},
        {"stress = dE/dε / V", "closed loops: no work"},
    ),
    "JumpAtCutoff": (
        {"continuous energy"},
        {"stress = dE/dε / V", "forces = -dE/dx", "NVE drift", "energy resolution"},
    ),
    "NotAGradient": ({"closed loops: no work", "forces = -dE/dx"}, {"NVE drift"}),
    "OrderedSum": (
        {"permutation"},
        {"supercells 2x2x2", "neighbour images", "forces = -dE/dx", "stress = dE/dε / V"},
    ),
    "Float32References": (
        {"energy resolution"},
        {
            "forces = -dE/dx",
            "stress = dE/dε / V",
            "permutation",
            "supercells 2x2x2",
            "neighbour images",
            "rotation",
            "reflection",
            "translation",
            "translation by lattice vectors",
            "NVE drift",
            "continuous energy",
            "dimer minima Cu–Cu",
        },
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_planted_defect_is_found_by_its_own_check(copper, defect):
    report = check({"float64": getattr(planted, defect)()}, copper)
    must, may = DEFECTS[defect]
    found = failures(report)
    assert must <= found <= must | may
    assert not report.passed


def test_a_wrong_sign_is_called_a_wrong_sign(copper):
    found = check_stress(planted.WrongStressSign(), copper.rattled, STRICT)
    assert found.value == pytest.approx(2, abs=1e-3) and "sign" in found.message


def test_a_jump_is_measured_and_located(copper):
    rows = check_smoothness(planted.JumpAtCutoff(), copper.rattled[0], planted.CUTOFF, STRICT)
    (two,) = [row for row in rows if row.name == "continuous energy, two atoms"]
    assert two.value == pytest.approx(0.003, rel=1e-3)
    assert "5.000" in two.message
    assert [row.passed for row in rows] == [False, True, False, True]  # the forces do not jump


def test_a_jump_is_found_where_the_cutoff_is_not_known():
    unknown = make_samples(["Cu"])
    rows = check_smoothness(planted.JumpAtCutoff(), unknown.rattled[0], unknown.reach, STRICT)
    assert not any(row.passed for row in rows if "energy" in row.name)


def test_the_small_jump_of_emt_where_its_neighbour_list_ends_is_measured():
    samples, emt = make_samples(["Cu"]), EMT()
    rows = check_smoothness(emt, samples.rattled[0], samples.reach, STRICT)
    (two,) = [row for row in rows if row.name == "continuous energy, two atoms"]
    ends = [
        emt.get_potential_energy(open_box(["Cu", "Cu"], [[0, 0, 0], [emt.rc_list + d, 0, 0]], 8.0))
        for d in (-1e-9, 1e-9)
    ]
    assert two.value == pytest.approx(abs(ends[1] - ends[0]), rel=0.02)


def test_the_work_of_a_known_curl(copper):
    class Vortex(planted.Morse):
        def extra_forces(self):
            forces = np.zeros((len(self.atoms), 3))
            x, y, _ = self.atoms.positions[0]
            forces[0] = 1e-2 * np.array([-y, x, 0.0])  # curl 0.02 eV/Å²
            return forces

    found = check_conservative(Vortex(), copper.rattled, STRICT)
    assert 1e-5 < found.value <= 0.02 * np.pi * 0.1**2 and not found.passed


def test_emt_copper_passes_and_its_isolated_atom_is_told():
    report = check({"float64": EMT()}, make_samples(["Cu"]))
    assert failures(report) == set()
    (alone,) = [row for row in report.results if row.name == "isolated atoms"]
    assert "Cu 3.5100 eV" in alone.message  # minus E0 of EMT's copper


def test_float32_against_float64_finds_references_added_in_float32(copper):
    class Shifted(planted.Float32References):
        def total(self, each):
            return super().total(100 * each)

    class Exact(planted.Morse):
        def total(self, each):
            return super().total(100 * each)

    large = copper.sized(500)
    both = {"float64": Exact(), "float32": Shifted()}
    energy, forces = check_rounding(both, large, copper.rattled)
    assert not energy.passed and forces.passed
    assert all(row.passed for row in check_rounding(both | {"float32": Exact()}, large, copper.rattled))
    assert not check_resolution(planted.Float32References(), large, LIMITS["float32"], "float32").passed


class Batched(planted.Morse):
    """A batch whose second structure is off by 1 µeV."""

    error = 1e-6

    def evaluate(self, structures):
        rows = []
        for k, atoms in enumerate(structures):
            self.calculate(atoms.copy())
            rows.append(dict(self.results))
            rows[-1]["energy"] += self.error * (k == 1)
        return rows


def test_a_batch_that_differs_is_found(copper):
    structures = [*copper.rattled, copper.small]
    assert not check_batch(Batched(), structures, STRICT).passed
    exact = Batched()
    exact.error = 0.0
    assert check_batch(exact, structures, STRICT).passed
    assert check_batch(planted.Morse(), structures, STRICT).status == "skip"


class Soft(planted.Morse):
    """A pair that turns attractive below 1.6 Å, with a second dip at 3.6 Å."""

    def pair(self, r):
        energy, slope = super().pair(r)
        for depth, centre, width in ((-40.0, 0.9, 0.35), (-0.5, 3.6, 0.15)):
            bump = depth * np.exp(-(((r - centre) / width) ** 2))
            energy, slope = energy + bump, slope - 2 * (r - centre) / width**2 * bump
        return energy, slope


def test_a_hole_behind_a_barrier_and_a_second_minimum_are_found(copper):
    dimers = dimer_curves(Soft(), ["Cu"], planted.CUTOFF)
    (wall,), (minima,) = check_wall_of_dimers(dimers), check_minima(dimers)
    assert wall.status == "warn" and "fuse" in wall.message
    assert minima.status == "warn" and minima.value == 2 and "3.6" in minima.message
    (crystal,) = check_wall_in_crystal(Soft(), copper.rattled)
    assert crystal.value < check_wall_in_crystal(planted.Morse(), copper.rattled)[0].value


def test_wall_height_is_that_of_the_first_barrier_from_outside():
    r = np.linspace(0.5, 3.0, 251)
    assert wall_height(r, 1 / r, 3.0) == (pytest.approx(2.0), pytest.approx(0.5))
    height, at = wall_height(r, 4 * np.exp(-(((r - 1.5) / 0.3) ** 2)) + 100 * (r < 0.6), 2.5)
    assert (height, at) == (pytest.approx(4), pytest.approx(1.5))


def test_dimer_curves_are_those_of_the_pair():
    (dimer,) = dimer_curves(planted.Morse(), ["Cu"], planted.CUTOFF)
    energy, slope = planted.Morse().pair(dimer.distance)
    inside = dimer.distance < planted.CUTOFF
    assert dimer.energy[inside] == pytest.approx(energy[inside], abs=1e-9)
    assert dimer.force[inside] == pytest.approx(-slope[inside], abs=1e-9)
    assert dimer.distance[0] == 0.5 and dimer.distance[-1] >= planted.CUTOFF


def test_several_elements_share_one_crystal_and_all_pairs_have_a_curve():
    samples = make_samples(["Cu", "Au", "Ni"])
    assert [sorted(set(atoms.symbols)) for atoms in samples.rattled] == [
        ["Cu"],
        ["Au"],
        ["Ni"],
        ["Au", "Cu", "Ni"],
    ]
    assert len(dimer_curves(EMT(), samples.elements, 3.0)) == 6
    assert check_forces(EMT(), samples.rattled, STRICT).passed
    assert check_invariance("rotation", EMT(), samples.rattled, STRICT).passed
    assert check_invariance("permutation", EMT(), samples.rattled, STRICT).passed
    assert {row.name for row in check_wall_in_crystal(EMT(), samples.rattled)} >= {
        "wall Au–Ni in the crystal"
    }


def test_elements_are_needed_and_not_too_many():
    with pytest.raises(ConfigError, match="none known"):
        make_samples([])
    with pytest.raises(ConfigError, match="at most 10"):
        make_samples(["Cu", "Ni", "Au", "Ag", "Pt", "Pd", "Al", "Si", "C", "H", "O"])


def test_a_molecule_has_no_stress_and_no_supercell(structures):
    samples = make_samples(["Cu"], [structures.cluster(("Cu",))], 6.0)
    assert check_stress(EMT(), samples.rattled, STRICT).status == "skip"
    assert check_supercells(EMT(), samples.rattled, STRICT).status == "skip"
    assert check_small_cell(EMT(), samples.small, 6.0, STRICT).status == "skip"
    assert check_forces(EMT(), samples.rattled, STRICT).passed


class Broken(Calculator):
    """No numbers at all."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": float("nan"), "forces": np.full((len(self.atoms), 3), np.nan)}


def test_a_calculator_that_breaks_down_fails_with_its_message(copper):
    report = check({"float64": Broken()}, copper)
    assert not report.passed
    failed = [row for row in report.results if row.status == "fail"]
    assert all("Error: " in row.message for row in failed)
    assert sum("not finite" in row.message for row in failed) >= 12
    plot(report)  # nothing to draw is no error


def test_nan_never_passes_and_kinds_have_their_words():
    assert not measured("x", float("nan"), "eV", 1.0).passed
    assert CheckResult("x", False, 1.0).status == "fail"
    assert CheckResult("x", False, 1.0, kind="advice").status == "warn"
    assert CheckResult("x", True, 1.0, kind="information").status == "info"
    assert CheckResult("x", True).status == "skip"


def test_the_figure_has_every_curve(sound):
    figure = plot(sound, "copper")
    wall, well, drift = figure.axes
    assert len(wall.lines) == 2 and len(drift.lines) == 1  # a pair and zero; one run
    assert "Å" in well.get_xlabel() and "meV/atom" in drift.get_ylabel()
    json.dumps([row.value for row in sound.results])


def test_a_calculator_alone_is_checked_on_crystals_of_its_elements():
    calculator = NFFLrCalculator.load("mlearn-si-fast")
    assert (calculator.elements, calculator.cutoff, calculator.dtype) == (("Si",), 5.0, "float32")
    alone = check(calculator)
    told = check({"float32": calculator}, make_samples(["Si"], cutoff=5.0))
    assert [r.name for r in alone.results] == [r.name for r in told.results] and alone.passed
    with pytest.raises(ConfigError, match="none known of this calculator"):
        check(EMT())


class Rounded(planted.Morse):
    """Atomic energies as a network in float32 gives them, added up exactly: nothing to complain about."""

    implemented_properties = (*planted.Morse.implemented_properties, "energies")
    roundings = 200

    def total(self, each):
        rng = np.random.default_rng(zlib.crc32(each.tobytes()))
        unit = np.finfo(np.float32).eps / 2
        noisy = each + unit * each * rng.uniform(-1, 1, (self.roundings, len(each))).sum(axis=0)
        self.energies = noisy
        return noisy.sum()

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energies"] = self.energies


def test_rounding_of_atomic_energies_in_float32_passes_and_more_does_not(copper, monkeypatch):
    monkeypatch.setattr(planted, "REFERENCE", -4.0)
    large = copper.sized(500)
    result = check_resolution(Rounded(), large, LIMITS["float32"], "float32")
    assert result.passed and 2e-5 < result.value < result.limit < 1e-4
    monkeypatch.setattr(Rounded, "roundings", 6000)
    assert not check_resolution(Rounded(), large, LIMITS["float32"], "float32").passed
    assert not check_resolution(Rounded(), large, LIMITS["float64"], "float64").passed


def test_totals_in_float32_are_found_where_their_steps_are_as_small_as_the_rounding_of_atoms(
    copper, monkeypatch
):
    monkeypatch.setattr(planted, "REFERENCE", -8.0)
    result = check_resolution(planted.Float32References(), copper.sized(500), LIMITS["float32"], "float32")
    assert not result.passed and "totals are float32 numbers" in result.message


def test_a_stiff_bond_is_not_taken_for_work_or_rounding():
    hydrogen = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.9]], cell=[20, 20, 20])

    class Stiff(planted.Morse):
        """A repulsion that begins at once, as a screened one that is switched on in a short range."""

        def pair(self, r):
            x = np.clip(0.95 - r, 0, None)
            return 4e4 * x**4, -16e4 * x**3

    samples = make_samples(["H"], [hydrogen], planted.CUTOFF)
    assert check_conservative(Stiff(), samples.rattled, STRICT).passed
    assert check_resolution(Stiff(), hydrogen, STRICT, "float64").passed
