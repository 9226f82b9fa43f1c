# %% [markdown]
# # Which epoch has the best physics?
#
# Training minimises errors of forces; what is wanted are phonons, elastic constants, melts. The best epoch
# for one need not be the best for the other. Here phonons and elastic constants are computed every other
# epoch while silicon is trained, and the checkpoint is the one with the best phonons.

# %%
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nfflr
from nfflr import AtomsDataset, NFFLrCalculator, TrainingConfig, read_suite
from nfflr.models import MomentConfig, MomentNetwork
from nfflr.train import train

potential = nfflr.bundled("mlearn-si")

# %% [markdown]
# A task is a workflow with a reference; a suite is a folder of them. That of `mlearn-si` compares with PBE:
# phonons at Γ, X, L and W, clamped elastic constants, and more. In a config file it is one line, `tasks =
# ["calculators/mlearn-si/suite"]`; here we take two of its tasks, as they cost a second each.

# %%
suite = read_suite(potential / "suite").only(("phonons", "elastic"))

torch.manual_seed(0)
config = TrainingConfig(
    dataset=AtomsDataset(potential / "train.xyz.xz", n_train=80, n_val=20),
    model=MomentNetwork(MomentConfig(elements=("Si",), cutoff=5.0)),
    output_dir=Path("run"),
    epochs=24,
    batch_size=4,
    validate_every=2,
    tasks=suite.tasks,
    tasks_every=2,
    select_by={"val/phonons/frequency_mae": 1.0},
)
checkpoint = train(config, on_validation=lambda row: print(f"epoch {row['epoch']}"))

# %% [markdown]
# `metrics.csv` holds a row for each validation. `select_by` may also weigh several metrics against each
# other.

# %%
with open("run/metrics.csv") as file:
    rows = list(csv.DictReader(file))
epochs = np.array([int(row["epoch"]) for row in rows])
columns = ("val/forces_mae", "val/phonons/frequency_mae", "val/elastic/clamped_mae")
forces, phonons, elastic = (np.array([float(row[name]) for row in rows]) for name in columns)
by_phonons, by_forces = np.argmin(phonons), np.argmin(forces)
for name, k in (("phonons", by_phonons), ("forces", by_forces)):
    numbers = f"{1000 * forces[k]:.1f} meV/Å, {phonons[k]:.2f} THz, {elastic[k]:.1f} GPa"
    print(f"best {name}: epoch {epochs[k]}, {numbers}")

# %% [markdown]
# The checkpoint that was kept gives the phonons that were measured at its epoch. That is worth a check, as
# what was measured are the averaged weights, and those are what is saved.

# %%
again = suite.run(NFFLrCalculator.load(checkpoint)).scores()["phonons/frequency_mae"]
print(f"the checkpoint: {again:.3f} THz")

assert np.isclose(again, phonons.min(), rtol=1e-3)
assert again < 0.8

# %% [markdown]
# **The figure:** each curve over its own least value. After eight epochs the force error has nearly settled,
# and a training that is watched by it alone would be stopped; the elastic constants still have a factor of
# three to go, and the phonons get worse for a while before they come back.

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
curves = {"force error": forces, "phonons": phonons, "elastic constants": elastic}
for (name, values), marker in zip(curves.items(), "os^", strict=True):
    axes.plot(epochs, values / values.min(), marker + "-", ms=4, lw=1.2, label=name)
axes.axvline(epochs[by_phonons], color="0.5", ls="--", lw=1, label="kept: best phonons")
axes.set(xlabel="epoch", ylabel="error on validation, over its least", yscale="log")
axes.legend(frameon=False, fontsize="small")
figure.savefig("5_physics_in_the_loop.png", dpi=100)

# %% [markdown]
# Here the best phonons come late, at or near the epoch of the best forces. It need not be so: in runs of full
# length (`docs/physics.md`) force errors are least at epoch 20, and the physics gets better long after it.

# %%
eighth = int(np.flatnonzero(epochs == 8)[0])
assert forces[eighth] < 1.25 * forces.min() and elastic[eighth] > 1.8 * elastic.min()
