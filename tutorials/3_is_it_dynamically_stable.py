# %% [markdown]
# # Is it dynamically stable?
#
# A structure whose forces vanish may be a maximum as well as a minimum. Phonons tell: along an imaginary mode
# the energy falls. We look at silicon, which is stable, and compare with VASP; then at copper in the bcc
# structure, which is not, and follow it to where it falls.
#
# `nff phonons si.cif` does this from the command line, figure included.

# %%
from itertools import pairwise
from pathlib import Path

import ase
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.spacegroup.symmetrize import check_symmetry
from ase.units import J, mol

import nfflr
from nfflr import NFFLrCalculator
from nfflr.validation.reading import read_suite
from nfflr.workflows.phonon_dispersion import PhononsSettings, phonons
from nfflr.workflows.relaxation import RelaxSettings, relax

root = Path(nfflr.__file__).parents[1]  # the clone of the repository

# %% [markdown]
# ## Silicon against VASP
#
# The suite of `mlearn-si` holds phonons of silicon from PBE forces (VASP, phonopy's example) at Γ, X, L and
# W. Its task knows supercell, reference and score; its outcome holds the full result.

# %%
suite = read_suite(root / "calculators/mlearn-si/suite").only(("phonons",))
outcome = suite.run(NFFLrCalculator.load("mlearn-si")).outcomes[0]
silicon, vasp = outcome.result, outcome.task.reference
print("silicon:", silicon.message)
print(
    f"mean difference to VASP {outcome.scores['frequency_mae']:.2f} THz of {vasp.band_frequencies.max():.1f}"
)

assert silicon.stable and outcome.scores["frequency_mae"] < 0.3

# %% [markdown]
# Thermal properties follow from the same frequencies. The same VASP forces give S = 20.3 J/(mol K) at 300 K
# (phonopy; `tests/workflows/phonon-data/Si`), and experiment 18.8 at 298 K (CODATA): the potential reproduces
# what it learned from, and what is left to experiment is PBE's and the small supercell's.

# %%
room = int(np.flatnonzero(silicon.temperatures == 300)[0])
entropy = silicon.entropy[room] / len(silicon.symbols) / (J / mol)
print(f"S(300 K) = {entropy:.1f} J/(mol K)")

assert abs(entropy - 20.3) < 0.6

# %% [markdown]
# ## Copper in the wrong structure
#
# bcc copper has vanishing forces by symmetry, and an imaginary mode. `modulated` is a supercell displaced
# along it: an ordinary relaxation from there, with the cell free, finds the structure it falls into.

# %%
copper = NFFLrCalculator.load("mlearn-cu")
settings = PhononsSettings(supercell=(4, 4, 4), mesh=(12, 12, 12), t_step=100)
bcc = phonons(bulk("Cu", "bcc", a=2.9), copper, settings)
print("bcc copper:", bcc.message)

down = relax(bcc.modulated, copper, RelaxSettings(cell=True, fmax=1e-3))
end = down.relaxed
found = check_symmetry(end, symprec=0.01)
name = found.international
gain = -down.energy_change / len(end)
print(f"it falls to {name}, {1000 * gain:.0f} meV/atom lower")

assert not bcc.stable and name == "P6_3/mmc"  # hexagonal close packing

# %% [markdown]
# Hexagonal close packing, with real frequencies throughout? That has to be asked anew of the new structure,
# here in its standard cell.

# %%
standard = ase.Atoms(found.std_types, scaled_positions=found.std_positions, cell=found.std_lattice, pbc=True)
hcp = phonons(standard, copper, settings.model_copy(update={"supercell": (4, 4, 2)}))
print("hcp copper:", hcp.message)

assert hcp.stable

# %% [markdown]
# **Left:** the bands of silicon, with VASP's frequencies as dots. Look at the optical modes at Γ, which are
# too soft, and at the flat transverse acoustic ones at X and L, where potentials err easily. **Middle and
# right:** copper. Imaginary frequencies are drawn as negative: the lowest branch of bcc dips below zero at N,
# and hcp has none that does.


# %%
def draw_bands(axes, result, title):
    edges = [*result.band_pieces, len(result.band_distances)]
    for start, end in pairwise(edges):
        axes.plot(result.band_distances[start:end], result.band_frequencies[start:end], color="0.2", lw=1)
    axes.set_xticks(result.band_label_distances, result.band_labels, fontsize=6.5)
    axes.grid(axis="x", alpha=0.4)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set(xlim=(0, result.band_distances[-1]), title=title)


figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), width_ratios=(3, 2, 2), layout="constrained")
for axes, result, title in zip(
    panels, (silicon, bcc, hcp), ("silicon", "bcc copper", "hcp copper"), strict=True
):
    draw_bands(axes, result, title)
left, middle, right = panels
for label, frequencies in zip(("Γ", "X", "L", "W"), vasp.band_frequencies, strict=True):
    for place, name in zip(silicon.band_label_distances, silicon.band_labels, strict=True):
        if name == label:
            left.plot([place] * 6, frequencies, "o", color="C3", ms=4, clip_on=False, zorder=3)
left.set(ylabel="frequency (THz)", ylim=(0, None), title="silicon, dots: VASP")
for axes in (middle, right):
    axes.set_ylim(-1.2, 8)
figure.savefig("3_is_it_dynamically_stable.png", dpi=64)

# %% [markdown]
# ## What to do about an imaginary mode
#
# First ask whether it is real: a larger supercell, a smaller `displacement` (0.01 Å here) or a tighter
# relaxation may make it go away, and so may another potential: bcc lies outside the training data of
# `mlearn-cu`, so this needs a check by first principles. If it stays, follow `modulated`, as here. And some
# structures are stable only when hot, which harmonic phonons cannot tell.
#
# Copper is fcc, of course: hcp is the nearest valley, and not the lowest one. A relaxation finds the former.
