# %% [markdown]
# # From a slow potential to a fast one
#
# A teacher, a universal potential or a first-principles code, is good and slow. For one material a fast
# potential can learn from a few of its calls. Which structures are worth a call? `nff distill` has a
# committee of small potentials find out: where they disagree, the teacher is asked.
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
from nfflr.workflows.equation_of_state import EosSettings, eos

write("cu.cif", bulk("Cu", cubic=True))

# %% [markdown]
# The budget bounds all calls of the teacher: for the relaxation and the references that the result is judged
# by (phonons, elastic constants, an equation of state), for training, and for the frames of molecular
# dynamics it is tested on. `--length` and `--walk-steps` make this a short run.

# %%
command = (
    "nff distill cu.cif --model ase:ase.calculators.emt:EMT --budget 60 --length 0.15 "
    "--md-reference 0 --supercell 2 2 2 --walk-steps 150 --no-compile --out student"
)
print(f"$ {command}")
subprocess.run(shlex.split(command), check=True)

record = json.loads(Path("student/distill.json").read_text())
print(f"{record['calls']} calls, force error {record['force_error_percent']:.1f} % of the rms force")

# %% [markdown]
# ## What was made
#
# The folder is a run like any other, with its data, a card, and a suite of the teacher's references. `nff
# evaluate student/test.xyz --model student` and `nff validate student/suite --model student` repeat the
# numbers.

# %%
student = NFFLrCalculator.load("student")
scores = read_suite("student/suite").run(student).scores()
for name, unit in (
    ("phonons/frequency_mae", "THz"),
    ("eos/volume_error", "%"),
    ("elastic/clamped_mae", "GPa"),
):
    print(f"{name}: {scores[name]:.3g} {unit}")

assert record["calls"] <= 60 and record["force_error_percent"] < 8
assert scores["phonons/frequency_mae"] < 0.3 and scores["eos/volume_error"] < 1

# %% [markdown]
# **Left:** forces on the test frames, drawn from molecular dynamics of the students at 1000 K; none was
# trained on. **Right:** the equation of state, further from equilibrium than the strains of 3 % that were
# labelled; look at where the two begin to part.

# %%
frames = read("student/test.xyz", ":")
taught = np.concatenate([frame.get_forces() for frame in frames]).ravel()
learned = np.concatenate([found["forces"] for found in student.evaluate(frames)]).ravel()

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
left.plot(taught, learned, ".", ms=3)
left.plot([taught.min(), taught.max()], [taught.min(), taught.max()], color="0.4", lw=0.8)
title = f"error {record['force_error_percent']:.1f} % of the rms force"
left.set(xlabel="force of the teacher (eV/Å)", ylabel="force of the student (eV/Å)", title=title)
settings = EosSettings(range=0.15, points=15)
for name, calculator, style in (("teacher", EMT(), "k-"), ("student", student, "C1o")):
    curve = eos(bulk("Cu", a=3.59), calculator, settings)
    right.plot(curve.volumes, 1000 * (curve.energies - curve.energies.min()), style, ms=4, lw=1, label=name)
right.set(xlabel="volume (Å³/atom)", ylabel="relative energy (meV/atom)")
right.legend(frameon=False)
figure.savefig("8_distil_a_teacher.png", dpi=80)

# %% [markdown]
# EMT gains nothing by this. With CHGNet as teacher for MgO the student was 24 times as fast, and 390 times
# when compiled (README, with the commands). A student knows one material in the range of temperature and
# strain that it was made for, and has its teacher's errors on top of its own.
