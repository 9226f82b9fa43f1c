"""Units as annotations on typed fields, and the few conversions the package needs.

Everything inside is eV, Å, eV/Å, eV/Å³, fs, K; the command line speaks GPa for pressures and moduli.
"""

import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ase.units

from .errors import ConfigError, did_you_mean

if TYPE_CHECKING:  # nothing else here needs pydantic
    from pydantic.fields import FieldInfo

GPA = ase.units.GPa  # eV/Å³ per GPa


@dataclass(frozen=True)
class Unit:
    """Marks a settings or result field with its unit: ``fmax: Annotated[float, Unit("eV/Å")]``."""

    symbol: str

    def __str__(self) -> str:
        return self.symbol


def unit_of(field: "FieldInfo") -> str | None:
    """Return the unit of a pydantic field (``Model.model_fields[name]``), or None if it has none."""
    return next((item.symbol for item in field.metadata if isinstance(item, Unit)), None)


def plain_type(annotation: typing.Any) -> typing.Any:
    """An annotation without ``None`` and ``Annotated``: ``int`` of ``Annotated[int, ...] | None``."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain_type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return plain_type(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


# Factor to eV, Å and their powers by ASE's constants, and the powers of energy and length.
NAMES: dict[str, tuple[float, tuple[int, int]]] = {
    **{name: (float(ase.units.__dict__[name]), (1, 0)) for name in ("eV", "kJ", "kcal", "Hartree", "Ry")},
    **{"meV": (1e-3, (1, 0)), "J": (ase.units.J, (1, 0)), "Ha": (ase.units.Hartree, (1, 0))},
    **{name: (1.0, (0, 1)) for name in ("Å", "A", "Ang", "Angstrom")},
    **{"nm": (ase.units.nm, (0, 1)), "Bohr": (ase.units.Bohr, (0, 1)), "pm": (0.01, (0, 1))},
    **{"GPa": (GPA, (1, -3)), "Pa": (ase.units.Pascal, (1, -3)), "bar": (ase.units.bar, (1, -3))},
    **{"kbar": (1000 * ase.units.bar, (1, -3)), "mol": (ase.units.mol, (0, 0)), "1": (1.0, (0, 0))},
}
KINDS = {"energy": (1, 0), "length": (0, 1), "forces": (1, -1), "stress": (1, -3), "virial": (1, 0)}
EXAMPLES = {
    "energy": "eV or kcal/mol",
    "length": "Å or Bohr",
    "forces": "eV/Å or Hartree/Bohr",
    "stress": "eV/Å^3 or GPa",
    "virial": "eV or Hartree",
}


def factor(symbol: str, kind: str) -> float:
    """What a number in the unit ``symbol`` has to be multiplied with to be in eV, Å, eV/Å or eV/Å³.

    Args:
        symbol: names of units with ``*``, ``/`` and whole powers, as ``"kcal/mol/Å"`` or ``"Ha/Bohr^3"``.
        kind: a key of ``KINDS``.

    Raises:
        ConfigError: a name is not known, or the unit is not one of that kind.

    Example:
        >>> round(factor("kcal/mol", "energy"), 6)
        0.043364
    """
    value, powers = 1.0, (0, 0)
    for k, quotient in enumerate(symbol.replace(" ", "").replace("**", "^").replace("³", "^3").split("/")):
        for part in quotient.split("*"):
            name, _, power = part.partition("^")
            if name not in NAMES or not (power or "1").lstrip("-").isdigit():
                raise ConfigError(
                    f"units: {kind} in {symbol!r}: {part!r} is no known unit; expected products of "
                    f"{', '.join(NAMES)}{did_you_mean(name, NAMES)}"
                )
            exponent = int(power or 1) * (-1 if k else 1)
            value *= NAMES[name][0] ** exponent
            powers = (powers[0] + exponent * NAMES[name][1][0], powers[1] + exponent * NAMES[name][1][1])
    if powers != KINDS[kind]:
        raise ConfigError(f"units: {symbol!r} is no unit of {kind}; expected one as {EXAMPLES[kind]}")
    return value
