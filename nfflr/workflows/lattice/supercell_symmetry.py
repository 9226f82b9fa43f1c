"""Symmetry of a supercell: the operations that force constants need, instead of all of them."""

from __future__ import annotations

import numpy as np
from phonopy import Phonopy
from phonopy.structure.cells import compute_all_sg_permutations
from phonopy.structure.symmetry import Symmetry
from scipy.spatial import cKDTree


class SupercellSymmetry(Symmetry):
    """Phonopy's, for cells with many pure translations.

    A 4×4×4 cubic cell of silicon has 12288 operations: 48 rotations times 256 translations. Phonopy walks
    through them one by one, several times. Kept are those that leave an independent atom where it is, those
    that take each other atom to its independent one, and one of each rotation; and which atom goes where
    is worked out for the 48 and the 256, and composed.
    """

    _composed = None

    def _set_symmetry_dataset(self) -> None:
        super()._set_symmetry_dataset()
        found = self._needed()
        if found is not None:
            kept, self._composed = found
            operations = self._symmetry_operations
            self._symmetry_operations = {
                "rotations": operations["rotations"][kept],
                "translations": operations["translations"][kept],
            }

    def _set_atomic_permutations(self) -> None:
        if self._composed is None:
            super()._set_atomic_permutations()
        else:
            self._atomic_permutations = self._composed

    def _needed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Indices (m,) of operations and where they take the atoms (m, N), or None if all are needed."""
        operations = self._symmetry_operations
        rotations, translations = operations["rotations"], operations["translations"]
        _, first, which = np.unique(rotations, axis=0, return_index=True, return_inverse=True)
        which = which.ravel()  # (n,) index of the rotation
        pure = np.flatnonzero((rotations == np.eye(3, dtype=int)).all(axis=(1, 2)))
        if len(pure) == 1 or len(first) == 1 or len(first) * len(pure) != len(rotations):
            return None
        rest = translations - translations[first[which]]  # (n, 3) what follows the first of that rotation
        distance, after = cKDTree(_wrapped(translations[pure]), boxsize=1.0).query(_wrapped(rest))
        shortest = np.linalg.norm(self._cell.cell, axis=1).min()
        if distance.max() > 10 * self._symprec / shortest:
            return None
        turned = self._match(rotations[first], translations[first])  # (R, N)
        moved = self._match(rotations[pure], translations[pure])  # (T, N)
        independent = np.unique(self._map_atoms)
        fixing = (moved[after[:, None], turned[:, independent][which]] == independent).any(axis=1)  # (n,)
        chosen = _rotations(turned, moved.min(axis=0), self._map_atoms)
        if chosen is None:
            return None
        keep = fixing | np.isin(which, chosen)
        keep[first] = True
        kept = np.flatnonzero(keep)
        return kept, np.take_along_axis(moved[after[kept]], turned[which[kept]], axis=1)

    def _match(self, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
        return compute_all_sg_permutations(
            self._cell.scaled_positions,
            rotations,
            translations,
            np.array(self._cell.cell.T, dtype="double", order="C"),
            self._symprec,
            self._cell.totuple()[2],
            lang=self._lang,
        )


class SupercellPhonopy(Phonopy):
    """Phonopy with ``SupercellSymmetry``; displacements and force constants are the same.

    The hook is private to phonopy: were it renamed, phonopy's own search would take its place.
    """

    def _search_symmetry(self) -> None:
        self._symmetry = SupercellSymmetry(
            self._supercell,
            self._symprec,
            self._is_symmetry,
            s2p_map=self._primitive.s2p_map,
            lang=self._lang,
        )


def _rotations(turned: np.ndarray, sublattice: np.ndarray, independent: np.ndarray) -> list[int] | None:
    """Few rotations that, with all translations, take every atom to the independent one.

    Args:
        turned: (R, N) where the first operation of each rotation takes the atoms.
        sublattice: (N,) the first atom that pure translations lead to.
        independent: (N,) the independent atom of each.
    """
    chosen: list[int] = []
    for atom in np.unique(sublattice):
        fit = np.flatnonzero(sublattice[turned[:, atom]] == sublattice[independent[atom]])
        if len(fit) == 0:
            return None
        if not np.isin(fit, chosen).any():
            chosen.append(int(fit[0]))
    return chosen


def _wrapped(fractional: np.ndarray) -> np.ndarray:
    inside = fractional % 1.0
    return np.where(inside >= 1.0, 0.0, inside)  # -1e-17 % 1 is 1
