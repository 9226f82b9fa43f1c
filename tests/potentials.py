"""Calculators that the workflow tests share: fresh ones, of three kinds."""

from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

from nfflr.calculator import NFFLrCalculator

SW_BOND = Stillinger_Weber_PRB_31_5262_Si["epsilon"]  # eV: of silicon's four bonds the pair term is all
SW_A0 = 5.43094975  # Å, where that pair term is lowest


def stillinger_weber() -> Manybody:
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def mlearn_si(dtype="float64") -> NFFLrCalculator:
    return NFFLrCalculator.load("mlearn-si-fast", dtype=dtype)


# A calculator of each kind with a crystal near its minimum.
CRYSTALS = {
    "EMT": (EMT, lambda: bulk("Cu", a=3.59)),
    "Stillinger-Weber": (stillinger_weber, lambda: bulk("Si", a=5.431)),
    "mlearn-si-fast": (mlearn_si, lambda: bulk("Si", a=5.4687)),
}


class Volumetric(Calculator):
    """Energy as a given function of the volume; nothing else matters."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, function):
        super().__init__()
        self.function = function

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy = float(self.function(self.atoms.get_volume()))
        self.results = {"energy": energy, "free_energy": energy, "forces": np.zeros((len(self.atoms), 3))}


class Counting:
    """Wraps a calculator and counts its calls; ``evaluate`` is offered, one structure after another."""

    def __init__(self, inner):
        self.inner, self.batches = inner, []
        self.implemented_properties = inner.implemented_properties

    def evaluate(self, structures):
        structures = list(structures)
        self.batches.append(len(structures))
        results = []
        for atoms in structures:
            self.inner.calculate(atoms.copy(), ["energy", "forces", "stress"])
            results.append(dict(self.inner.results))
        return results

    def __getattr__(self, name):
        return getattr(self.inner, name)
