"""The teacher, each of whose answers is kept on disk and none is asked for twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ase
import numpy as np
from ase.calculators.calculator import Calculator, CalculatorError, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from ..errors import NumericsError
from ..storage.trajectories import FrameWriter, StoredFrames, write_trajectory
from ..validation.suite import BudgetSpentError
from ..workflows.framework.interface import has_stress

FILE = "labels.traj"


class Labels:
    """Labelled structures in the order they were asked for; on the disk before the next is.

    A frame's ``info`` says what it is for (``use``: train, test or reference), where it comes from
    (``config_type``) and what it took (``seconds``). One without results is a call that failed.

    Args:
        path: an ASE trajectory, which keeps every bit.
    """

    def __init__(self, path: Path):
        self.frames: list[ase.Atoms] = list(StoredFrames(path))
        if path.exists():  # without the half frame that a killed writer may have left
            write_trajectory(path, self.frames) if self.frames else path.unlink()
        self._known = {_digest(frame): frame for frame in self.frames}
        self._writer = FrameWriter(path)

    def __len__(self) -> int:
        return len(self.frames)

    def find(self, atoms: ase.Atoms) -> ase.Atoms | None:
        """The labelled structure of the very same geometry."""
        return self._known.get(_digest(atoms))

    def add(self, frame: ase.Atoms) -> None:
        """Keep a frame; when this returns the disk has it."""
        self._writer.write(frame)
        self._writer.flush()
        self.frames.append(frame)
        self._known[_digest(frame)] = frame

    def used_for(self, use: str) -> list[ase.Atoms]:
        """Frames with results that were asked for to this end."""
        return [f for f in self.frames if f.info["use"] == use and f.calc is not None]

    def seconds(self, n_atoms: int) -> float | None:
        """Shortest time of the teacher for a structure of this size, when the machine did nothing else; None
        if there was none."""
        return min((f.info["seconds"] for f in self.frames if len(f) == n_atoms), default=None)

    def close(self) -> None:
        self._writer.close()


class Teacher(Calculator):
    """A calculator whose answers are labels: kept, counted, never asked for twice.

    Args:
        calculator: any ASE calculator with energy and forces.
        labels: what it said before.
        limit: most calls, those before included.

    Raises:
        BudgetSpentError: on a call beyond the limit.
        NumericsError: on a structure for which the calculator failed, or gave what is not finite.
    """

    def __init__(self, calculator: Calculator, labels: Labels, limit: int):
        super().__init__()
        self.calculator, self.labels, self.limit = calculator, labels, limit
        known = calculator.implemented_properties
        self.implemented_properties = [name for name in ("energy", "forces", "stress") if name in known]
        # With smeared electrons the forces are those of the free energy.
        self._energy = "free_energy" if "free_energy" in known else "energy"
        self._purpose = {"use": "reference", "config_type": "reference"}

    @contextmanager
    def asked_for(self, use: str, kind: str, limit: int) -> Iterator[None]:
        """Within the block calls are labels of this use and kind, and end at this limit."""
        before = self._purpose, self.limit
        self._purpose, self.limit = {"use": use, "config_type": kind}, min(limit, self.limit)
        try:
            yield
        finally:
            self._purpose, self.limit = before

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # ASE keeps a copy
        self.results = {}
        frame = self.labels.find(self.atoms) or self._ask(self.atoms)
        if frame.calc is None:
            raise NumericsError(f"structure: the teacher failed ({frame.info['failure']})")
        self.results = dict(frame.calc.results)

    def _ask(self, atoms: ase.Atoms) -> ase.Atoms:
        if len(self.labels) >= self.limit:
            raise BudgetSpentError
        frame = ase.Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        frame.info = dict(self._purpose)
        # What it remembers (a neighbour list) would change the last bits after a resume.
        if hasattr(self.calculator, "reset"):
            self.calculator.reset()
        asked = [n for n in self.implemented_properties if n != "stress" or has_stress(frame)]
        started = time.perf_counter()
        try:
            results = {n: self._value(n, frame) for n in asked}
        except (CalculatorError, NumericsError) as error:
            frame.info["failure"] = " ".join(str(error).split()) or type(error).__name__
        else:
            frame.calc = SinglePointCalculator(frame, **results)
        frame.info["seconds"] = time.perf_counter() - started
        self.labels.add(frame)
        return frame

    def _value(self, name: str, frame: ase.Atoms) -> float | np.ndarray:
        value = self.calculator.get_property(self._energy if name == "energy" else name, frame)
        if not np.isfinite(value).all():
            raise NumericsError(f"{name} is not finite")
        if name == "stress" and np.shape(value) == (3, 3):  # as some calculators give it
            value = full_3x3_to_voigt_6_stress(value)
        # Python floats and double precision, so that what is read back is what was written.
        return float(value) if name == "energy" else np.array(value, dtype=float)


def label(teacher: Teacher, frames: Sequence[ase.Atoms], use: str, limit: int) -> int:
    """Have frames labelled until the limit; each by its ``info["config_type"]``. Returns how many were.

    A structure for which the teacher fails counts, and is left out.
    """
    done = 0
    for frame in frames:
        with teacher.asked_for(use, frame.info.get("config_type", use), limit):
            try:
                teacher.get_property("energy", frame)
            except BudgetSpentError:
                break
            except NumericsError:
                continue
        done += 1
    return done


def _digest(atoms: ase.Atoms) -> bytes:
    content = hashlib.sha256()
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        content.update(np.ascontiguousarray(array).tobytes())
    return content.digest()
