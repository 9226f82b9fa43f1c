# %% [markdown]
# # Does it survive, and what is it after it has not?
#
# A potential that relaxes a crystal well may still blow up when it is hot. We heat silicon with
# `mlearn-si-fast`: as a crystal at 300 and 1500 K, far above melting at 2500 K, and then as a liquid at
# 1800 K, free to choose its density. `nff md si.cif --temperature 1500` does one of these runs from the
# command line.

# %%
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

from nfflr import NFFLrCalculator
from nfflr.workflows import MdSettings, md

# A C++ kernel where there is a compiler; without one the same numbers, some ten times as slowly.
calculator = NFFLrCalculator.load("mlearn-si-fast", compile=True)
silicon = bulk("Si", a=5.469, cubic=True).repeat(2)  # 64 atoms

# %% [markdown]
# Every run ends with a verdict: `stable`, `melted`, `exploded`, `drifting`, or `outside training range`,
# where atoms came nearer to each other than any in the training data.

# %%
step = {"timestep": 2.0, "thermostat_time": 50.0}
cold = md(silicon, calculator, temperature=300, steps=1500, **step)
warm = md(silicon, calculator, temperature=1500, steps=1500, **step)
hot = md(silicon, calculator, temperature=2500, steps=3000, **step)
for run in (cold, warm, hot):
    print(f"{run.temperature:5.0f} K  {run.message}")

assert (cold.verdict, warm.verdict, hot.verdict) == ("stable", "stable", "melted")

# %% [markdown]
# The melt is cooled to 1800 K at zero pressure. There is no crystal to lose any more, hence `melting=False`.

# %%
liquid = md(
    hot.final,
    calculator,
    MdSettings(
        ensemble="npt-isotropic", temperature=1800, steps=5000, equilibration=0.4, melting=False, **step
    ),
)
contraction = 1 - liquid.volume / silicon.get_volume()
diffusion, error = liquid.diffusion["Si"], liquid.diffusion_error["Si"]
peak = liquid.rdf_distance[np.argmax(liquid.rdf["all"])]
print(liquid.message)
print(f"liquid at {liquid.temperature:.0f} K: {100 * contraction:.1f} % less volume than the crystal at rest")
print(f"D = {diffusion:.1f} ± {error:.1f} Å²/ps, first neighbours at {peak:.2f} Å")

# %% [markdown]
# **Left:** the radial distribution function. A crystal has sharp shells that broaden with temperature; the
# melt keeps the first one alone. **Right:** the mean square displacement. In the crystals it stays flat, as
# atoms vibrate about their sites; in liquids it grows as 6 D t.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
runs = {"crystal, 300 K": cold, "crystal, 1500 K": warm, "melt, 2500 K": hot, "liquid, 1800 K": liquid}
for (name, run), colour in zip(runs.items(), ("C0", "C2", "C3", "C1"), strict=True):
    left.plot(run.rdf_distance, run.rdf["all"], color=colour, lw=1.2, label=name)
    right.plot(run.msd_time, run.msd["all"], color=colour, lw=1.2)
left.set(xlabel="distance (Å)", ylabel="g(r)", xlim=(1.8, 8), ylim=(0, 6.5))
left.legend(frameon=False)
right.set(xlabel="time (ps)", ylabel="mean square displacement (Å²)", yscale="log", ylim=(5e-3, None))
figure.savefig("4_melting_silicon.png", dpi=80)

# %% [markdown]
# ## What the numbers mean
#
# Silicon is one of the few elements that contract on melting, as a liquid with more than four neighbours is
# denser than the open diamond lattice. Car–Parrinello dynamics of 64 atoms gave D = 2.3 Å²/ps (2.26 · 10⁻⁴
# cm²/s) and a first peak at 2.46 Å at about 1800 K (I. Štich, R. Car and M. Parrinello, Phys. Rev. Lett. 63,
# 2240 (1989)); a run of a few picoseconds cannot say much more than the size of it.
#
# 1500 K is below the melting point (1687 K), so the crystal must stay. That it also would for a while at 1800
# K says nothing: a perfect crystal without a surface superheats. A melting point needs a crystal and its
# liquid side by side, in a larger cell.

# %%
assert liquid.converged and 0.02 < contraction < 0.15
assert 1.0 < diffusion < 5.0 and 2.3 < peak < 2.65
