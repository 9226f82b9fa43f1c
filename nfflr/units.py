"""Units as annotations on typed fields, and the few conversions the package needs.

Everything inside is eV, Å, eV/Å, eV/Å³, fs, K; the command line speaks GPa for pressures and moduli.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ase.units

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
