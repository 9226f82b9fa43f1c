"""A potential behind LAMMPS's ``fix external``: forces of own atoms, global energy and virial."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from ...calculator import NFFLrCalculator
from ...compiled import kernel
from ...errors import ConfigError, NumericsError, StructureError
from ...models.evaluator import NO_CUTOFF, Evaluator
from .region import Region, hops

FIX = "nfflr"
SKIN = 0.5  # Å
VOIGT = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])  # LAMMPS: xx, yy, zz, xy, xz, yz


def attach(
    lmp: Any,
    calculator: NFFLrCalculator,
    species: Sequence[str],
    *,
    fix: str = FIX,
    skin: float = SKIN,
    compile: bool = True,
) -> External:
    """Let a potential act on all atoms of a LAMMPS instance from the next ``run`` or ``minimize`` on.

    Every rank calls it, when the box exists. It defines ``fix <fix> all external`` (one that exists is
    taken), adds its energy and virial to LAMMPS's own, and sets the ghost cutoff, the skin and the rule for
    new neighbour lists that the potential needs; later ``neighbor``, ``neigh_modify`` and ``comm_modify``
    commands must not take that back. An error in a force call ends all ranks, with the error's exit code.

    Args:
        lmp: a ``lammps.lammps`` in ``metal`` units.
        calculator: of one of NFFLr's own potentials, on each rank.
        species: chemical symbol of each atom type, in order.
        fix: name of the fix.
        skin: Å that neighbour lists reach beyond the cutoff.
        compile: use the model's hand-written kernel, where it has one.

    Raises:
        ConfigError: other units, a number of species that is not that of the types, or a model whose
            atomic energies are not known (one from elsewhere).
        StructureError: an element that the model does not cover.
    """
    model = potential_of(calculator)
    check_species(model, species)
    n_types = lmp.extract_global("ntypes")
    if n_types != len(species):
        raise ConfigError(
            f"species: got {len(species)} ({', '.join(species)}) for {n_types} atom types; name each"
        )
    if lmp.extract_global("units") != "metal":
        raise ConfigError(f"units {lmp.extract_global('units')}: expected units metal (eV, Å, ps, bar)")
    external = External(lmp, model, species, fix, skin, compile)
    if not lmp.has_id("fix", fix):
        lmp.command(f"fix {fix} all external pf/callback 1 1")
    for command in external.needs():
        lmp.command(command)
    lmp.set_fix_external_callback(fix, external, lmp)
    return external


def potential_of(calculator: NFFLrCalculator) -> Evaluator:
    """The model of a calculator whose atomic energies can be asked for one by one."""
    model = calculator.model
    if not (model.takes_parts and model.gives("forces")):
        raise ConfigError(
            f"{type(model).__name__}: ranks need atomic energies of a part of the system; "
            "expected NFFLr's own potentials, not a model from elsewhere"
        )
    return model


def check_species(model: Evaluator, species: Sequence[str]) -> None:
    """Refuse symbols that are no elements, or that a model does not cover."""
    elements = model.elements or ()
    for symbol in species:
        if symbol not in atomic_numbers:
            raise ConfigError(f"species: {symbol!r} is no chemical symbol; expected e.g. {elements[0]}")
    missing = sorted(set(species) - set(elements))
    if missing:
        raise StructureError(
            f"species: {', '.join(missing)} is not covered by this model; it knows {', '.join(elements)}"
        )


class External:
    """The function that LAMMPS calls for forces; made by ``attach``."""

    def __init__(
        self, lmp: Any, model: Evaluator, species: Sequence[str], fix: str, skin: float, compile: bool
    ):
        from mpi4py import MPI

        self.comm = lmp.comm if lmp.has_mpi4py and lmp.comm is not None else MPI.COMM_WORLD
        self.lmp, self.fix, self.skin = lmp, fix, skin
        self.model = model
        self.layers = hops(self.model)
        # Of what is compiled, kernels alone leave out ghosts, and by themselves what is beyond the cutoff.
        self.form = (kernel(model) if compile else None) or model
        numbers = np.array([0, *(atomic_numbers[symbol] for symbol in species)])
        self.cutoff = model.cutoff or NO_CUTOFF
        self.region = Region(self.comm, numbers, self.cutoff, skin, self.layers)

    def needs(self) -> list[str]:
        """Commands for LAMMPS."""
        reach = self.layers * (self.cutoff + self.skin)
        return [
            f"comm_modify mode single cutoff {reach:.6f}",
            f"neighbor {self.skin} bin",
            "neigh_modify every 1 delay 0 check yes",
            f"fix_modify {self.fix} energy yes virial yes",
        ]

    def __call__(self, lmp: Any, step: int, n_local: int, *arrays: np.ndarray) -> None:
        """LAMMPS's callback with tags, positions and forces (n_local, 3): fills in the last."""
        try:
            self._act(n_local, arrays[-1])
        except BaseException as error:  # an exception cannot pass through LAMMPS
            print(f"error: LAMMPS step {step}: {error}", file=sys.stderr, flush=True)
            self.comm.Abort(getattr(error, "exit_code", 1))

    def _act(self, n_local: int, f: np.ndarray) -> None:
        n = n_local + self.lmp.extract_setting("nghost")
        tags, types, x = (self._extract(name, n) for name in ("id", "type", "x"))
        graph = self.region.graph(n_local, tags, types, x)
        energy, forces, virial = self._evaluate(graph) if n_local else _nothing(graph)
        own = self.region.gather(forces)
        if n_local:
            f[:] = own
        total = self.comm.allreduce(np.array([energy, *virial]))
        if not np.isfinite(total).all():
            raise NumericsError("the energy is not finite; the structure is outside what the model knows")
        self.lmp.fix_external_set_energy_global(self.fix, total[0])
        self.lmp.fix_external_set_virial_global(self.fix, total[1:])

    def _evaluate(self, graph) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy (eV), forces (N, 3) and LAMMPS's virial (6,) of the own atoms' energies."""
        if not self.form.takes_candidates:
            graph = graph.shorter_than(self.cutoff)
        output = self.form(graph)
        stress = output["stress"].double().numpy(force=True)  # of a cell of 1 Å³: the derivative by strain
        forces = output["forces"].double().numpy(force=True)
        return float(output["total_energy"]), forces, -stress[VOIGT]

    def _extract(self, name: str, n: int) -> np.ndarray:
        if not n:  # LAMMPS has no array then
            return np.zeros((0, 3)) if name == "x" else np.zeros(0, dtype=np.int64)
        return np.asarray(self.lmp.numpy.extract_atom(name, nelem=n))


def _nothing(graph) -> tuple[float, np.ndarray, np.ndarray]:
    return 0.0, np.zeros((len(graph.atoms), 3)), np.zeros(6)
