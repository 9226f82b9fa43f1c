"""Equation of state: energy against volume, bulk modulus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from matplotlib.figure import Figure
from phonopy.qha.eos import EOSFit, get_eos
from pydantic import Field

from ..errors import NumericsError
from ..units import GPA, Unit
from .framework.contract import workflow
from .framework.evaluations import evaluate
from .framework.interface import Array, Progress, Settings, check_crystal
from .framework.results import Result, overlay
from .framework.scores import Score, field_score, relative_score
from .relaxation import RelaxSettings, relax_each

TOPIC = "Stiffness"
PLACE = 1
EXAMPLES = ("nff eos si.cif --range 0.06",)

PARAMETERS = ("energy", "bulk_modulus", "bulk_modulus_derivative", "volume")  # of phonopy, in its order


class EosSettings(Settings):
    """Options of an equation of state."""

    range: float = Field(0.06, gt=0, lt=0.5, description="largest relative change of volume, either way")
    points: int = Field(11, ge=5, description="number of volumes")
    relax: bool = Field(False, description="relax the atoms at each volume, the cell's shape being kept")
    fmax: Annotated[float, Unit("eV/Å")] = Field(
        0.001, gt=0, description="with --relax, the largest force left"
    )
    steps: int = Field(500, ge=1, description="with --relax, give up a volume after this many steps")


class EosResult(Result):
    """Both fits of the scan; the first group is the Birch–Murnaghan fit. None where a fit failed."""

    volume: Annotated[float | None, Unit("Å^3")]
    volume_per_atom: Annotated[float | None, Unit("Å^3")]
    energy: Annotated[float | None, Unit("eV")]
    bulk_modulus: Annotated[float | None, Unit("GPa")]
    bulk_modulus_derivative: float | None
    rms: Annotated[float | None, Unit("eV")]
    vinet_volume: Annotated[float | None, Unit("Å^3")]
    vinet_energy: Annotated[float | None, Unit("eV")]
    vinet_bulk_modulus: Annotated[float | None, Unit("GPa")]
    vinet_bulk_modulus_derivative: float | None
    vinet_rms: Annotated[float | None, Unit("eV")]
    atoms_per_cell: int
    volumes: Annotated[Array, Unit("Å^3")]
    energies: Annotated[Array, Unit("eV")]
    equilibrium: ase.Atoms | None  # scaled to the Birch–Murnaghan volume


@workflow
def eos(atoms: ase.Atoms, calculator: Calculator, settings: EosSettings, progress: Progress) -> EosResult:
    """Scan the volume at constant shape and fit E(V).

    Third-order Birch–Murnaghan (Birch, Phys. Rev. 71, 809 (1947)) and Vinet (J. Phys. Condens. Matter 1, 1941
    (1989)) equations as in phonopy; their difference says how far the range can be trusted. ``rms`` is that
    of the residuals, with the four fitted parameters taken off the number of points. The bulk modulus is
    that at constant shape, which is the isothermal one at 0 K for cubic crystals.

    A result is not converged if the minimum lies outside the scanned range, or if a fit or relaxation failed.

    Args:
        atoms: (N atoms), periodic along three axes; volumes are spread about its own.

    Raises:
        StructureError: the structure is not a crystal.
        NumericsError: an energy is not finite.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> result = eos(bulk("Cu", a=3.59), EMT())
        >>> round(result.bulk_modulus)  # GPa
        134
    """
    check_crystal(atoms, "an equation of state")
    factors = np.linspace(1 - settings.range, 1 + settings.range, settings.points)
    frames = [_scaled(atoms, factor) for factor in factors]
    energies, frames, reason = _energies(frames, calculator, settings, progress)
    volumes = np.array([frame.get_volume() for frame in frames])
    fits = {name: _fit(volumes, energies, name, len(atoms)) for name in ("birch_murnaghan", "vinet")}
    birch, vinet = fits["birch_murnaghan"], fits["vinet"]
    failure = _failure(birch, vinet, volumes, energies, reason)
    nearest = frames[int(np.argmin(energies))]
    volume = birch["volume"]
    per_atom = None if volume is None else volume / len(atoms)
    return EosResult(
        converged=not failure,
        message=failure or f"minimum at {per_atom:.4f} Å³ per atom",
        **birch,
        **{f"vinet_{name}": value for name, value in vinet.items()},
        volume_per_atom=per_atom,
        atoms_per_cell=len(atoms),
        volumes=volumes,
        energies=energies,
        equilibrium=None if failure or volume is None else _scaled(nearest, volume / nearest.get_volume()),
    )


def _scaled(atoms: ase.Atoms, factor: float) -> ase.Atoms:
    """Copy with ``factor`` times the volume, atoms moved along."""
    copy: ase.Atoms = atoms.copy()
    copy.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True, apply_constraint=False)
    return copy


def _energies(
    frames: list[ase.Atoms], calculator: Calculator, settings: EosSettings, progress: Progress
) -> tuple[np.ndarray, list[ase.Atoms], str]:
    """Energy of each volume, the structures they belong to, and which relaxation failed, if one did."""
    if not settings.relax:
        energies = np.array([values["energy"] for values in evaluate(calculator, frames)])
        if not np.isfinite(energies).all():
            raise NumericsError("structure: an energy is not finite; check the geometry or the range")
        progress(len(frames), len(frames), {"E (eV)": energies.min()}, frames[0])
        return energies, frames, ""
    options = RelaxSettings(fmax=settings.fmax, steps=settings.steps, optimizer="bfgs")
    names = [f"at {frame.get_volume():.2f} Å^3" for frame in frames]
    results, reason = relax_each(
        frames, names, calculator, options, progress, lambda result: {"E (eV)": result.energy}
    )
    return np.array([r.energy for r in results]), [r.relaxed for r in results], reason


def _fit(volumes: np.ndarray, energies: np.ndarray, name: str, atoms: int) -> dict[str, float | None]:
    """Parameters of one equation; None for all if there is no fit with a minimum."""
    keys = (*PARAMETERS, "rms")
    # Per atom and from the lowest energy: the fit works with numbers near one whatever the cell.
    v, e = volumes / atoms, (energies - energies.min()) / atoms
    curvature = 2 * np.polyfit(v - v.mean(), e, 2)[0]
    fit = EOSFit(v, e, get_eos(name))
    try:
        fit.fit([0.0, max(curvature * v.mean(), 1e-3), 4.0, v[np.argmin(e)]])
    except RuntimeError:
        return dict.fromkeys(keys)
    parameters = fit.parameters
    assert parameters is not None  # after fit()
    energy, bulk, derivative, volume = map(float, parameters)
    if not np.isfinite(parameters).all() or bulk <= 0 or volume <= 0:
        return dict.fromkeys(keys)
    residuals = (get_eos(name)(v, parameters) - e) * atoms
    rms = float(np.sqrt((residuals**2).sum() / (len(v) - 4)))
    values = (energy * atoms + float(energies.min()), bulk / GPA, derivative, volume * atoms, rms)
    return dict(zip(keys, values, strict=True))


def _failure(birch: dict, vinet: dict, volumes: np.ndarray, energies: np.ndarray, reason: str) -> str:
    """A clause that says why the result must not be used, or nothing."""
    if reason:
        return reason
    lowest = int(np.argmin(energies))
    if lowest in (0, len(volumes) - 1) or not volumes[0] < (birch["volume"] or 0) < volumes[-1]:
        side = "low" if lowest < len(volumes) / 2 else "high"
        return f"the minimum is not inside the scanned volumes but at their {side} end; relax the cell first"
    if birch["volume"] is None or vinet["volume"] is None:
        return "the energies follow neither equation with a minimum; use a smaller --range"
    return ""


def _curve_error(result: EosResult, reference: EosResult, settings: EosSettings) -> float:
    """Mean absolute difference of E − E(fitted minimum) at equal volumes, eV per atom."""
    n, m = result.atoms_per_cell, reference.atoms_per_cell
    ours, theirs = result.volumes / n, reference.volumes / m
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-4):
        raise NumericsError("volumes: not those of the reference; use the same structure and settings")
    heights = (result.energies - result.energy) / n - (reference.energies - reference.energy) / m
    return float(np.abs(heights).mean())


SCORES = {
    "volume_error": relative_score("volume_per_atom"),
    "bulk_modulus_error": field_score("bulk_modulus", "GPa"),
    "curve_mae": Score("eV/atom", _curve_error, ("volumes", "energies", "energy", "atoms_per_cell")),
}


def plot(result: EosResult, others: Mapping[str, EosResult] = {}, label: str = "") -> Figure:
    """Energy against volume per atom, both fits, and their residuals."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, item, colour in overlay(result, others, label):
        n = item.atoms_per_cell
        v, base = item.volumes / n, item.energies.min()
        upper.plot(v, 1e3 * (item.energies - base) / n, "o", color=colour, label=name)
        for equation, prefix, line in (("birch_murnaghan", "", "-"), ("vinet", "vinet_", "--")):
            if getattr(item, f"{prefix}volume") is None:
                continue
            energy, bulk, slope, volume = (getattr(item, prefix + field) for field in PARAMETERS)
            parameters, curve = np.array([energy / n, bulk * GPA, slope, volume / n]), get_eos(equation)
            fine = np.linspace(v.min(), v.max(), 200)
            upper.plot(fine, 1e3 * (curve(fine, parameters) - base / n), line, color=colour, lw=1.2)
            residuals = 1e3 * (item.energies / n - curve(v, parameters))
            lower.plot(v, residuals, line, color=colour, marker="o", ms=3, lw=0.8)
    upper.plot([], [], "-", color="grey", label="Birch–Murnaghan")
    upper.plot([], [], "--", color="grey", label="Vinet")
    upper.legend()
    upper.set_ylabel("E − E(lowest) (meV/atom)")
    lower.axhline(0, color="grey", lw=0.6)
    lower.set(xlabel="volume (Å$^3$/atom)", ylabel="residual\n(meV/atom)")
    return figure
