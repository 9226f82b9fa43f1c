"""The teacher, whose labels are all kept on disk, and a validation suite with references by the teacher."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import ase
import numpy as np
import yaml
from ase.calculators.calculator import Calculator, CalculatorError, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

from ..adapters.foreign_calculator import as_voigt
from ..errors import NFFLrError, NumericsError, is_lack_of_resources
from ..notes import quiet
from ..quantities import LABELLED
from ..storage.archives import FrameWriter, StoredFrames, write_trajectory
from ..storage.files import claim_folder, write_atomically, write_json
from ..storage.sealed import Record
from ..structures.readers import read_structure
from ..validation.reading import FILE as SUITE
from ..validation.reading import SuiteRecord, read_suite
from ..validation.suite import BudgetSpentError, Suite
from ..workflows.framework.contract import find_workflow
from ..workflows.framework.interface import Settings, has_stress
from ..workflows.framework.results import result_record
from ..workflows.lattice.harmonic import displaced, supercells
from ..workflows.lattice.supercells import supercell_matrix
from ..workflows.phonon_dispersion import PhononsSettings
from ..workflows.relaxation import RelaxSettings, relax
from . import DistillSettings
from .sampling import rattled, timestep
from .students import write_frames

LABELS = "labels.traj"
LEFT_OUT = "left-out.json"
FMAX = 1e-3  # eV/Å; what calculators in single precision still reach


class LeftOut(Record):
    """``left-out.json``: the tasks of a suite without a reference, and why; written last."""

    kind: ClassVar[str] = "the left-out.json of nff distill"

    version: int = 2
    tasks: dict[str, str]


class Labels:
    """Labelled structures in the order of the calls, each on the disk before the next call.

    A frame's ``info`` holds its purpose (``use``: train, test or reference), its origin (``config_type``) and
    the time of the call (``seconds``). A frame without results is a call that failed.

    Args:
        path: an ASE trajectory, which keeps every bit.
    """

    def __init__(self, path: Path):
        self.frames: list[ase.Atoms] = list(StoredFrames(path))
        if path.exists():  # drop the half frame that a killed writer may have left
            write_trajectory(path, self.frames) if self.frames else path.unlink()
        self._by_digest = {_digest(frame): frame for frame in self.frames}
        self._writer = FrameWriter(path)

    def __len__(self) -> int:
        return len(self.frames)

    def find(self, atoms: ase.Atoms) -> ase.Atoms | None:
        """The labelled structure of the very same geometry."""
        return self._by_digest.get(_digest(atoms))

    def add(self, frame: ase.Atoms) -> None:
        """Write a frame to the disk."""
        self._writer.write(frame)
        self._writer.flush()
        self.frames.append(frame)
        self._by_digest[_digest(frame)] = frame

    def used_for(self, use: str) -> list[ase.Atoms]:
        """Frames with results for this use."""
        return [f for f in self.frames if f.info["use"] == use and f.calc is not None]

    def seconds(self, n_atoms: int) -> float | None:
        """Shortest time of the teacher for a structure of this size, or None."""
        return min((f.info["seconds"] for f in self.frames if len(f) == n_atoms), default=None)

    def close(self) -> None:
        self._writer.close()


class Teacher(Calculator):
    """A calculator whose results are kept as labels, so that no structure is computed twice.

    Args:
        calculator: any ASE calculator with energy and forces.
        labels: its earlier results, and where new ones go.
        limit: most calls, with those of earlier runs.

    Raises:
        BudgetSpentError: on a call beyond the limit.
        NumericsError: the calculator failed, or its results are not finite.
    """

    def __init__(self, calculator: Calculator, labels: Labels, limit: int):
        super().__init__()
        self.calculator, self.labels, self.limit = calculator, labels, limit
        offered = calculator.implemented_properties
        names = [quantity.ase_name for quantity in LABELLED]
        self.implemented_properties = [name for name in names if name in offered]
        # With smeared electrons the forces are those of the free energy.
        self._energy = "free_energy" if "free_energy" in offered else "energy"
        self._purpose = {"use": "reference", "config_type": "reference"}

    @contextmanager
    def asked_for(self, use: str, kind: str, limit: int) -> Iterator[None]:
        """Within the block, calls make labels of this use and kind, up to this limit."""
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
        # A kept neighbour list would change the last bits after a resume.
        if hasattr(self.calculator, "reset"):
            self.calculator.reset()
        names = [n for n in self.implemented_properties if n != "stress" or has_stress(frame)]
        started = time.perf_counter()
        try:
            results = {name: self._value(name, frame) for name in names}
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
        if name == "stress":
            value = as_voigt(value)
        # The trajectory keeps Python floats and double precision to the last bit.
        return float(value) if name == "energy" else np.array(value, dtype=float)


def label(teacher: Teacher, frames: Sequence[ase.Atoms], use: str, limit: int) -> int:
    """Label frames up to the limit, each as its ``info["config_type"]``; returns how many succeeded."""
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
    arrays = atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()


def supercells_of(cells: Mapping[str, ase.Atoms], settings: DistillSettings) -> dict[str, ase.Atoms]:
    """The supercell of each structure; of one with an open axis the structure itself."""
    return {name: atoms.repeat(_repeats(atoms, settings)) for name, atoms in cells.items()}


def _repeats(atoms: ase.Atoms, settings: DistillSettings) -> tuple[int, int, int]:
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        return (1, 1, 1)
    if settings.supercell is not None:
        return settings.supercell
    options = PhononsSettings(supercell_length=settings.supercell_length)
    a, b, c = np.diag(supercell_matrix(atoms, options))
    return int(a), int(b), int(c)


def relaxed(
    cells: Mapping[str, ase.Atoms], teacher: Teacher, settings: DistillSettings
) -> dict[str, ase.Atoms]:
    """The structures at the teacher's minimum, or where half of the references' budget was spent."""
    minima = {name: atoms.copy() for name, atoms in cells.items()}
    for name, atoms in cells.items() if settings.relax else ():
        crystal = bool(atoms.pbc.all()) and "stress" in teacher.implemented_properties
        options = RelaxSettings(fmax=FMAX, steps=100, optimizer="bfgs", cell=crystal, symmetry=crystal)

        def keep(
            step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms, name: str = name
        ) -> None:
            minima[name] = atoms.copy()  # the last step, where the budget ends a relaxation

        asking = teacher.asked_for("reference", "relaxation", settings.references // 2)
        with asking, suppress(BudgetSpentError):
            relax(atoms, teacher, options, keep)
        minima[name].set_constraint()
    return minima


def make_suite(
    folder: Path, cells: Mapping[str, ase.Atoms], teacher: Teacher, settings: DistillSettings
) -> tuple[Suite | None, dict[str, str]]:
    """The suite in a folder, written unless it exists, and why tasks were left out.

    A task is left out where the teacher fails, or where the calls would be more than ``settings.references``.
    A lack of memory or disk ends the run instead, since a resumed run can have every task.
    """
    claim_folder(folder)
    if not (folder / LEFT_OUT).exists():
        entries, reasons = [], {}
        for name, atoms in cells.items():
            suffix = "" if len(cells) == 1 else f"-{name}"
            for entry, structure in _entries(atoms, teacher, settings):
                entry["name"] += suffix
                reason = _compute(folder, entry, structure, teacher, settings)
                if reason:
                    reasons[entry["name"]] = reason
                else:
                    entries.append(entry)
        if entries:
            version = SuiteRecord.model_fields["version"].default
            content = {"version": version, "description": "What the teacher says.", "tasks": entries}
            write_atomically(folder / SUITE, yaml.safe_dump(content, sort_keys=False).encode())
        LeftOut(tasks=reasons).write(folder / LEFT_OUT)
    left_out = LeftOut.read(folder / LEFT_OUT).tasks
    return (read_suite(folder) if (folder / SUITE).exists() else None), left_out


def _entries(atoms: ase.Atoms, teacher: Teacher, settings: DistillSettings) -> list[tuple[dict, ase.Atoms]]:
    """Tasks that make sense for a structure, cheap ones first."""
    if not atoms.pbc.all():
        return []
    repeats, entries = list(_repeats(atoms, settings)), []
    stress = "stress" in teacher.implemented_properties
    lattice = {"supercell": repeats, "relax": "cell" if stress else "positions", "fmax": FMAX}
    lattice |= {"band_points": 21, "t_step": 100.0, "displacement": settings.displacement}
    limits = {"frequency_mae": settings.phonon_limit}
    entries.append(({"name": "phonons", "settings": lattice, "limits": limits}, atoms))
    entries.append(({"name": "eos", "settings": {"points": 7}}, atoms))
    if stress:
        options = {"internal": False, "points": 2, "relax": True, "fmax": FMAX}
        entries.append(({"name": "elastic", "settings": options}, atoms))
    if settings.md_reference:
        start = rattled(atoms.repeat(repeats), 3, settings.temperature, np.random.default_rng(settings.seed))
        hot = {"temperature": settings.temperature, "timestep": timestep(atoms), "interval": 1}
        hot |= {"steps": settings.md_reference, "thermostat_time": 50.0, "melting": False}
        entries.append(({"name": "md", "settings": hot, "scores": ["rdf_mae"]}, start[-1]))
    return [({**entry, "workflow": entry["name"]}, structure) for entry, structure in entries]


def _compute(
    folder: Path, entry: dict, structure: ase.Atoms, teacher: Teacher, settings: DistillSettings
) -> str:
    """Write the structure and the teacher's result of a task; returns why there is none, or ""."""
    workflow = find_workflow(entry["workflow"])
    options = workflow.settings.model_validate(entry["settings"])
    entry |= {"structure": f"{entry['name']}.xyz", "reference": f"{entry['name']}.json"}
    write_frames(folder / entry["structure"], [structure])
    atoms = read_structure(folder / entry["structure"])  # with the digits that the suite will have
    cost, budget = _cost(entry["workflow"], atoms, options), settings.references - len(teacher.labels)
    if cost > budget:
        return f"needs {cost} calls, {budget} were left for references"
    with teacher.asked_for("reference", f"reference-{entry['workflow']}", settings.references):
        teacher.reset()
        try:
            with quiet():
                result = workflow.function(atoms, teacher, options)
        except BudgetSpentError:
            return f"needs more than the {settings.references} calls for references"
        except Exception as error:  # of any library below
            if is_lack_of_resources(error):
                raise
            name = "" if isinstance(error, NFFLrError) else f"{type(error).__name__}: "
            return name + " ".join(str(error).split())
    if not result.converged:
        return result.message
    record = {"workflow": workflow.name, "settings": options.model_dump(mode="json")}
    record |= {"source": "the teacher", **result_record(result)}
    write_json(folder / entry["reference"], record)
    return ""


def _cost(workflow: str, atoms: ase.Atoms, options: Settings) -> int:
    """Least number of calls of a task."""
    if isinstance(options, PhononsSettings):
        return len(supercells(displaced(atoms, supercell_matrix(atoms, options), options)))
    return {"eos": 7, "elastic": 9, "md": getattr(options, "steps", 0) + 1}[workflow]
