"""Drawn structures agree with the brute force, each of them on every registered architecture.

Profiles of hypothesis: ``ci`` (500 structures) and ``thorough`` (10,000, under ``-m slow``), derandomised.
"""

from itertools import product
from math import cos, radians, sin, sqrt

import ase
import numpy as np
import pytest
from ase.geometry import minkowski_reduce
from brute_force import brute_force, reference
from every_architecture import ELEMENTS, KEYS, assert_results, calculator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nfflr.structures.neighbours import BACKENDS, neighbor_list

ROUNDING = 1e-9  # Å, by which a bond may miss the cutoff on one side and not on the other
SPACING = 1.0  # Å, between any two atoms or images
MASKS = list(product((False, True), repeat=3))
COMMON = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    # Drawn structures are small enough to read: a failure is shown as it is, not searched for a smaller one.
    "phases": (Phase.explicit, Phase.generate),
}
settings.register_profile("ci", max_examples=500, **COMMON)
settings.register_profile("thorough", max_examples=10_000, **COMMON)
PROFILES = {name: settings.get_profile(name) for name in ("ci", "thorough")}


@st.composite
def angles(draw):
    """Three cell angles of 5° to 175° that some cell has."""
    alpha, beta = draw(st.floats(5, 175)), draw(st.floats(5, 175))
    low, high = abs(alpha - beta), min(alpha + beta, 360 - alpha - beta)
    share = draw(st.floats(0, 1))
    return alpha, beta, min(max(low + share * (high - low), low + 2, 5), high - 2, 175)


@st.composite
def cells(draw):
    """Cell (3, 3) of either handedness, in any direction, no lattice vector shorter than ``SPACING``."""
    alpha, beta, gamma = (radians(angle) for angle in draw(angles()))
    a, b, c = (draw(st.floats(1, 8)) for _ in range(3))
    x, y = cos(beta), (cos(alpha) - cos(beta) * cos(gamma)) / sin(gamma)
    rows = [[1, 0, 0], [cos(gamma), sin(gamma), 0], [x, y, sqrt(max(1 - x**2 - y**2, 1e-3))]]
    cell = np.array(rows) * np.array([[a], [b], [c]])
    shortest = np.linalg.norm(minkowski_reduce(cell)[0], axis=1).min()
    cell *= max(1.0, SPACING / shortest)
    rotation = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 2**32))).normal(size=(3, 3)))[0]
    cell = cell @ rotation
    if draw(st.booleans()):
        cell = cell[[1, 0, 2]]
    return cell


@st.composite
def structures(draw):
    """1 to 40 atoms at least ``SPACING`` apart, images included, anywhere, with any periodicity."""
    cell, pbc = draw(cells()), np.array(draw(st.sampled_from(MASKS)))
    wanted, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    spread = np.where(pbc, 1.0, draw(st.floats(1, 5)))  # of open axes, in cells
    positions = np.zeros((0, 3))
    for point in rng.random((3 * wanted, 3)) * spread @ cell:
        if len(positions) < wanted and fits(point, positions, cell, pbc):
            positions = np.vstack([positions, point])
    if draw(st.booleans()):
        positions = positions + rng.integers(-50, 51, size=(len(positions), 3)) * pbc @ cell
        positions += draw(st.sampled_from([0.0, 1.0, -300.0]))
    if draw(st.booleans()):
        cell = np.where(pbc[:, None], cell, 0.0)
    symbols = [ELEMENTS[k] for k in rng.integers(0, 2, len(positions))]
    return ase.Atoms(symbols, positions, cell=cell, pbc=pbc)


def fits(point, positions, cell, pbc) -> bool:
    """Whether no image of ``point`` is nearer than ``SPACING`` to one of ``positions``."""
    lattice = cell[pbc]
    apart = positions - point
    if len(lattice):
        inverse = np.linalg.pinv(lattice)
        apart = apart - np.rint(apart @ inverse) @ lattice
        reach = np.ceil(SPACING * np.linalg.norm(inverse, axis=0)).astype(int) + 1
        images = np.indices(2 * reach + 1).reshape(len(reach), -1).T - reach
        apart = (apart[:, None] + images @ lattice).reshape(-1, 3)
    return not len(apart) or (apart**2).sum(1).min() >= SPACING**2


CALCULATORS = {key: calculator(key) for key in KEYS}


def agree(atoms: ase.Atoms) -> None:
    farthest = max(calc.model.cutoff for calc in CALCULATORS.values())
    rows, vectors = brute_force(atoms.positions, atoms.cell.array, atoms.pbc, farthest, max_images=10**7)
    lengths = np.linalg.norm(vectors, axis=1)
    for backend in BACKENDS:
        i, j, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, farthest, backend)
        bonds = atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array
        clear = np.linalg.norm(bonds, axis=1) < farthest - ROUNDING
        found = np.column_stack([i, j, shift])[clear]
        assert np.array_equal(found[np.lexsort(found.T[::-1])], rows[lengths < farthest - ROUNDING]), backend
    for calc in CALCULATORS.values():
        calc.calculate(atoms)
        expected = reference(calc.model, atoms, rows[lengths < calc.model.cutoff])
        assert_results(calc.results, expected, rtol=1e-9)


@settings(PROFILES["ci"])
@given(structures())
def test_case_02_to_18_five_hundred_drawn_structures(atoms):
    agree(atoms)


@pytest.mark.slow
@settings(PROFILES["thorough"])
@given(structures())
def test_case_02_to_18_ten_thousand_drawn_structures(atoms):
    agree(atoms)
