"""A calculator whose process dies, or takes its time, at structures that a test marks."""

import os
import signal
import time
from pathlib import Path

from ase.calculators.emt import EMT


class Dying(EMT):
    """EMT; kills its process at a cell that begins with ``deadly`` (Å) unless a file ``spared`` is there.

    With ``slow`` it leaves its process number in ``folder`` and then sleeps that many seconds a step.
    """

    def __init__(self, folder, deadly=0.0, slow=0.0):
        super().__init__()
        self.folder, self.deadly, self.slow = Path(folder), deadly, slow

    def calculate(self, atoms=None, *args, **kwargs):
        if abs(atoms.cell[0, 0] - self.deadly) < 1e-6 and not (self.folder / "spared").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.slow:
            (self.folder / f"{os.getpid()}.pid").touch()
            time.sleep(self.slow)
        super().calculate(atoms, *args, **kwargs)
