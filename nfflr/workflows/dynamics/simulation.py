"""The run itself: steps, frames, and states from which it continues exactly.

Every ``checkpoint`` steps the run is put down as a record and taken up again from it, dynamics and
calculator afresh, whether or not the process was killed meanwhile. So whatever a calculator remembers
(a neighbour list, whose age changes the order of sums and so the last bits) is forgotten at the same
steps in every run, and a resumed run is the uninterrupted one bit for bit, from whichever record it
continues. Of records in quick succession only some are saved, since a small cell's steps take less time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.units import kB

from ...errors import NFFLrError, NumericsError, StructureError
from ...storage.archives import Archive, Record
from ...units import GPA
from ..framework.interface import Progress, has_stress, snapshot
from ..framework.spread_limits import Excess, find_excess, labelled
from .ensembles import ENSEMBLES, Integrator, hidden_state, restore
from .guard import ExplosionError, Guard, TooNear
from .preparation import MdSettings, degrees_of_freedom, prepared, random_velocities

SAVING = 1.0  # s at least between two states that are saved, except for the last
FRAMES, ATOMS = 32, 100_000  # as many frames, or atoms in frames, are written together

# Columns of the table, in order; each frame carries its row in ``info["thermo"]``.
COLUMNS = (
    "time (ps)",
    "temperature (K)",
    "potential energy (eV)",
    "kinetic energy (eV)",
    "total energy (eV)",
    "conserved (eV)",
    "pressure (GPa)",
    "volume (Å^3)",
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended, after a number of sound steps, of which ``last`` is the last structure.

    ``explosion`` is an atom and what happened to it in the next step, ``too_near`` the first pair that is
    clearly nearer than any in the training data, ``excess`` the spread at which the run was stopped,
    ``compressibility`` what the barostat went by (1/GPa); None otherwise.
    """

    steps: int
    dof: int
    last: ase.Atoms
    explosion: tuple[int, str] | None
    too_near: TooNear | None
    excess: Excess | None
    compressibility: float | None


