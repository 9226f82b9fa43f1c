# %% [markdown]
# # What is it good for?
#
# The figure at the head of the README. 214 structures of silicon with first-principles forces became
# `mlearn-si-fast`, by `nff train calculators/mlearn-si-fast/config.py`. How wrong are its forces, are its
# phonons those of silicon, and what does it do when it is hot?

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.io import read

import nfflr
from nfflr import NFFLrCalculator, read_suite
from nfflr.workflows import md

folder = nfflr.bundled("mlearn-si")
calculator = NFFLrCalculator.load("mlearn-si-fast", compile=True)

# %% [markdown]
# Forces on structures that it has not seen, from DFT (PBE) and from the potential.

# %%
frames = read(folder / "test.xyz.xz", ":")
known = np.concatenate([atoms.get_forces() for atoms in frames])  # (ΣN, 3) eV/Å, from the file
forces = np.concatenate([found["forces"] for found in calculator.evaluate(frames)])
error = 1000 * np.abs(forces - known).mean()
print(f"forces of {len(frames)} test structures: mean absolute error {error:.0f} meV/Å")

# %% [markdown]
# Phonons, which were not trained on, beside those of PBE (VASP).

# %%
outcome = read_suite(folder / "suite").only(("phonons",)).run(calculator).outcomes[0]
silicon, vasp = outcome.result, outcome.task.reference
print(f"phonons: mean difference {outcome.scores['frequency_mae']:.2f} THz")

# %% [markdown]
# Molecular dynamics of the crystal at 300 K, and at 2500 K, where it must melt.

# %%
crystal = bulk("Si", a=5.469, cubic=True).repeat(3)  # 216 atoms
runs = {T: md(crystal, calculator, temperature=T, timestep=2, steps=2000) for T in (300, 2500)}
for run in runs.values():
    print(f"{run.temperature:.0f} K: {run.message}")

assert error < 60 and outcome.scores["frequency_mae"] < 0.3
assert [run.verdict for run in runs.values()] == ["stable", "melted"]

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
ends = [known.min(), known.max()]
left.plot(ends, ends, color="0.4", lw=0.8)
left.plot(known.ravel(), forces.ravel(), ".", ms=2, rasterized=True)
left.set(xlabel="DFT force (eV/Å)", ylabel="force (eV/Å)", title=f"test forces: MAE {error:.0f} meV/Å")

edges = [*silicon.band_pieces, len(silicon.band_distances)]
for start, end in pairwise(edges):
    piece = slice(start, end)
    middle.plot(silicon.band_distances[piece], silicon.band_frequencies[piece], color="C0", lw=1)
points = dict(zip(("Γ", "X", "L", "W"), vasp.band_frequencies, strict=True))
for place, name in zip(silicon.band_label_distances, silicon.band_labels, strict=True):
    if name in points:
        middle.plot([place] * 6, points[name], "o", color="0.2", ms=3.5, clip_on=False, zorder=3)
middle.set_xticks(silicon.band_label_distances, silicon.band_labels, fontsize=8)
middle.set(xlim=(0, silicon.band_distances[-1]), ylim=(0, None))
middle.set(ylabel="frequency (THz)", title="phonons, dots: DFT")

for colour, (temperature, run) in zip(("C0", "C3"), runs.items(), strict=True):
    label = f"{temperature} K: {run.verdict}"
    right.plot(run.rdf_distance, run.rdf["all"], color=colour, lw=1.2, label=label)
right.set(xlabel="distance (Å)", ylabel="g(r)", xlim=(1.8, 8), ylim=(0, 7), title="216 atoms, 4 ps")
right.legend(frameon=False)
figure.savefig("0_at_a_glance.png", dpi=70)
