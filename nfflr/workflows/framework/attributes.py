"""Rules of workflows for attributes of structures: the one table of them.

Seven things come with structures: fixed atoms, atoms fixed along some directions, other constraints, masses,
initial charges, initial magnetic moments, and velocities. For each, a workflow has one of three rules:

- *kept*: it goes along with the atoms, to the calculator, into supercells and into the structures of the
  result, and it acts where physics depends on it;
- *dropped*: the workflow goes on without it, and a note says so;
- *refused*: the workflow does not start.

Forces are raw, as if nothing were constrained, wherever they leave the program (``nff energy``,
``nff serve``), are differentiated (force constants, stress), compared (``nff check``) or learned from
(labels). Constraints act in two places alone: an optimiser and an integrator.

``RULES`` holds the rules of this package. A workflow of your own states its rule in its own file, as a
constant ``ATTRIBUTES = Rule(...)``; one that states nothing has ``DEFAULT``, which refuses constraints.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import ase
import numpy as np
from ase.data import atomic_masses

from ...errors import StructureError
from ...notes import note
from ...structures.constraints import Kind, held_atoms, kind_of, listed, with_sound_constraints

FAR = 2.0  # kept velocities that are hotter or colder than the target by more than this factor get a note


@dataclass(frozen=True)
class Treatment:
    """The treatment of one thing that a structure carries; the reason is a clause that follows a colon.

    If the workflow's setting named ``setting`` is true, it is kept all the same, and must be there.
    """

    word: Literal["kept", "dropped", "refused"]
    reason: str = ""
    setting: str = ""


KEPT = Treatment("kept")


@dataclass(frozen=True)
class Rule:
    """A treatment for each of the seven things."""

    fixed: Treatment = KEPT
    partly_fixed: Treatment = KEPT
    other_constraints: Treatment = KEPT
    masses: Treatment = KEPT
    charges: Treatment = KEPT
    magnetic_moments: Treatment = KEPT
    velocities: Treatment = KEPT


def _constraints(treatment: Treatment, **others: Treatment) -> Rule:
    return Rule(fixed=treatment, partly_fixed=treatment, other_constraints=treatment, **others)


def _lattice(what: str) -> Rule:
    free = Treatment("dropped", f"{what} need the forces on every atom")
    bare = Treatment("dropped", "displaced supercells have species, positions and masses alone")
    at_rest = Treatment("dropped", "displacements are made from atoms at rest")
    return _constraints(free, charges=bare, magnetic_moments=bare, velocities=at_rest)


_CUT = Treatment("dropped", "slabs are cut anew, from the species and positions of the primitive cell")

RULES: dict[str, Rule] = {
    "energy": _constraints(Treatment("dropped", "forces are those on all atoms")),
    "relax": Rule(),
    # Which constraints an integrator keeps depends on the ensemble: dynamics/ensembles.py refuses the others.
    "md": Rule(
        velocities=Treatment(
            "dropped",
            "random ones for --temperature take their place; use --keep-velocities to start with them",
            setting="keep_velocities",
        )
    ),
    "phonons": _lattice("phonons"),
    "qha": _lattice("phonons"),
    "gruneisen": _lattice("phonons"),
    "elastic": _constraints(Treatment("dropped", "the stress is that of a crystal whose atoms are all free")),
    "eos": _constraints(Treatment("dropped", "every atom scales with the volume")),
    "vacancy": _constraints(Treatment("dropped", "around a vacancy every atom relaxes")),
    "surface": Rule(*[_CUT] * len(fields(Rule))),
    # Both ends must agree in constraints and masses: reaction_path.py compares them.
    "neb": Rule(velocities=Treatment("dropped", "a path of least energy has none")),
}

DEFAULT = _constraints(
    Treatment(
        "refused", "this workflow does not say what it does with constraints (no ATTRIBUTES in its file)"
    )
)


@dataclass(frozen=True)
class _Attribute:
    """One of the seven: what a structure has of it in words, how to drop it, and what that means."""

    describe: Callable[[ase.Atoms], str]
    drop: Callable[[ase.Atoms], None]
    outcome: str


def _held(kind: Kind) -> _Attribute:
    def describe(atoms: ase.Atoms) -> str:
        indices = held_atoms(atoms, kind)
        return f"constraints of {kind} {listed(indices)}" if indices else ""

    return _Attribute(describe, lambda atoms: _drop_constraints(atoms, kind), "do not act")


def _drop_constraints(atoms: ase.Atoms, kind: Kind) -> None:
    atoms.set_constraint([c for c in atoms.constraints if kind_of(c) != kind])


def _other_constraints(atoms: ase.Atoms) -> str:
    names = sorted({type(c).__name__ for c in atoms.constraints if kind_of(c) == "other"})
    return f"constraints ({', '.join(names)})" if names else ""


def _array(name: str, words: str, differs: Callable[[ase.Atoms], np.ndarray]) -> _Attribute:
    """One that is an array of the structure; ``differs`` (N,) says for which atoms it says something."""

    def describe(atoms: ase.Atoms) -> str:
        own = differs(atoms) if atoms.has(name) else np.zeros(0, bool)
        return f"{words} of {listed(np.flatnonzero(own).tolist())}" if own.any() else ""

    def drop(atoms: ase.Atoms) -> None:
        del atoms.arrays[name]

    return _Attribute(describe, drop, "are dropped")


def _nonzero(name: str) -> Callable[[ase.Atoms], np.ndarray]:
    return lambda atoms: (atoms.arrays[name] != 0).reshape(len(atoms), -1).any(axis=1)


_ATTRIBUTES: dict[str, _Attribute] = {  # by the field of a rule
    "fixed": _held("fixed"),
    "partly_fixed": _held("partly fixed"),
    "other_constraints": _Attribute(
        _other_constraints, lambda atoms: _drop_constraints(atoms, "other"), "do not act"
    ),
    "masses": _array(
        "masses",
        "own masses",
        lambda atoms: ~np.isclose(atoms.get_masses(), atomic_masses[atoms.numbers], rtol=1e-3, atol=0),
    ),
    "charges": _array("initial_charges", "initial charges", _nonzero("initial_charges")),
    "magnetic_moments": _array("initial_magmoms", "initial magnetic moments", _nonzero("initial_magmoms")),
    "velocities": _array("momenta", "velocities", _nonzero("momenta")),
}


def apply_rule(rule: Rule, atoms: ase.Atoms, settings: object, name: str = "structure") -> ase.Atoms:
    """A structure as the rule lets it into a workflow; itself where nothing changes.

    Fractional coordinates that are kept fixed become ``FixFractional``: ASE's constraint holds in upright
    cells alone. Applied again it changes nothing and says nothing, so that the command line can apply it with
    the name of a file before the workflow's function does. What is refused is a ``StructureError``.
    """
    result = atoms
    for field, attribute in _ATTRIBUTES.items():
        treatment: Treatment = getattr(rule, field)
        description = attribute.describe(result)
        if treatment.setting and getattr(settings, treatment.setting, False):
            _check_kept(field, treatment, result, bool(description), settings, name)
        elif not description or treatment.word == "kept":
            continue
        elif treatment.word == "refused":
            raise StructureError(f"{name}: has {description}: {treatment.reason}; remove them")
        else:
            note(f"{name}: {description} {attribute.outcome}: {treatment.reason}")
            result = result.copy() if result is atoms else result
            attribute.drop(result)
    return with_sound_constraints(result)


def _check_kept(
    field: str, treatment: Treatment, atoms: ase.Atoms, present: bool, settings: object, name: str
) -> None:
    """See that there is what a setting wants kept, and that velocities suit the thermostat."""
    words = field.replace("_", " ")
    if not present:
        raise StructureError(
            f"{name}: has no {words} to keep; give a file that holds them (extended XYZ, .traj), "
            f"or leave --{treatment.setting.replace('_', '-')} out"
        )
    target = getattr(settings, "temperature", None)
    if field != "velocities" or not target or not getattr(settings, "has_thermostat", False):
        return
    temperature = float(atoms.get_temperature())
    if not target / FAR <= temperature <= target * FAR:
        note(f"{name}: its velocities are those of {temperature:.3g} K, --temperature is {target:g} K")


def without_constraints(atoms: ase.Atoms, name: str, reason: str) -> ase.Atoms:
    """A structure whose forces are raw, and a note if that took something away."""
    return apply_rule(_constraints(Treatment("dropped", reason)), atoms, None, name)


def rule_of(function: Callable) -> Rule:
    """The rule of a workflow's function: of this table, of the constant in its file, or the default."""
    stated = getattr(sys.modules.get(function.__module__), "ATTRIBUTES", None)
    return stated or RULES.get(function.__name__, DEFAULT)


def prepared(
    function: Callable, structures: Sequence[ase.Atoms], settings: object, names: Sequence[str]
) -> list[ase.Atoms]:
    """The structures of a workflow with its rule applied; notes and errors call them by ``names``."""
    rule = rule_of(function)
    return [apply_rule(rule, a, settings, name) for a, name in zip(structures, names, strict=True)]
