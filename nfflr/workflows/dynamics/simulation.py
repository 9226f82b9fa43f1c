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

from ...errors import NFFLrError, NumericsError
from ...storage.archives import Archive, Record
from ...units import GPA
from ..framework.evaluations import Excess, find_excess, labelled
from ..framework.interface import Progress, has_stress, snapshot
from .ensembles import ENSEMBLES, Integrator, hidden_state, restore
from .guard import ExplosionError, Guard, TooNear
from .preparation import MdSettings, check_moving, degrees_of_freedom, prepared, random_velocities

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
    """How a run ended.

    Attributes:
        steps: number of sound steps.
        dof: degrees of freedom.
        last: the last sound structure with momenta and results.
        explosion: (atom, what happened to it) in the step after the last, or None.
        too_near: the first pair that is nearer than any in the training data, or None.
        excess: the spread of ``last`` above its limit, at which the run was stopped, or None.
        compressibility: 1/GPa, that the barostat went by, or None.
    """

    steps: int
    dof: int
    last: ase.Atoms
    explosion: tuple[int, str] | None
    too_near: TooNear | None
    excess: Excess | None = None
    compressibility: float | None = None


class Run:
    """A run between two records.

    Args:
        atoms: its own copy; what moves.
        calculator: any ASE calculator.
        settings: see ``MdSettings``.
    """

    def __init__(self, atoms: ase.Atoms, calculator: Calculator, settings: MdSettings):
        self.atoms, self.settings = atoms, settings
        self.ensemble = ENSEMBLES[settings.ensemble]
        self.guard = Guard(calculator, settings)
        velocities, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed).spawn(2))
        if not settings.keep_velocities:
            random_velocities(atoms, settings.temperature, velocities)
        atoms.set_momenta(atoms.get_momenta())  # so that they are there, be they zero
        self.dof = degrees_of_freedom(atoms, self.ensemble.keeps_momentum)
        check_moving(atoms, self.dof, settings.has_thermostat)
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

    def put_down(self) -> Record:
        """All that the rest of the run depends on."""
        return self.mark()()

    def mark(self) -> Callable[[], Record]:
        """A function that makes the record of this moment, which few steps need."""
        step, offset, near, arrays = self.step, self.offset, self.guard.too_near, self.atoms.arrays
        positions, momenta, cell = (
            arrays["positions"].copy(),
            arrays["momenta"].copy(),
            self.atoms.cell.copy(),
        )
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
        """One step.

        Raises:
            ExplosionError: it is not sound.
        """
        self.guard.begin(self.atoms, self.step + 1)
        if self.settings.has_ramp:
            self._retarget(self.step + 1)
        try:
            with np.errstate(all="ignore"):  # what overflows is found below
                self.dynamics.step()
        except np.linalg.LinAlgError as error:  # of a cell that is NaN
            raise ExplosionError(
                f"was fastest when a step failed ({error})", self.guard.fastest(self.atoms)
            ) from error
        temperature = self.temperature()
        if not temperature <= self.settings.max_temperature:
            reason = f"was hottest when the temperature reached {temperature:.0f} K"
            raise ExplosionError(reason, self.guard.hottest(self.atoms))
        self.step += 1

    def excess(self) -> Excess | None:
        """The spread of the forces or energy where the atoms are now, if it is above its limit."""
        if self.settings.max_forces_std is None and self.settings.max_energy_std is None:
            return None
        self.atoms.get_forces()  # as a rule known
        return find_excess(self.guard.results, len(self.atoms), self.settings)

    def temperature(self) -> float:
        """K, of the degrees of freedom that are free."""
        return 2 * float(self.atoms.get_kinetic_energy()) / (max(1, self.dof) * kB)

    def conserved(self) -> float | None:
        """The quantity that exact integration would conserve, eV."""
        return (
            None if self.ensemble.energy is None else float(self.ensemble.energy(self.dynamics)) - self.offset
        )

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
            2 * kinetic / (max(1, self.dof) * kB),
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
    """Run to ``settings.steps`` from the archive's last state; its frames are in the archive.

    Raises:
        NumericsError, StructureError: not even the start is sound.
    """
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
        while run.step < settings.steps:
            record = _stretch(run, keeper, report)
            run.pick_up(record)  # even at the end, so that the last energies are those of any resumed run
    except _ExplodedError as stopped:
        keeper.finish()
        return _exploded(run, archive, stopped)
    except _UncertainError as stopped:
        return _uncertain(run, stopped.excess)
    finally:
        keeper.finish()
    return _outcome(run, run.step, run.frame())


class _Keeper:
    """Puts frames and states into the archive: frames of small structures together, which is quicker, and
    states not more often than is of use."""

    def __init__(self, archive: Archive):
        self._archive, self._saved = archive, time.monotonic()
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
        """Keep what waits, at the end or when the run is interrupted."""
        self._write_frames()
        if self._state is not None:
            self._archive.save("state", self._state)
        self._state = None
        self._saved = time.monotonic()

    def _write_frames(self) -> None:
        frames, state = self._frames, self._state
        self._frames, self._state = (
            [],
            None,
        )  # where a frame is lost, a state that counts it must not be saved
        for frame in frames:
            self._archive.append(frame)
        self._state = state


def _exploded(run: Run, archive: Archive, stopped: _ExplodedError) -> Outcome:
    try:
        run.pick_up(stopped.record)
        last = run.frame()
    except ExplosionError:  # the calculator gives other answers than it gave; the last frame it is
        last = archive.frames()[-1]
    explosion = (stopped.cause.atom, stopped.cause.message)
    return _outcome(run, int(stopped.record["step"]), last, explosion)


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


class _UncertainError(Exception):
    def __init__(self, excess: Excess):
        super().__init__()
        self.excess = excess


class _ExplodedError(Exception):
    def __init__(self, record: Record, cause: ExplosionError):
        super().__init__(cause.message)
        self.record, self.cause = record, cause


def _stretch(run: Run, keeper: _Keeper, report) -> Record:
    """Run to the next state, or to the end; returns the record of it.

    Raises:
        _ExplodedError, _UncertainError: it cannot, or should not, go on.
    """
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
            raise _ExplodedError(sound(), error) from error
        if excess is not None:  # before the state is saved: a run that is resumed comes here again
            raise _UncertainError(excess)
        if run.step % settings.checkpoint == 0:
            break
    record = run.put_down()
    if run.step % settings.checkpoint == 0:
        keeper.add_state(record)
    return record


def _reporter(run: Run, progress: Progress):
    """Calls ``progress`` with the numbers a person watches, taken from a frame."""
    began, first, start = time.perf_counter(), run.step, run.conserved()

    def report(frame: ase.Atoms) -> None:
        row = frame.info["thermo"]
        numbers = {"T (K)": row["temperature (K)"], "E (eV)": row["total energy (eV)"]}
        if start is not None:
            numbers["drift (meV/atom)"] = 1000 * (row["conserved (eV)"] - start) / len(frame)
        days = (time.perf_counter() - began) / 86400
        numbers["ns/day"] = (run.step - first) * run.settings.timestep * 1e-6 / days
        progress(run.step, run.settings.steps, numbers, frame)

    return report
