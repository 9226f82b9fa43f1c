"""Thermal properties of harmonic vibrations, in the units of the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from phonopy import Phonopy
from phonopy.physical_units import get_physical_units


@dataclass(frozen=True)
class Thermal:
    """Per primitive cell, at each temperature: ``free_energy`` eV, ``entropy`` and ``heat_capacity`` eV/K."""

    free_energy: np.ndarray
    entropy: np.ndarray
    heat_capacity: np.ndarray


def thermal(phonon: Phonopy, temperatures: np.ndarray) -> Thermal:
    """Helmholtz energy, entropy and heat capacity at constant volume from the mesh that was run last.

    The translations at Γ are left out: their frequencies are zero but for rounding, and would add a term
    that depends on it. Imaginary modes are left out too, which makes the numbers of an unstable crystal
    incomplete.
    """
    found = phonon.run_thermal_properties(temperatures=temperatures, exclude_gamma_acoustic=True)
    assert found.free_energy is not None and found.entropy is not None and found.heat_capacity is not None
    kilojoule = 1 / get_physical_units().EvTokJmol  # per mole, in eV
    return Thermal(
        found.free_energy * kilojoule,
        found.entropy * kilojoule / 1000,
        found.heat_capacity * kilojoule / 1000,
    )