class Run:
    """A run between two records; ``atoms`` are its own."""

    def __init__(self, atoms: ase.Atoms, calculator: Calculator, settings: MdSettings):
        self.atoms, self.settings = atoms, settings
        self.ensemble = ENSEMBLES[settings.ensemble]
        self.guard = Guard(calculator, settings)
        velocities, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed).spawn(2))
        if not settings.keep_velocities:
            random_velocities(atoms, settings.temperature, velocities)
        atoms.set_momenta(atoms.get_momenta())  # so that they are there, be they zero
        self.dof = degrees_of_freedom(atoms, self.ensemble.keeps_momentum)
        if settings.has_thermostat and (self.dof < 1 or not atoms.get_momenta().any()):
            raise StructureError("structure: nothing moves that a thermostat could heat; use --ensemble nve")
        self.rng = noise
        self.step = 0
        self.offset = 0.0  # eV: jumps of the conserved quantity where its targets were changed
        self.dynamics: Integrator  # made by pick_up

    def pick_up(self, record: Record | None) -> None:
        """Continue from a record (None: from the start), with nothing kept from before."""
        atoms = self.atoms
        if record is not None:
            self.step, self.offset = int(record["step"]), float(record["offset"])
            atoms.set_cell(record["cell"])
            atoms.arrays["positions"][:] = record["positions"]
            atoms.arrays["momenta"][:] = record["momenta"]
            self.rng.bit_generator.state = json.loads(str(record["rng"]))
            near = record["too_near"]
            self.guard.too_near = TooNear(int(near[0]), int(near[1]), float(near[2])) if len(near) else None
        self.guard.reset()
        atoms.calc = self.guard
        self.guard.begin(atoms, self.step)
        self.dynamics = self.ensemble.build(atoms, self.settings, self.dof, self.rng)
        if record is not None:
            restore(self.ensemble, self.dynamics, record)
        self._aim(self.step)

    def mark(self) -> Callable[[], Record]:
        """A function that makes the record of this moment, on which the rest depends; few steps need it."""
        step, offset, near, cell = self.step, self.offset, self.guard.too_near, self.atoms.cell.copy()
        positions, momenta = (self.atoms.arrays[name].copy() for name in ("positions", "momenta"))
        noise, hidden = self.rng.bit_generator.state, hidden_state(self.ensemble, self.dynamics)

        def record() -> Record:
            return {
                "step": np.array(step),
                "offset": np.array(offset),
                "positions": positions,
                "momenta": momenta,
                "cell": cell,
                "rng": np.array(json.dumps(noise)),
                "too_near": np.array([near.step, near.atom, near.distance] if near else []),
                **hidden,
            }

        return record

    def advance(self) -> None:
        """One step, which raises ``ExplosionError`` if it is not sound."""
        self.guard.begin(self.atoms, self.step + 1)
        if self.settings.has_ramp:
            self._retarget(self.step + 1)
        try:
            with np.errstate(all="ignore"):  # what overflows is found below
                self.dynamics.step()
        except np.linalg.LinAlgError as error:  # of a cell that is NaN
            reason = f"was fastest when a step failed ({error})"
            raise ExplosionError(reason, self.guard.fastest(self.atoms)) from error
        temperature = self.temperature()
        if not temperature <= self.settings.max_temperature:
            reason = f"was hottest when the temperature reached {temperature:.0f} K"
            raise ExplosionError(reason, self.guard.hottest(self.atoms))
        self.step += 1

    def excess(self) -> Excess | None:
        """The spread of the forces or energy where the atoms are now, if it is above its limit."""
        if self.settings.max_forces_std is None and self.settings.max_energy_std is None:
            return None
        self.atoms.get_forces()  # the guard has them as a rule
        return find_excess(self.guard.results, len(self.atoms), self.settings)

    def temperature(self) -> float:
        """K, of the degrees of freedom that are free."""
        return 2 * float(self.atoms.get_kinetic_energy()) / (max(1, self.dof) * kB)

    def conserved(self) -> float | None:
        """The quantity that exact integration would conserve, eV."""
        energy = self.ensemble.energy
        return None if energy is None else float(energy(self.dynamics)) - self.offset

    def frame(self) -> ase.Atoms:
        """The structure now, with results and a row of the table."""
        atoms = self.atoms
        atoms.get_forces()
        potential = float(atoms.get_potential_energy(force_consistent=True))
        kinetic = float(atoms.get_kinetic_energy())
        pressure = None
        if has_stress(atoms) and "stress" in self.guard.implemented_properties:
            stress = atoms.get_stress()  # (6,) eV/Å³, to which the ideal gas's is added
            pressure = float((2 * kinetic / (3 * atoms.get_volume()) - np.mean(stress[:3])) / GPA)
        values = (
            self.step * self.settings.timestep / 1000,
            self.temperature(),
            potential,
            kinetic,
            potential + kinetic,
            self.conserved(),
            pressure,
            float(atoms.get_volume()) if atoms.cell.rank == 3 else None,
        )
        frame = snapshot(atoms)
        frame.info = {"step": self.step, "thermo": dict(zip(COLUMNS, values, strict=True))}
        return frame

    def _aim(self, step: int) -> None:
        temperature, pressure = self.settings.targets(step)
        self.ensemble.aim(self.dynamics, temperature, pressure * GPA, self.dof)

    def _retarget(self, step: int) -> None:
        before = self.conserved()
        self._aim(step)
        after = self.conserved()
        if before is not None and after is not None:
            self.offset += after - before


