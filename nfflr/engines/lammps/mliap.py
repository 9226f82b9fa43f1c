"""The same potentials as a *unified* object of LAMMPS's ML-IAP package, for builds with its Python coupling.

``pair_style mliap unified potential.pt`` calls ``compute_forces`` with the bonds of LAMMPS's own list (see
https://docs.lammps.org/pair_mliap.html). Arrays may lie on a GPU, as Kokkos builds have them.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...calculator import NFFLrCalculator
from ...errors import ConfigError
from ...models.assemble import Inputs, differentiate
from ...models.base import Potential
from ...models.evaluator import Evaluator
from ...storage.files import write_atomically
from .external import hops, potential_of

try:  # LAMMPS checks only the names of the methods
    from lammps.mliap.mliap_unified_abc import MLIAPUnified as _Base
except (ImportError, OSError):
    _Base = object


class UnifiedPotential(_Base):
    """A strictly local potential as ML-IAP calls it.

    Args:
        model: a ``Potential`` that does not pass messages.

    Raises:
        ConfigError: its atomic energies reach over several bonds; ghosts would need neighbours, which this
            interface does not have. ``nff lammps`` runs it through ``fix external``.
    """

    def __init__(self, model: Evaluator):
        if not isinstance(model, Potential):
            raise ConfigError(f"{model.key}: ML-IAP takes a single potential; run it without --mliap")
        if hops(model) > 1:
            raise ConfigError(
                f"{type(model).__name__}: its energies reach over {hops(model)} bonds, and ML-IAP has those "
                "of own atoms alone; run it without --mliap"
            )
        self.model = model
        self.interface = None  # LAMMPS's
        self.element_types = list(model.elements)
        self.ndescriptors, self.nparams = 1, 1  # attributes that LAMMPS reads, but does not use
        self.rcutfac = model.cutoff / 2  # LAMMPS doubles it

    def compute_forces(self, data: Any) -> None:
        """Fill per-atom energies and pair forces.

        Args:
            data: LAMMPS's ``MLIAPDataPy``: ``rij`` (P, 3) Å from ``pair_i`` to ``pair_j``, ``elems``
                (ntotal,) indices into ``element_types``, ``nlocal``, ``ntotal``, ``eatoms`` (nlocal,) eV.
        """
        if not data.nlocal:
            return
        model, device = self.model, self.model.device
        arrays = data.pair_i, data.pair_j, data.elems
        i, j, elements = (torch.as_tensor(array, device=device).long() for array in arrays)
        rij = torch.as_tensor(data.rij, device=device, dtype=torch.float64).view(-1, 3)
        order = torch.argsort(i, stable=True)  # centres ascend, as graphs have them
        species = elements[: data.ntotal]
        with torch.inference_mode(False), torch.enable_grad():
            vectors = rij[order].to(model.dtype)  # (P, 3)
            bonds = Inputs(species, model.numbers[species], j[order], i[order], vectors)
            inputs = replace(bonds, tables=model.tables(bonds))
            inputs.vectors.requires_grad_()
            outputs, slopes = differentiate(model, inputs, data.nlocal)
        assert slopes is not None  # the model gives forces
        pair_forces = torch.empty_like(rij)
        pair_forces[order] = slopes.double()
        energies = outputs["energies"].detach()
        if energies.device.type == "cpu":
            data.eatoms[: data.nlocal] = energies.numpy()
            data.update_pair_forces(pair_forces.numpy())
        else:
            torch.as_tensor(data.eatoms, device=energies.device)[: data.nlocal].copy_(energies)
            data.update_pair_forces_gpu(pair_forces)
        data.energy = float(energies.sum())

    def compute_descriptors(self, data: Any) -> None:
        """Do nothing; the unified interface does not use descriptors."""

    def compute_gradients(self, data: Any) -> None:
        """Do nothing, see ``compute_descriptors``."""


def write_unified(path: Path, calculator: NFFLrCalculator) -> None:
    """Write the object as LAMMPS reads it: with Python's pickle, by ``torch.save``.

    Raises:
        ConfigError: as ``UnifiedPotential``.
    """
    content = io.BytesIO()
    torch.save(UnifiedPotential(potential_of(calculator)), content, pickle_protocol=pickle.DEFAULT_PROTOCOL)
    write_atomically(path, content.getvalue())
