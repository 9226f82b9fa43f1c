"""A sound pair potential that knows all periodic images, and the same with one defect each."""

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from matscipy.neighbours import neighbour_list

DEPTH, BOND, STEEPNESS, CUTOFF = 0.35, 2.6, 1.4, 5.0  # eV, Å, 1/Å, Å: Morse, about copper
REFERENCE = -100.0  # eV/atom, as of all-electron or pseudopotential totals


class Morse(Calculator):
    """Morse pairs times a switch with three continuous derivatives; energy per atom from REFERENCE."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j, bond = self.bonds()  # (E,), (E,), (E, 3)
        r = np.linalg.norm(bond, axis=1)
        energy, slope = self.pair(r)
        pull = (slope / r)[:, None] * bond  # (E, 3): of each directed bond
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, 0.5 * pull)
        np.add.at(forces, j, -0.5 * pull)
        each = np.bincount(i, 0.5 * energy, minlength=len(self.atoms)) + REFERENCE  # (N,)
        total = float(self.total(each))
        self.results = {"energy": total, "free_energy": total, "forces": forces + self.extra_forces()}
        if self.atoms.cell.rank == 3:
            stress = 0.5 * bond.T @ pull / self.atoms.get_volume()
            self.results["stress"] = self.sign * stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]

    sign = 1.0

    def bonds(self):
        return neighbour_list("ijD", self.atoms, CUTOFF)

    def pair(self, r):
        e = np.exp(-STEEPNESS * (r - BOND))
        u, du = DEPTH * (e**2 - 2 * e), 2 * DEPTH * STEEPNESS * (e - e**2)
        x = 1 - (r / CUTOFF) ** 2
        f, df = x**4, -8 * r / CUTOFF**2 * x**3
        return u * f, du * f + u * df

    def total(self, each):
        return each.sum()

    def extra_forces(self):
        return 0.0


class WrongStressSign(Morse):
    """Pressure for stress."""

    sign = -1.0


class MissingImage(Morse):
    """Only the nearest image of each neighbour, and no atom sees its own."""

    def bonds(self):
        i, j, bond = super().bonds()
        r = np.linalg.norm(bond, axis=1)
        nearest = np.full((len(self.atoms),) * 2, np.inf)
        np.minimum.at(nearest, (i, j), r)
        kept = (i != j) & (r <= nearest[i, j] + 1e-9)
        return i[kept], j[kept], bond[kept]


class JumpAtCutoff(Morse):
    """Cut where the pair still has energy."""

    def pair(self, r):
        energy, slope = super().pair(r)
        return energy - 0.003, slope


class NotAGradient(Morse):
    """Forces scaled by the numbers of neighbours, without the derivatives of those: of no energy."""

    def extra_forces(self):
        i, j, bond = self.bonds()
        weight = (1 - (np.linalg.norm(bond, axis=1) / CUTOFF) ** 2) ** 4  # (E,)
        density = np.bincount(i, weight, minlength=len(self.atoms))  # (N,)
        push = (5e-3 * weight * density[i] * density[j])[:, None] * bond
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, -push)
        return forces


class OrderedSum(Morse):
    """The place in the list counts a little."""

    def total(self, each):
        return each.sum() + 1e-5 * np.arange(len(each)) @ (each - REFERENCE)


class Float32References(Morse):
    """Atomic energies are added up with their references in float32."""

    def total(self, each):
        return np.float32(np.add.reduce(each.astype(np.float32)))
