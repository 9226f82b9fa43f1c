"""Ensembles: their integrators, what is hidden in each, and how targets change on the way.

Thermostats count the degrees of freedom that really move, and so ASE's chains need two corrections. Its
``NoseHooverChainNVT`` keeps momenta of its own, to which it adds the forces on fixed atoms; the chain then
cools what moves until both together have the temperature. Its ``MTKNPT`` thermostats nine momenta of the
cell, of which a symmetric matrix has six, and so holds the cell at 1.5 times the temperature. It counts 3N
degrees of freedom even where the total momentum is zero and stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixCom
from ase.md.bussi import Bussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT, NoseHooverChainThermostat
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB

from ...errors import StructureError
from ...units import GPA
from ..framework.interface import check_crystal
from .preparation import MdSettings

CELL_MOMENTA = 6  # independent elements of a symmetric matrix (3, 3): the cell does not rotate


class NoseHoover(NoseHooverChainNVT):
    """Nosé–Hoover chains (G. J. Martyna et al., J. Chem. Phys. 97, 2635 (1992)) that keep constraints.

    After each change by forces, the atoms' constraints take their part of the momenta away. For constraints
    that are linear in the velocities (atoms, coordinates, lines, planes, the centre of mass) this is the
    projection with masses as the metric, and what remains moves as if nothing else were there. The atoms have
    momenta that keep the constraints, and ``dof`` degrees of freedom.
    """

    def __init__(self, atoms: ase.Atoms, timestep: float, temperature_K: float, tdamp: float, dof: int):
        super().__init__(atoms, timestep, temperature_K, tdamp)
        self._thermostat = _chain(self, temperature_K, tdamp, dof)

    def _integrate_p(self, delta: float) -> None:  # ASE's name
        super()._integrate_p(delta)
        self.atoms.set_momenta(self._p)
        self._p = self.atoms.get_momenta()


class _Barostat:
    """Makes ASE's barostats count ``dof`` degrees of freedom; the other arguments are theirs."""

    def __init__(self, atoms, timestep, temperature_K, pressure_au, tdamp, pdamp, dof: int):
        super().__init__(atoms, timestep, temperature_K, pressure_au, tdamp, pdamp)  # type: ignore[call-arg]
        self._thermostat = _chain(self, temperature_K, tdamp, dof)
        self._num_atoms_global = dof / 3  # only three times this enters


class IsotropicBarostat(_Barostat, IsotropicMTKNPT):
    """Martyna, Tobias and Klein's barostat of the volume, J. Chem. Phys. 101, 4177 (1994)."""

    def cell_kinetic_energy(self) -> float:
        """Kinetic energy of the volume's momentum, eV; its mean is kT/2."""
        return float(self._p_eps) ** 2 / (2 * self._barostat.W)


class CellBarostat(_Barostat, MTKNPT):
    """Martyna, Tobias and Klein's barostat of the full cell, with as many momenta as a symmetric cell has."""

    def __init__(self, atoms, timestep, temperature_K, pressure_au, tdamp, pdamp, dof: int):
        super().__init__(atoms, timestep, temperature_K, pressure_au, tdamp, pdamp, dof)
        self._barostat._cell_dof = CELL_MOMENTA
        self._barostat._R[0] = CELL_MOMENTA * self._kT * pdamp**2

    def cell_kinetic_energy(self) -> float:
        """Kinetic energy of the cell's momenta, eV; its mean is 6/2 kT."""
        return self._get_cell_kinetic_energy()


def _chain(dynamics, temperature_K: float, tdamp: float, dof: int) -> NoseHooverChainThermostat:
    return NoseHooverChainThermostat(
        num_atoms_global=dof / 3,  # type: ignore[arg-type]  # only three times this enters
        masses=np.array(dynamics.masses),  # (N, 1)
        temperature_K=temperature_K,
        tdamp=tdamp,
    )


class Integrator(Protocol):
    """The dynamics of ASE as a run uses it; their base class declares no ``step``."""

    def step(self) -> object: ...


@dataclass(frozen=True)
class Ensemble:
    """How one ensemble is integrated.

    Attributes:
        build: ASE's dynamics for (atoms, settings, degrees of freedom, random generator).
        aim: sets temperature (K), pressure (eV/Å³) for a number of degrees of freedom.
        energy: the quantity that exact integration would conserve, eV; None if there is none.
        hidden: attributes of the dynamics, beside positions, momenta and cell, that the next step needs.
    """

    build: Callable[[ase.Atoms, MdSettings, int, np.random.Generator], Integrator]
    aim: Callable[[Any, float, float, int], None]  # the dynamics comes first, as below
    energy: Callable[[Any], float] | None
    hidden: tuple[str, ...] = ()
    keeps_momentum: bool = True


class Langevin(LangevinBAOAB):
    """Langevin dynamics that adds up the heat from its bath.

    Total energy minus that heat is what the deterministic part of the step conserves (G. Bussi and
    M. Parrinello, Phys. Rev. E 75, 056707 (2007)).
    """

    heat = 0.0  # eV

    def _BAOAB_OU(self, drag_gamma_mod=0.0):  # ASE's name
        before = self.atoms.get_kinetic_energy()
        super()._BAOAB_OU(drag_gamma_mod)
        self.heat += self.atoms.get_kinetic_energy() - before


def _langevin(atoms, settings, dof, rng):
    # No cell moves here; "hydrostatic" spares a matrix exponential in each step.
    return Langevin(
        atoms,
        settings.timestep * fs,
        temperature_K=settings.temperature,
        T_tau=settings.thermostat_time * fs,
        hydrostatic=True,
        rng=rng,
    )


