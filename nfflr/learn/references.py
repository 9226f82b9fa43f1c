"""What the teacher says about phonons, equation of state, elasticity and structure: an ordinary suite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import ase
import numpy as np
import yaml

from ..errors import NFFLrError, is_lack_of_resources
from ..notes import quiet
from ..storage.files import claim_folder, write_atomically, write_json
from ..structures.readers import read_structure
from ..validation.reading import FILE, read_suite
from ..validation.suite import BudgetSpentError, Suite
from ..workflows.framework.contract import find_workflow, result_record
from ..workflows.framework.interface import Settings
from ..workflows.lattice.harmonic import displaced, supercells
from ..workflows.lattice.supercells import supercell_matrix
from ..workflows.phonon_dispersion import PhononsSettings
from ..workflows.relaxation import RelaxSettings, relax
from .distill_settings import DistillSettings
from .sampling import rattled
from .stored_labels import Teacher
from .students import write_frames
from .walks import timestep

LEFT_OUT = "left-out.json"  # tasks without a reference, and why; written last
FMAX = 1e-3  # eV/Å; what calculators in single precision still reach


def supercells_of(cells: Mapping[str, ase.Atoms], settings: DistillSettings) -> dict[str, ase.Atoms]:
    """The supercell of each structure; of one with an open axis the structure itself."""
    return {name: atoms.repeat(_repeats(atoms, settings)) for name, atoms in cells.items()}


def _repeats(atoms: ase.Atoms, settings: DistillSettings) -> tuple[int, int, int]:
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        return (1, 1, 1)
    if settings.supercell is not None:
        return settings.supercell
    chosen = PhononsSettings(supercell_length=settings.supercell_length)
    a, b, c = np.diag(supercell_matrix(atoms, chosen))
    return int(a), int(b), int(c)


def relaxed(
    cells: Mapping[str, ase.Atoms], teacher: Teacher, settings: DistillSettings
) -> dict[str, ase.Atoms]:
    """The structures at the teacher's minimum, as far as half of the references' budget carries."""
    found = {name: atoms.copy() for name, atoms in cells.items()}
    for name, atoms in cells.items() if settings.relax else ():
        crystal = bool(atoms.pbc.all()) and "stress" in teacher.implemented_properties
        options = RelaxSettings(fmax=FMAX, steps=100, optimizer="bfgs", cell=crystal, symmetry=crystal)
        last: list[ase.Atoms] = []

        def note(
            step: int, total: int, numbers: dict[str, float], atoms: ase.Atoms, last: list[ase.Atoms] = last
        ) -> None:
            last[:] = [atoms.copy()]

        asking = teacher.asked_for("reference", "relaxation", settings.references // 2)
        with asking, suppress(BudgetSpentError):
            relax(atoms, teacher, options, note)
        found[name] = last[0] if last else found[name]
        found[name].set_constraint()
    return found


def make_suite(
    folder: Path, cells: Mapping[str, ase.Atoms], teacher: Teacher, settings: DistillSettings
) -> tuple[Suite | None, dict[str, str]]:
    """The suite of a folder, written now unless it is there, and why tasks were left out.

    A task is left out where the teacher fails, or would be asked more than ``settings.references`` in all.
    A lack of memory or disk ends the run instead: a resumed one has every task.
    """
    claim_folder(folder)
    if not (folder / LEFT_OUT).exists():
        entries, notes = [], {}
        for name, atoms in cells.items():
            suffix = "" if len(cells) == 1 else f"-{name}"
            for entry, structure in _entries(atoms, teacher, settings):
                entry["name"] += suffix
                reason = _compute(folder, entry, structure, teacher, settings)
                if reason:
                    notes[entry["name"]] = reason
                else:
                    entries.append(entry)
        if entries:
            text = yaml.safe_dump(
                {"description": "What the teacher says.", "tasks": entries}, sort_keys=False
            )
            write_atomically(folder / FILE, text.encode())
        write_json(folder / LEFT_OUT, notes)
    notes = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
    return (read_suite(folder) if (folder / FILE).exists() else None), notes


def _entries(atoms: ase.Atoms, teacher: Teacher, settings: DistillSettings) -> list[tuple[dict, ase.Atoms]]:
    """Tasks that make sense for a structure, cheap ones first."""
    repeats, entries = list(_repeats(atoms, settings)), []
    stress = "stress" in teacher.implemented_properties
    if atoms.pbc.all():
        lattice = {"supercell": repeats, "relax": "cell" if stress else "positions", "fmax": FMAX}
        lattice |= {"band_points": 21, "t_step": 100.0, "displacement": settings.displacement}
        limits = {"frequency_mae": settings.phonon_limit}
        entries.append(({"name": "phonons", "settings": lattice, "limits": limits}, atoms))
        entries.append(({"name": "eos", "settings": {"points": 7}}, atoms))
    if atoms.pbc.all() and stress:
        options = {"internal": False, "points": 2, "relax": True, "fmax": FMAX}
        entries.append(({"name": "elastic", "settings": options}, atoms))
    if settings.md_reference and atoms.pbc.all():
        start = rattled(atoms.repeat(repeats), 3, settings.temperature, np.random.default_rng(settings.seed))
        hot = {"temperature": settings.temperature, "timestep": timestep(atoms), "interval": 1}
        hot |= {"steps": settings.md_reference, "thermostat_time": 50.0, "melting": False}
        entries.append(({"name": "md", "settings": hot, "scores": ["rdf_mae"]}, start[-1]))
    return [({**entry, "workflow": entry["name"]}, structure) for entry, structure in entries]


def _compute(
    folder: Path, entry: dict, structure: ase.Atoms, teacher: Teacher, settings: DistillSettings
) -> str:
    """Write the structure and the teacher's result of a task; returns why there is none, or nothing."""
    workflow = find_workflow(entry["workflow"])
    options = workflow.settings.model_validate(entry["settings"])
    entry |= {"structure": f"{entry['name']}.xyz", "reference": f"{entry['name']}.json"}
    write_frames(folder / entry["structure"], [structure])
    atoms = read_structure(folder / entry["structure"])  # what others will read, to the last digit
    cost, left = _cost(entry["workflow"], atoms, options), settings.references - len(teacher.labels)
    if cost > left:
        return f"needs {cost} calls, {left} were left for references"
    with teacher.asked_for("reference", f"reference-{entry['workflow']}", settings.references):
        teacher.reset()
        try:
            with quiet():
                result = workflow.function(atoms, teacher, options)
        except BudgetSpentError:
            return f"needs more than the {settings.references} calls for references"
        except Exception as error:  # other libraries object in their own ways to what they are given
            if is_lack_of_resources(error):
                raise
            if isinstance(error, NFFLrError):
                return str(error)
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if not result.converged:
        return result.message
    record = {"workflow": workflow.name, "settings": options.model_dump(mode="json")}
    record |= {"source": "the teacher", **result_record(result)}
    write_json(folder / entry["reference"], record)
    return ""


def _cost(workflow: str, atoms: ase.Atoms, options: Settings) -> int:
    """Calls that a task takes at least."""
    if isinstance(options, PhononsSettings):
        return len(supercells(displaced(atoms, supercell_matrix(atoms, options), options)))
    return {"eos": 7, "elastic": 9, "md": getattr(options, "steps", 0) + 1}[workflow]
