"""Grüneisen parameters of phonon modes, by first-order perturbation between two volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from phonopy import Phonopy
from phonopy.harmonic.dynamical_matrix import DynamicalMatrixNAC
from phonopy.phonon.degeneracy import lift_degeneracy
from phonopy.physical_units import get_physical_units


def mode_gruneisen(
    phonons: Sequence[Phonopy], qpoints: np.ndarray, direction: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Q, B) in THz, negative if imaginary, and γ = −⟨e|∂D/∂ln V|e⟩ / 2λ, (Q, B).

    Modes of one frequency take the basis in which the change of D is diagonal. phonopy's own class compares
    eigenvalues, squares of frequencies, with a threshold for frequencies: near Γ, where all of them are
    small, it mixes modes that differ.

    Args:
        phonons: with force constants, at rest, at a larger and at a smaller volume.
        qpoints: (Q, 3) fractional. γ has no meaning where a frequency is zero.
        direction: (3,) from which Γ is approached, where Born charges are known.
    """
    rest, larger, smaller = phonons
    strain = (larger.primitive.volume - smaller.primitive.volume) / rest.primitive.volume
    unit = get_physical_units().DefaultToTHz
    frequencies, parameters = np.empty((2, len(qpoints), 3 * len(rest.primitive)))
    for k, q in enumerate(qpoints):
        matrix, above, below = (_dynamical_matrix(phonon, q, direction) for phonon in phonons)
        eigenvalues, vectors = np.linalg.eigh(matrix)
        frequencies[k] = np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * unit
        changes, _ = lift_degeneracy(frequencies[k], vectors, above - below)
        with np.errstate(divide="ignore", invalid="ignore"):
            parameters[k] = -changes / strain / eigenvalues / 2
    return frequencies, parameters


def _dynamical_matrix(phonon: Phonopy, q: np.ndarray, direction: np.ndarray | None) -> np.ndarray:
    dynamical = phonon.dynamical_matrix
    assert dynamical is not None  # there are force constants
    if isinstance(dynamical, DynamicalMatrixNAC):
        dynamical.run(q, q_direction=direction)
    else:
        dynamical.run(q)
    assert dynamical.dynamical_matrix is not None  # just made
    return dynamical.dynamical_matrix.copy()
