"""Quantities that models predict, data label and tables show, with shape, unit and symmetry said once.

Data sets, models, losses, checkpoints, the calculator and tables iterate over quantities. A model that
predicts something new declares a ``Quantity`` of its own; nothing else needs to know its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from .errors import ConfigError, did_you_mean
from .units import GPA

Rotation = Literal["invariant", "vector", "tensor"]


@dataclass(frozen=True)
class Quantity:
    """One number or array per atom or per structure, or a class.

    Attributes:
        name: key in a model's dict and among the labels of a structure, such as ``"magmoms"``.
        per_atom: whether every atom has one, ``(N, *shape)``; otherwise the structure has one, ``shape``.
        shape: of one value: () a number, (3,) a vector, (3, 3) a tensor.
        unit: as tables and files show it; empty for a pure number.
        ase_name: what ASE's calculators call it; None if ASE has no name for it.
        rotation: how it changes when the structure is rotated: not at all, as a vector, or as a tensor.
        extensive: whether it grows with the size of the structure; errors are then divided by the number of
            atoms.
        additive: whether it follows from the energy, so that the values of the terms of a sum add up.
        scale: error that counts as one in a loss, in ``unit`` (per atom if extensive); None: the standard
            deviation of the training labels.
        header: short form for the head of a column; by default the name.
        display: unit in which tables show errors, and the factor that leads to it.
        stored_names: other names by which data files store it.
        metric: what the names of metrics begin with, as ``forces`` in ``forces_mae``; by default the name.
        classes: names of the classes in the order of their indices, if it is one of these; a model then
            predicts a score for each, (C,).
    """

    name: str
    per_atom: bool = False
    shape: tuple[int, ...] = ()
    unit: str = ""
    ase_name: str | None = None
    rotation: Rotation = "invariant"
    extensive: bool = False
    additive: bool = False
    scale: float | None = None
    header: str = ""
    display: tuple[str, float] | None = None
    stored_names: tuple[str, ...] = ()
    metric: str = ""
    classes: tuple[str, ...] | None = None

    def array_shape(self, n_atoms: int) -> tuple[int, ...]:
        """Shape of the whole array for a structure of ``n_atoms`` atoms."""
        return (n_atoms, *self.shape) if self.per_atom else self.shape

    @property
    def title(self) -> str:
        """What stands at the head of a column."""
        return self.header or self.name

    @property
    def key(self) -> str:
        """What the names of its metrics begin with."""
        return self.metric or self.name

    @property
    def error_unit(self) -> str:
        """Unit of an error of one value, as ``"eV/atom"`` of an extensive quantity in eV."""
        return f"{self.unit or '1'}/atom" if self.extensive else self.unit

    @property
    def error_display(self) -> tuple[str, float]:
        """Unit in which tables show errors, and the factor that leads to it."""
        return self.display or (self.error_unit, 1.0)

    @property
    def value_display(self) -> tuple[str, float]:
        """The same of values, of which no thousandths are shown."""
        unit, factor = self.error_display
        return (self.error_unit, 1.0) if factor == 1e3 else (unit, factor)

    def described(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON; ``from_description`` reads it."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        plain = {name: value for name, (value, default) in values.items() if value != default}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}


def from_description(described: Mapping[str, Any]) -> Quantity:
    """The inverse of ``Quantity.described``.

    Raises:
        ConfigError: it describes no quantity.
    """
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in described.items()}
    shape = values.get("shape", ())
    sound = isinstance(values.get("name"), str) and isinstance(shape, tuple)
    sound &= values.keys() <= {field.name for field in fields(Quantity)}
    if not sound or not all(type(n) is int and n > 0 for n in shape):
        raise ConfigError(f"outputs: {dict(described)!r} describes no quantity; expected a name and a shape")
    return Quantity(**values)


STANDARD = (
    Quantity(
        "total_energy",
        unit="eV",
        ase_name="energy",
        extensive=True,
        additive=True,
        scale=0.01,
        header="E",
        display=("meV/atom", 1e3),
        stored_names=("energy",),
        metric="energy",
    ),
    Quantity(
        "energies", per_atom=True, unit="eV", ase_name="energies", additive=True, scale=0.01, header="E_i"
    ),
    Quantity(
        "forces",
        per_atom=True,
        shape=(3,),
        unit="eV/Å",
        ase_name="forces",
        rotation="vector",
        additive=True,
        scale=1.0,
        header="F",
        display=("meV/Å", 1e3),
    ),
    Quantity(
        "stress",
        shape=(3, 3),
        unit="eV/Å^3",
        ase_name="stress",
        rotation="tensor",
        additive=True,
        scale=0.0025,
        header="σ",
        display=("GPa", 1 / GPA),
    ),
    Quantity(
        "virials",
        per_atom=True,
        shape=(3, 3),
        unit="eV",
        ase_name="virials",
        rotation="tensor",
        additive=True,
        header="W",
    ),
    Quantity(
        "charges",
        per_atom=True,
        unit="e",
        ase_name="charges",
        scale=0.05,
        header="q",
        display=("me", 1e3),
    ),
    Quantity(
        "magmoms",
        per_atom=True,
        unit="μ_B",
        ase_name="magmoms",
        scale=0.1,
        header="m",
        display=("mμ_B", 1e3),
        stored_names=("magnetic_moments",),
    ),
    Quantity("dipole", shape=(3,), unit="e·Å", ase_name="dipole", rotation="vector", scale=0.1, header="d"),
    Quantity(
        "born_charges",
        per_atom=True,
        shape=(3, 3),
        unit="e",
        ase_name="born_effective_charges",
        rotation="tensor",
        scale=0.1,
        header="Z*",
    ),
    Quantity("energy_std", unit="eV", ase_name="energy_std", extensive=True, header="E std"),
    Quantity("forces_std", per_atom=True, unit="eV/Å", ase_name="forces_std", header="F std"),
    Quantity("extrapolation", per_atom=True, header="γ"),
)
QUANTITIES = {quantity.name: quantity for quantity in STANDARD}
# What a potential returns, and what data label of it.
FORCE_FIELD = tuple(QUANTITIES[name] for name in ("total_energy", "energies", "forces", "stress"))
LABELLED = tuple(QUANTITIES[name] for name in ("total_energy", "forces", "stress"))


def quantity(name: str) -> Quantity:
    """The standard quantity of this name.

    Raises:
        ConfigError: there is none, with the nearest name.
    """
    if name not in QUANTITIES:
        raise ConfigError(
            f"{name}: is no standard quantity; expected one of {', '.join(QUANTITIES)}"
            f"{did_you_mean(name, QUANTITIES)}, or declare a Quantity of your own"
        )
    return QUANTITIES[name]


def further(outputs: Iterable[Quantity]) -> tuple[Quantity, ...]:
    """Of what a model returns, the quantities that do not follow from its energies."""
    derived = {*names_of(FORCE_FIELD), "virials"}
    return tuple(output for output in outputs if output.name not in derived)


def names_of(quantities: Iterable[Quantity]) -> tuple[str, ...]:
    """Names in order."""
    return tuple(quantity.name for quantity in quantities)
