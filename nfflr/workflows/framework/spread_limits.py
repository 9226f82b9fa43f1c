"""Limits on the disagreement of a committee, and the structure that is beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ase
import numpy as np
from ase.calculators.calculator import Calculator

from ...errors import ConfigError

# The setting that limits each of a calculator's results.
LIMITS = {"forces_std": "max_forces_std", "energy_std": "max_energy_std"}


class SpreadLimits(Protocol):
    """Settings of a workflow that stops where a committee disagrees; None: it does not."""

    @property
    def max_forces_std(self) -> float | None:
        """eV/Å, of an atom's forces."""

    @property
    def max_energy_std(self) -> float | None:
        """eV/atom."""


@dataclass(frozen=True)
class Excess:
    """A spread above its limit, in eV/Å of an atom's forces, or without an atom in eV/atom."""

    value: float
    limit: float
    atom: int | None

    def text(self, atoms: ase.Atoms) -> str:
        """A clause for a message."""
        if self.atom is None:
            return f"the energy has a spread of {self.value:.3g} eV/atom, more than {self.limit:g}"
        who = f"atom {self.atom} ({atoms.symbols[self.atom]})"
        return f"the forces on {who} have a spread of {self.value:.3g} eV/Å, more than {self.limit:g}"


def check_spread(calculator: Calculator, limits: SpreadLimits) -> None:
    """Refuse with a ``ConfigError`` limits on what a calculator does not give."""
    for name, setting in LIMITS.items():
        if getattr(limits, setting) is not None and name not in calculator.implemented_properties:
            raise ConfigError(
                f"{setting}: the calculator gives no {name}; give a committee, as a folder of "
                "member-<k>.safetensors or checkpoints a,b,c"
            )


def find_excess(results: Mapping[str, Any], n_atoms: int, limits: SpreadLimits) -> Excess | None:
    """The spread of a structure's forces, or else of its energy, if above its limit; NaN is above any."""
    if limits.max_forces_std is not None and "forces_std" in results:
        spread = np.asarray(results["forces_std"])  # (N,) eV/Å
        atom = int(spread.argmax())
        if not spread[atom] <= limits.max_forces_std:
            return Excess(float(spread[atom]), limits.max_forces_std, atom)
    if limits.max_energy_std is not None and "energy_std" in results:
        value = float(results["energy_std"]) / n_atoms
        if not value <= limits.max_energy_std:
            return Excess(value, limits.max_energy_std, None)
    return None


def labelled(frame: ase.Atoms, results: Mapping[str, Any], step: int) -> ase.Atoms:
    """A copy of a frame that carries ``step``, ``energy_std`` (eV) and ``forces_std`` (N,) eV/Å."""
    marked: ase.Atoms = frame.copy()
    marked.calc = frame.calc
    marked.info = {"step": step}
    if "energy_std" in results:
        marked.info["energy_std"] = float(results["energy_std"])
    if "forces_std" in results:
        marked.arrays["forces_std"] = np.array(results["forces_std"])
    return marked


def describe_spread(uncertain: ase.Atoms | None) -> dict[str, Any]:
    """Fields of a result: ``uncertain``, its most uncertain atom, and its spreads; none if it is None."""
    if uncertain is None:
        return {}
    fields: dict[str, Any] = {"uncertain": uncertain}
    if (spread := uncertain.arrays.get("forces_std")) is not None:
        fields |= {"uncertain_atom": int(spread.argmax()), "forces_std": float(spread.max())}
    if "energy_std" in uncertain.info:
        fields["energy_std"] = uncertain.info["energy_std"] / len(uncertain)
    return fields
