# %% [markdown]
# # Bring your own model
#
# A potential is a rule for atomic energies, given the vectors to the neighbours. Forces, stress, batches,
# training, checkpoints, ASE and every `nff` command follow. We write one in thirty lines, ask whether its
# physics is sound, train it on copper and use it; then we put a potential of another package through the same
# checks.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from ase.build import bulk
from pydantic import Field
from torch import nn

import nfflr
from nfflr import AtomsDataset, NFFLrCalculator, TrainingConfig, open_calculator, predict
from nfflr.models import Potential, PotentialConfig, register
from nfflr.nn import bessel
from nfflr.train import train
from nfflr.validation import check, make_samples
from nfflr.workflows import eos

data = nfflr.bundled("mlearn-cu")

# %% [markdown]
# ## The model
#
# Daw and Baskes' embedded atom (Phys. Rev. B 29, 6443 (1984)) with everything learned: pairs φ(r) and
# densities ρ_k(r) are sums of radial functions that vanish at the cutoff with two derivatives, and a small
# network embeds the densities. `Config` names its hyper-parameters, `register` the key by which checkpoints
# find the class.


# %%
class LearnedEAMConfig(PotentialConfig):
    functions: int = Field(12, ge=1, description="radial functions")
    densities: int = Field(8, ge=1, description="densities around an atom")


@register("learned-eam")
class LearnedEAM(Potential):
    """E_i = Σ_j φ(r_ij) + F(ρ_i), with ρ_i = Σ_j ρ(r_ij), for one element."""

    Config = LearnedEAMConfig

    def __init__(self, config):
        super().__init__(config)
        self.pair = nn.Linear(config.functions, 1, bias=False)
        self.density = nn.Linear(config.functions, config.densities, bias=False)
        self.embed = nn.Sequential(nn.Linear(config.densities, 32), nn.SiLU(), nn.Linear(32, 1))

    def energies(self, inputs):  # bonds → (N,)
        r = inputs.vectors.norm(dim=1)  # (E,) Å
        basis = bessel(r, self.config.functions, self.cutoff)[0].T  # (E, F)
        bonds = torch.cat([self.pair(basis), self.density(basis)], dim=1)  # (E, 1 + K)
        atoms = bonds.new_zeros(inputs.n_atoms, bonds.shape[1]).index_add(0, inputs.dst, bonds)
        return atoms[:, 0] + self.embed(atoms[:, 1:])[:, 0]


def new_model(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LearnedEAM(LearnedEAMConfig(elements=("Cu",), cutoff=5.6)).to(dtype)


# %% [markdown]
# ## Is its physics sound?
#
# Before any training: do forces and stress match differences of the energy, is it invariant where it should
# be, continuous as atoms cross the cutoff, extensive? `nff check` does the same for a checkpoint, and
# `nfflr.validation.check` here for a calculator. Whether a wall keeps atoms apart is a matter of training.

# %%
untrained = check(NFFLrCalculator(new_model(torch.float64)))
for result in untrained.results:
    if result.value is not None and result.limit is not None:
        print(f"{result.status:5}{result.name:32}{result.value:10.2g} {result.unit}")

structural = ("forces", "stress", "rotation", "translation", "permutation", "smoothness")
checked = [
    r for r in untrained.results if any(word in r.name for word in structural) and "wall" not in r.name
]
assert len(checked) >= 6 and all(r.status == "pass" for r in checked)

# %% [markdown]
# ## Training, and use
#
# Copper from mlearn (Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020)). Stresses of these labels are offset
# from their own energies, so they are left out.

# %%
config = TrainingConfig(
    dataset=AtomsDataset(data / "train.xyz.xz", n_train=0.9, n_val=0.1),
    model=new_model(),
    output_dir=Path("run"),
    epochs=20,
    batch_size=4,
    learning_rate=5e-3,
    stress_weight=0.0,
)
checkpoint = train(config)
ours = NFFLrCalculator.load(checkpoint)  # found by its key, as the class is registered here

test = AtomsDataset(data / "test.xyz.xz", n_train=1.0, n_val=0.0)
predictions = predict(ours.model, test, range(len(test)))
errors = predictions.errors()
energy, force = 1000 * errors["energy_mae"], 1000 * errors["forces_mae"]
print(f"test set: {energy:.2f} meV/atom, {force:.1f} meV/Å")

# %% [markdown]
# ## A potential of another package
#
# `ase:<module>:<Class>` names any ASE calculator, here ASE's own EMT for copper; `chgnet`, `mace:<file>` and
# others are there where their packages are. All workflows and checks take it, and so does `--model` on the
# command line.

# %%
emt = open_calculator("ase:ase.calculators.emt:EMT")
foreign = check(emt, make_samples(["Cu"], cutoff=5.6))  # EMT does not say what it covers
print("EMT:", "sound" if foreign.passed else [r.name for r in foreign.results if r.status == "fail"])

curves = {name: eos(bulk("Cu", a=3.63), calc) for name, calc in (("learned EAM", ours), ("ASE's EMT", emt))}
for name, curve in curves.items():
    a = (4 * curve.volume_per_atom) ** (1 / 3)
    print(f"{name}: a = {a:.3f} Å, bulk modulus {curve.bulk_modulus:.0f} GPa")

# %% [markdown]
# **Left:** forces on the test set. **Right:** energy against volume for both; the minimum is the volume, the
# curvature the bulk modulus.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
forces = predictions["forces"]
left.plot(forces.reference.ravel(), forces.predicted.ravel(), ".", ms=2)
ends = [forces.reference.min(), forces.reference.max()]
left.plot(ends, ends, color="0.4", lw=0.8)
left.set(xlabel="PBE force (eV/Å)", ylabel="learned EAM (eV/Å)", title=f"MAE {force:.0f} meV/Å")
for name, curve in curves.items():
    right.plot(curve.volumes, 1000 * (curve.energies - curve.energy), "o-", ms=4, lw=1, label=name)
right.set(xlabel="volume (Å³/atom)", ylabel="relative energy (meV/atom)")
right.legend(frameon=False)
figure.savefig("7_bring_your_own_model.png", dpi=80)

# %% [markdown]
# ## What the numbers mean
#
# On this test set GAP and MTP have 0.46 and 0.41 meV/atom and 10 meV/Å (Zuo et al. 2020), SNAP 0.53 and 37
# (their coefficients evaluated with LAMMPS). PBE's lattice constant of copper is 3.63 Å, its bulk modulus
# about 140 GPa. Twenty epochs of a model without angles are not the end of what can be had; they show that
# thirty lines are all it takes.

# %%
volume = curves["learned EAM"].volume_per_atom
assert force < 60 and energy < 15
assert abs((4 * volume) ** (1 / 3) - 3.63) < 0.05
