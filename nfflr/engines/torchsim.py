"""Many structures at once on one device, through torch-sim (extra ``torch-sim``; Cohen et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import ase
import numpy as np
import torch
import torch_sim
from torch_sim.autobatching import InFlightAutoBatcher
from torch_sim.models.interface import ModelInterface
from torch_sim.optimizers import fire, frechet_cell_fire

from ..atoms import Atoms
from ..calculator import NFFLrCalculator
from ..errors import ConfigError, NFFLrError, NumericsError, StructureError
from ..models.evaluator import Evaluator
from ..structures.checks import check_structure
from ..structures.constraints import repeated
from ..units import GPA
from ..workflows.relaxation import (
    EXPLODED,
    RelaxResult,
    RelaxSettings,
    cell_filter,
    check_axes,
    describe_end,
    frame_of,
    relax,
    result_of,
)

ATOMS = 2000  # in a batch
MARGIN = 0.999  # of fmax, so that a structure that converges in a batch does so alone, despite rounding


class TorchSimModel(ModelInterface):
    """A potential behind torch-sim's model interface, for its ``optimize``, ``integrate`` and ``static``.

    torch-sim's states should be in float64, this model's ``dtype``: positions keep all bits whatever the
    precision of the weights.

    Args:
        model: an ``Evaluator`` that takes batches; used as it is, on the device where it is.
        stress: whether stresses are computed.
    """

    def __init__(self, model: Evaluator, stress: bool = True):
        super().__init__()
        self.model = model
        self._device, self._dtype = model.device, torch.float64
        self._compute_stress, self._compute_forces = stress, True

    def forward(self, state: torch_sim.SimState | dict, **kwargs: Any) -> dict[str, torch.Tensor]:
        """``energy`` (B,) eV, ``forces`` (N, 3) eV/Å and, if computed, ``stress`` (B, 3, 3) eV/Å³.

        Raises:
            StructureError: an element that the model does not cover, or two atoms coincide.
        """
        if isinstance(state, dict):
            state = torch_sim.SimState(**state)
        cell = state.row_vector_cell.double()  # (B, 3, 3); torch-sim's own holds the vectors as columns
        pbc = torch.full((len(cell), 3), bool(state.pbc), device=cell.device)
        atoms = Atoms(state.positions.double(), state.atomic_numbers.long(), cell, pbc, state.system_idx)
        output = self.model(atoms, stress=self._compute_stress)
        names = {"energy": "total_energy", "forces": "forces", "stress": "stress"}
        return {name: output[key].to(state.dtype) for name, key in names.items() if key in output}


def relax_together(
    structures: Sequence[ase.Atoms],
    calculator: NFFLrCalculator,
    settings: RelaxSettings = RelaxSettings(),
    max_atoms: int = ATOMS,
) -> Iterator[tuple[int, RelaxResult | NFFLrError]]:
    """Relax structures together by FIRE; one that converges makes room for the next.

    Each starts, steps and stops as in ``workflows.relax``, whose minimum it finds within ``fmax``; energy and
    largest force at the end are the calculator's. The trajectory has the first and the last frame.

    Args:
        structures: periodic along all axes or none, without constraints.
        calculator: of one of NFFLr's own models.
        settings: with ``optimizer="fire"``, without ``symmetry`` and limits of a committee's spread.
        max_atoms: of a batch; a larger structure is a batch by itself.

    Yields:
        the index of a structure and its result or its error, as soon as it ends.

    Raises:
        ConfigError: a setting or a model that torch-sim cannot serve.
    """
    check_batch(calculator, settings)
    runs = [_Run(k, atoms, settings) for k, atoms in enumerate(structures)]
    for periodic in (True, False):  # which torch-sim has for a batch as a whole
        group = [run for run in runs if bool(run.atoms.pbc.all()) == periodic]
        yield from _Together(calculator, settings, max_atoms).relax(group)


def check_batch(calculator: Any, settings: RelaxSettings) -> None:
    """Refuse what torch-sim cannot serve.

    Raises:
        ConfigError: naming the setting, or the model.
    """
    if settings.optimizer != "fire":
        raise ConfigError(f"--optimizer: a batch is relaxed by fire, not {settings.optimizer}; leave it out")
    for name in ("symmetry", "max_forces_std", "max_energy_std", "cell_axes"):
        if getattr(settings, name) != RelaxSettings.model_fields[name].default:
            raise ConfigError(
                f"--{name.replace('_', '-')}: not for a batch; relax one by one, without --batch"
            )
    model = calculator.model if isinstance(calculator, NFFLrCalculator) else None
    if model is None or not (model.takes_batches and model.gives("forces")):
        raise ConfigError("--batch: needs one of NFFLr's own models, with forces; leave --batch out")


class _Run:
    """One structure on its way down."""

    def __init__(self, index: int, atoms: ase.Atoms, settings: RelaxSettings):
        self.index, self.start, self.atoms = index, atoms, atoms  # the last one with the supercell
        self.settings = settings
        self.energies: list[float] = []
        self.fmax: list[float] = []
        self.failed = False
        self.error: NFFLrError | None = None
        self.state: torch_sim.SimState | None = None

    @property
    def size(self) -> int:
        """Number of atoms of the supercell."""
        return len(self.start) * int(np.prod(self.settings.supercell or 1))

    def check(self) -> None:
        """Make the supercell; refuse a structure that cannot go into a batch."""
        check_structure(self.atoms)
        self.atoms = repeated(self.start, self.settings.supercell or (1, 1, 1))
        if self.atoms.pbc.any() and not self.atoms.pbc.all():
            raise StructureError(
                "structure: torch-sim knows structures periodic along three axes or none; leave --batch out"
            )
        if self.atoms.constraints:
            raise StructureError("structure: torch-sim moves all atoms, some are fixed; leave --batch out")
        if self.settings.cell:
            check_axes(self.atoms, self.settings)

    def observe(self, energy: float, fmax: float) -> bool:
        """Record a step; returns whether it was the last.

        Raises:
            NumericsError: the forces at the start are not finite.
        """
        finite = bool(np.isfinite([energy, fmax]).all())
        if not (finite or self.fmax):
            raise NumericsError("structure: forces are not finite; check the geometry")
        self.failed = not finite or (fmax > EXPLODED and bool(self.fmax))
        if not self.failed:
            self.energies.append(energy)
            self.fmax.append(fmax)
        return self.failed or self.converged or len(self.fmax) > self.settings.steps

    @property
    def converged(self) -> bool:
        return not self.failed and self.fmax[-1] < MARGIN * self.settings.fmax

    def result(self, calculator: NFFLrCalculator) -> RelaxResult:
        """The result, with both ends evaluated by the calculator; by ``relax`` where the batch failed.

        Raises:
            NFFLrError: the error of this structure.
        """
        if self.error is not None:
            raise self.error
        if self.failed or self.state is None:
            return relax(self.start, calculator, self.settings)
        atoms = self.atoms.copy()
        atoms.calc = calculator
        moving = atoms
        if self.settings.cell:
            moving = cell_filter(atoms, self.settings)
        frames = [frame_of(atoms, _largest(moving.get_forces()))]
        atoms.cell[:] = self.state.row_vector_cell[0].cpu().numpy()
        atoms.positions[:] = self.state.positions.cpu().numpy()
        frames.append(frame_of(atoms, _largest(moving.get_forces())))
        converged = frames[-1].info["fmax"] < self.settings.fmax
        steps = len(self.fmax) - 1
        result = result_of(
            frames, self.settings, converged, describe_end(self.settings, steps, converged), {}
        )
        energies, fmax = np.array(self.energies), np.array(self.fmax)
        return result.model_copy(update={"steps": steps, "energy_trace": energies, "fmax_trace": fmax})


class _Together:
    """Structures of one periodicity, in one batch after another."""

    def __init__(self, calculator: NFFLrCalculator, settings: RelaxSettings, max_atoms: int):
        self.calculator, self.settings, self.max_atoms = calculator, settings, max_atoms
        self.model = TorchSimModel(calculator.model, stress=settings.cell)
        if settings.cell:
            pair = frechet_cell_fire(self.model, scalar_pressure=settings.pressure * GPA)
        else:
            pair = fire(self.model)
        self.start, self.step = pair
        self.ended: list[_Run] = []
        self.entered: list[_Run] = []  # in the order of the batcher's own numbers

    def relax(self, runs: list[_Run]) -> Iterator[tuple[int, RelaxResult | NFFLrError]]:
        states = self._enter(runs)
        for first in states:
            self.entered = self.entered[-1:]
            yield from self._batches(chain([first], states), max(run.size for run in runs))
        yield from self._results()

    def _enter(self, runs: list[_Run]) -> Iterator[torch_sim.SimState]:
        """States of structures that have not converged, each made when there is room for it."""
        for run in runs:
            try:
                run.check()
                entering = torch_sim.io.atoms_to_state([run.atoms], self.model.device, self.model.dtype)
                state = _at_rest(self.start(entering))
                done = run.observe(*self._measure(state)[0])
            except NFFLrError as error:
                run.error, done = error, True
            else:
                run.state = state
            if done:
                self.ended.append(run)
            else:
                self.entered.append(run)
                yield state

    def _batches(
        self, states: Iterator[torch_sim.SimState], largest: int
    ) -> Iterator[tuple[int, RelaxResult | NFFLrError]]:
        room = float(max(self.max_atoms, largest))
        batcher = InFlightAutoBatcher(self.model, memory_scales_with="n_atoms", max_memory_scaler=room)
        batcher.load_states(states)
        batch, _ = batcher.next_batch(None, None)
        while batch is not None:
            yield from self._results()
            current = [self.entered[k] for k in batcher.current_idx]
            try:
                batch = self.step(batch)
            except NFFLrError:  # of an unknown one of them, so that each is relaxed alone
                finished = set(batcher.completed_idx_og_order)
                unfinished = [run for k, run in enumerate(self.entered) if k not in finished]
                for run in unfinished:
                    run.state = None
                self.ended += unfinished
                return
            pairs = zip(current, self._measure(batch), strict=True)
            done = [run.observe(*values) for run, values in pairs]
            if any(done):
                batch, ended = batcher.next_batch(batch, torch.tensor(done, device=self.model.device))
                for k, state in zip(batcher.completed_idx_og_order[-len(ended) :], ended, strict=True):
                    self.entered[k].state = state
                    self.ended.append(self.entered[k])

    def _results(self) -> Iterator[tuple[int, RelaxResult | NFFLrError]]:
        while self.ended:
            run = self.ended.pop(0)
            self.calculator.reset()
            try:
                yield run.index, run.result(self.calculator)
            except NFFLrError as error:
                yield run.index, error

    def _measure(self, state: Any) -> list[tuple[float, float]]:
        """Energy (eV) and largest force (eV/Å) of each system, as in ``workflows.relax``."""
        forces = state.forces
        if self.settings.cell:  # on atoms that move with the cell
            forces = torch.einsum("ni,nij->nj", forces, state.deform_grad()[state.system_idx])
        lengths = forces.norm(dim=1)  # (N,)
        fmax = lengths.new_zeros(state.n_systems).scatter_reduce(0, state.system_idx, lengths, "amax")
        if self.settings.cell:
            fmax = torch.maximum(fmax, state.cell_forces.norm(dim=2).amax(dim=1))
        return list(zip(state.energy.tolist(), fmax.tolist(), strict=True))


def _at_rest(state: Any) -> Any:
    """A state before its first step that does not disturb others in the batch.

    torch-sim marks it by velocities that are not numbers, and then no system of the batch mixes velocities or
    changes its time step. At rest with twice the time step, which the first step halves, it starts as in ASE.
    """
    for name in ("velocities", "cell_velocities"):
        if hasattr(state, name):
            setattr(state, name, torch.zeros_like(getattr(state, name)))
    state.dt = 2 * state.dt
    return state


def _largest(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces, axis=1).max())
