"""Whether a crystal is dynamically stable, and if not, which way it falls."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import ase
import numpy as np
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

from .harmonic import from_phonopy

LARGEST_PERIOD = 6  # primitive cells along an axis of a modulated structure


@dataclass(frozen=True)
class Mode:
    """A phonon mode.

    Attributes:
        frequency: THz, negative if imaginary.
        qpoint: (3,) fractional.
        band: index from 0, by frequency.
        exact: the wave fits into the supercell, so that nothing was interpolated.
    """

    frequency: float
    qpoint: np.ndarray
    band: int
    exact: bool


def lowest_mode(phonon: Phonopy, qpoints: np.ndarray, tolerance: float) -> Mode:
    """The mode of lowest frequency, the three rigid translations at Γ left out.

    Waves that fit into the supercell come first: if one of them is imaginary, it is the one.

    Args:
        phonon: with force constants.
        qpoints: (Q, 3) where else to look.
        tolerance: THz, a frequency below minus this is imaginary.
    """
    mode = _lowest(phonon, _commensurate(phonon), exact=True)
    if mode.frequency < -tolerance:
        return mode
    return min(mode, _lowest(phonon, qpoints, exact=False), key=lambda m: m.frequency)


def modulated(phonon: Phonopy, mode: Mode, size: float, tolerance: float) -> ase.Atoms | None:
    """The structure displaced along an imaginary mode, in the smallest supercell that holds the wave.

    Args:
        phonon: with force constants.
        mode: what ``lowest_mode`` found.
        size: Å, the largest displacement of an atom.
        tolerance: THz, as above.

    Returns:
        the structure, or None if the nearest wave with a period of ``LARGEST_PERIOD`` is not imaginary.
    """
    fractions = [Fraction(float(x)).limit_denominator(LARGEST_PERIOD) for x in mode.qpoint]
    q = np.array([float(f) for f in fractions])
    if phonon.run_qpoints(q[None]).frequencies[0][mode.band] >= -tolerance:
        return None
    repeats = [f.denominator for f in fractions]

    def modulation(amplitude: float):
        return phonon.run_modulations(repeats, [[q, mode.band, amplitude, 0.0]])

    largest = np.linalg.norm(modulation(1.0).modulations[0].real, axis=1).max()
    return from_phonopy(modulation(size / largest).modulated_supercell)


def _commensurate(phonon: Phonopy) -> np.ndarray:
    """q-points (Q, 3) of waves that fit into the supercell."""
    return get_commensurate_points(np.rint(np.linalg.inv(phonon.primitive.primitive_matrix)).astype(int))


def _lowest(phonon: Phonopy, qpoints: np.ndarray, exact: bool) -> Mode:
    frequencies = phonon.run_qpoints(qpoints).frequencies.copy()  # (Q, B)
    for k in np.flatnonzero(np.abs(qpoints).max(axis=1) < 1e-9):
        translations = np.argsort(np.abs(frequencies[k]))[:3]
        frequencies[k, translations] = np.inf
    k, band = np.unravel_index(np.argmin(frequencies), frequencies.shape)
    return Mode(float(frequencies[k, band]), np.array(qpoints[k]), int(band), exact)