def _bussi(atoms, settings, dof, rng):
    step, tau = settings.timestep * fs, settings.thermostat_time * fs
    dynamics = Bussi(atoms, step, settings.temperature, tau, rng=rng)
    dynamics.ndof = dof
    return dynamics


def _nose_hoover(atoms, settings, dof, rng):
    step, tau = settings.timestep * fs, settings.thermostat_time * fs
    return NoseHoover(atoms, step, settings.temperature, tau, dof)


def _mtk(kind):
    def build(atoms, settings, dof, rng):
        step, tau, pdamp = (
            t * fs for t in (settings.timestep, settings.thermostat_time, settings.barostat_time)
        )
        return kind(atoms, step, settings.temperature, settings.pressure * GPA, tau, pdamp, dof)

    return build


def _berendsen(atoms, settings, dof, rng):
    return NPTBerendsen(
        atoms,
        settings.timestep * fs,
        temperature_K=settings.temperature,
        pressure_au=settings.pressure * GPA,
        taut=settings.thermostat_time * fs,
        taup=settings.barostat_time * fs,
        compressibility_au=settings.compressibility / GPA,
    )


def _aim_bussi(dynamics, temperature, pressure, dof):
    dynamics.temp = kB * temperature
    dynamics.target_kinetic_energy = dof / 2 * kB * temperature


def _aim_chain(dynamics, temperature, pressure, dof):
    dynamics._thermostat._kT = kB * temperature


def _aim_mtk(dynamics, temperature, pressure, dof):
    _aim_chain(dynamics, temperature, pressure, dof)
    dynamics._barostat._kT = dynamics._kT = kB * temperature
    dynamics._pressure_au = pressure


def _aim_berendsen(dynamics, temperature, pressure, dof):
    # It compares with ASE's temperature, which counts every coordinate that no constraint fixes.
    dynamics.temperature = temperature * dof / dynamics.atoms.get_number_of_degrees_of_freedom()
    dynamics.pressure = pressure


def _total(dynamics) -> float:
    atoms = dynamics.atoms
    return float(atoms.get_potential_energy(force_consistent=True)) + float(atoms.get_kinetic_energy())


def _conserved(dynamics) -> float:
    return float(dynamics.get_conserved_energy())


CHAIN = ("_thermostat._eta", "_thermostat._p_eta")
BAROSTAT = ("_barostat._xi", "_barostat._p_xi")

ENSEMBLES = {
    "nve": Ensemble(
        lambda atoms, settings, *_: VelocityVerlet(atoms, settings.timestep * fs), lambda *_: None, _total
    ),
    "nvt-langevin": Ensemble(
        _langevin,
        lambda dynamics, temperature, *_: dynamics.set_temperature(temperature),
        lambda dynamics: _total(dynamics) - dynamics.heat,
        ("heat",),
        keeps_momentum=False,
    ),
    "nvt-bussi": Ensemble(
        _bussi,
        _aim_bussi,
        lambda dynamics: _total(dynamics) - float(dynamics.transferred_energy),
        ("transferred_energy",),
    ),
    "nvt-nose-hoover": Ensemble(_nose_hoover, _aim_chain, _conserved, CHAIN),
    "npt": Ensemble(_mtk(CellBarostat), _aim_mtk, _conserved, (*CHAIN, *BAROSTAT, "_p_g")),
    "npt-isotropic": Ensemble(
        _mtk(IsotropicBarostat),
        _aim_mtk,
        _conserved,
        (*CHAIN, *BAROSTAT, "_eps", "_p_eps", "_volume0", "_cell0"),
    ),
    "npt-berendsen": Ensemble(_berendsen, _aim_berendsen, None),
}
ENSEMBLES["nvt"] = ENSEMBLES["nvt-bussi"]


def hidden_state(ensemble: Ensemble, dynamics: Integrator) -> dict[str, np.ndarray]:
    """Copies of what the dynamics has beside the atoms."""
    return {path: np.array(attrgetter(path)(dynamics)) for path in ensemble.hidden}


def restore(ensemble: Ensemble, dynamics: Integrator, hidden: dict[str, np.ndarray]) -> None:
    """Put ``hidden_state`` back, each value as the type it was of."""
    for path in ensemble.hidden:
        owner, _, name = path.rpartition(".")
        value = hidden[path]
        target = attrgetter(owner)(dynamics) if owner else dynamics
        setattr(target, name, value.copy() if value.ndim else float(value))


def check_ensemble(atoms: ase.Atoms, settings: MdSettings) -> None:
    """Refuse with a ``StructureError`` what the ensemble's integrator would get wrong.

    That is no atom or no mass, a barostat without three periodic axes, or constraints that are broken.
    """
    if not len(atoms) or not (atoms.get_masses() > 0).all():
        raise StructureError("structure: molecular dynamics needs atoms, each with a mass")
    if settings.has_barostat:
        check_crystal(atoms, "a barostat", "use --ensemble nvt")
    names = ", ".join(type(c).__name__ for c in atoms.constraints)
    if settings.has_barostat and names:
        raise StructureError(f"structure: a barostat does not go with constraints ({names}); use nvt")
    verlet = settings.ensemble in ("nve", "nvt", "nvt-bussi")  # moves atoms through ASE's constraints
    if not verlet and not all(isinstance(c, FixAtoms | FixCom | FixCartesian) for c in atoms.constraints):
        raise StructureError(f"structure: {settings.ensemble} breaks constraints ({names}); use nvt-bussi")