def simulate(
    atoms: ase.Atoms, calculator: Calculator, settings: MdSettings, progress: Progress, archive: Archive
) -> Outcome:
    """Run to ``settings.steps`` from the archive's last state; its frames are in the archive."""
    atoms, settings = prepared(atoms, calculator, settings, archive)
    run = Run(atoms, calculator, settings)
    record = archive.load("state")
    archive.truncate(0 if record is None else int(record["step"]) // settings.interval + 1)
    try:
        run.pick_up(record)
        if record is None:
            archive.append(run.frame())
    except ExplosionError as error:
        if isinstance(error.__cause__, NFFLrError):
            raise error.__cause__ from error
        where = f"atom {error.atom} ({atoms.symbols[error.atom]})"
        raise NumericsError(f"structure: at the start {where} {error.message}; check the geometry") from error
    report = _reporter(run, progress)
    if record is None and (excess := run.excess()) is not None:
        return _uncertain(run, excess)
    keeper = _Keeper(archive)
    try:
        return _steps(run, keeper, report) or _outcome(run, run.step, run.frame())
    finally:
        keeper.finish()


def _steps(run: Run, keeper: _Keeper, report: Callable[[ase.Atoms], None]) -> Outcome | None:
    """Run to the end; the outcome if the run stops before."""
    settings = run.settings
    while run.step < settings.steps:
        sound = run.mark()
        try:
            run.advance()
            if run.step % settings.interval == 0:
                frame = run.frame()
                keeper.add_frame(frame)
                report(frame)
            excess = run.excess()
        except ExplosionError as error:
            keeper.finish()
            return _exploded(run, keeper.archive, sound(), error)
        if excess is not None:  # before the state is saved: a run that is resumed comes here again
            return _uncertain(run, excess)
        is_checkpoint = run.step % settings.checkpoint == 0
        if is_checkpoint or run.step == settings.steps:
            record = run.mark()()
            if is_checkpoint:
                keeper.add_state(record)
            run.pick_up(record)  # even at the end, so that the last energies are those of any resumed run
    return None


class _Keeper:
    """Puts frames of small structures together into the archive, and states not more often than is of use."""

    def __init__(self, archive: Archive):
        self.archive, self._saved = archive, time.monotonic()
        self._frames: list[ase.Atoms] = []
        self._state: Record | None = None

    def add_frame(self, frame: ase.Atoms) -> None:
        self._frames.append(frame)
        if len(self._frames) >= FRAMES or len(self._frames) * len(frame) >= ATOMS:
            self._write_frames()

    def add_state(self, record: Record) -> None:
        self._state = record
        if time.monotonic() - self._saved >= SAVING:
            self.finish()

    def finish(self) -> None:
        """Write what waits, at the end or when the run is interrupted."""
        self._write_frames()
        if self._state is not None:
            self.archive.save("state", self._state)
        self._state, self._saved = None, time.monotonic()

    def _write_frames(self) -> None:
        frames, state = self._frames, self._state
        self._frames, self._state = [], None  # a state that counts a lost frame must not be saved
        for frame in frames:
            self.archive.append(frame)
        self._state = state


def _exploded(run: Run, archive: Archive, record: Record, error: ExplosionError) -> Outcome:
    try:
        run.pick_up(record)
        last = run.frame()
    except ExplosionError:  # the calculator gives other answers than it gave; the last frame it is
        last = archive.frames()[-1]
    return _outcome(run, int(record["step"]), last, (error.atom, error.message))


def _uncertain(run: Run, excess: Excess) -> Outcome:
    last = labelled(run.frame(), run.guard.results, run.step)
    return _outcome(run, run.step, last, excess=excess)


def _outcome(
    run: Run,
    steps: int,
    last: ase.Atoms,
    explosion: tuple[int, str] | None = None,
    excess: Excess | None = None,
) -> Outcome:
    used = run.settings.compressibility if run.settings.ensemble == "npt-berendsen" else None
    return Outcome(steps, run.dof, last, explosion, run.guard.too_near, excess, used)


def _reporter(run: Run, progress: Progress):
    """Calls ``progress`` with the numbers a person watches, taken from a frame."""
    started, first, start = time.perf_counter(), run.step, run.conserved()

    def report(frame: ase.Atoms) -> None:
        row = frame.info["thermo"]
        numbers = {"T (K)": row["temperature (K)"], "E (eV)": row["total energy (eV)"]}
        if start is not None:
            numbers["drift (meV/atom)"] = 1000 * (row["conserved (eV)"] - start) / len(frame)
        days = (time.perf_counter() - started) / 86400
        numbers["ns/day"] = (run.step - first) * run.settings.timestep * 1e-6 / days
        progress(run.step, run.settings.steps, numbers, frame)

    return report
