"""Tables as CSV."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from ..storage.files import write_atomically
from ..workflows.framework.interface import Table


def write_table(path: Path, table: Table) -> None:
    """One header line with units, then rows; a value that is not there is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for row in zip(*(column.tolist() for column in table.columns.values()), strict=True):
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
    write_atomically(path, text.getvalue().encode())
