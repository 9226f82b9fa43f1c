# %% [markdown]
# # From a slow potential to a fast one
#
# A teacher, a universal potential or a first-principles code, is good and slow. For one material a fast potential can learn
# from a few of its calls. Which structures are worth a call? `nff distill` has a committee of small potentials find out:
# where they disagree, the teacher is asked.
#
# To keep this short the teacher is ASE's EMT for copper, as fast as it is; with `--teacher chgnet` or any
# `ase:module:Class` the command is the same.

# %%
import json
import shlex
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from nfflr import NFFLrCalculator
from nfflr.validation.reading import read_suite
from nfflr.workflows.eos import eos

write("cu.cif", bulk("Cu", cubic=True))

# %% [markdown]
# The budget bounds all calls of the teacher: for the relaxation and the references that the result is judged by (phonons,
# elastic constants, an equation of state), for training, and for the frames of molecular dynamics it is
# tested on. `--length` and `--walk-steps` make this a short run.

# %%
command = (
    "nff distill cu.cif --teacher ase:ase.calculators.emt:EMT --budget 60 --length 0.15 "
    "--md-reference 0 --supercell 2 2 2 --walk-steps 150 --no-compile --out student"
)
print(f"$ {command}")
subprocess.run(shlex.split(command), check=True)

record = json.loads(Path("student/distill.json").read_text())
print(f"{record['calls']} calls, force error {record['final']['force_error']:.1f} % of the rms force")
