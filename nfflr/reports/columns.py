"""In which numbers errors are shown; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..units import GPA


@dataclass(frozen=True)
class Column:
    """A metric as people read it: ``value · factor`` in ``unit``."""

    key: str
    title: str
    unit: str = ""
    factor: float = 1.0
    panel: bool = True  # whether it has a place in the learning curve

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


# Of a force field.
COLUMNS = (
    Column("energy_mae", "E MAE", "meV/atom", 1e3),
    Column("energy_rmse", "E RMSE", "meV/atom", 1e3, panel=False),
    Column("forces_mae", "F MAE", "meV/Å", 1e3),
    Column("forces_rmse", "F RMSE", "meV/Å", 1e3, panel=False),
    Column("stress_mae", "σ MAE", "GPa", 1 / GPA),
    Column("stress_rmse", "σ RMSE", "GPa", 1 / GPA, panel=False),
)
