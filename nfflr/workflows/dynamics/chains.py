"""Nosé–Hoover chains that count what moves: ASE's, with two corrections.

ASE's ``NoseHooverChainNVT`` keeps momenta of its own, to which it adds the forces on fixed atoms; the chain
then cools what moves until both together have the temperature. ASE's ``MTKNPT`` thermostats nine momenta of
the cell, of which a symmetric matrix has six, and so holds the cell at 1.5 times the temperature. ASE counts
3N degrees of freedom even where the total momentum is zero and stays so.
"""

from __future__ import annotations

import ase
import numpy as np
from ase.md.nose_hoover_chain import (
    MTKNPT,
    IsotropicMTKNPT,
    NoseHooverChainNVT,
    NoseHooverChainThermostat,
)

CELL_MOMENTA = 6  # independent elements of a symmetric matrix (3, 3): the cell does not rotate


class NoseHoover(NoseHooverChainNVT):
    """Nosé–Hoover chains (G. J. Martyna et al., J. Chem. Phys. 97, 2635 (1992)) that keep constraints.

    After each change by forces, the atoms' constraints take their part of the momenta away. For constraints
    that are linear in the velocities (atoms, coordinates, lines, planes, the centre of mass) this is the
    projection with masses as the metric, and what remains moves as if nothing else were there.

    Args:
        atoms: with momenta that keep the constraints.
        timestep, temperature_K, tdamp: see ASE's class.
        dof: degrees of freedom that move.
    """

    def __init__(self, atoms: ase.Atoms, timestep: float, temperature_K: float, tdamp: float, dof: int):
        super().__init__(atoms, timestep, temperature_K, tdamp)
        self._thermostat = _chain(self, temperature_K, tdamp, dof)

    def _integrate_p(self, delta: float) -> None:  # ASE's name
        super()._integrate_p(delta)
        self.atoms.set_momenta(self._p)
        self._p = self.atoms.get_momenta()


class IsotropicBarostat(IsotropicMTKNPT):
    """Martyna, Tobias and Klein's barostat of the volume, J. Chem. Phys. 101, 4177 (1994).

    Args:
        dof: degrees of freedom that move; others as of ASE's class.
    """

    def __init__(self, atoms, timestep, temperature_K, pressure_au, tdamp, pdamp, dof: int):
        super().__init__(atoms, timestep, temperature_K, pressure_au, tdamp, pdamp)
        self._thermostat = _chain(self, temperature_K, tdamp, dof)
        self._num_atoms_global = dof / 3  # only three times this enters

    def cell_kinetic_energy(self) -> float:
        """Of the volume's momentum, eV; its mean is kT/2."""
        return float(self._p_eps) ** 2 / (2 * self._barostat.W)  # type: ignore[no-any-return]


class CellBarostat(MTKNPT):
    """Martyna, Tobias and Klein's barostat of the full cell, with as many momenta as a symmetric cell has.

    Args:
        dof: degrees of freedom that move; others as of ASE's class.
    """

    def __init__(self, atoms, timestep, temperature_K, pressure_au, tdamp, pdamp, dof: int):
        super().__init__(atoms, timestep, temperature_K, pressure_au, tdamp, pdamp)
        self._thermostat = _chain(self, temperature_K, tdamp, dof)
        self._num_atoms_global = dof / 3
        self._barostat._cell_dof = CELL_MOMENTA
        self._barostat._R[0] = CELL_MOMENTA * self._kT * pdamp**2

    def cell_kinetic_energy(self) -> float:
        """Of the cell's momenta, eV; its mean is 6/2 kT."""
        return self._get_cell_kinetic_energy()  # type: ignore[no-any-return]


def _chain(dynamics, temperature_K: float, tdamp: float, dof: int) -> NoseHooverChainThermostat:
    return NoseHooverChainThermostat(
        num_atoms_global=dof / 3,
        masses=np.array(dynamics.masses),  # (N, 1)
        temperature_K=temperature_K,
        tdamp=tdamp,
    )
