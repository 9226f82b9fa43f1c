# %% [markdown]
# # Can a graph network tell a formation energy?
#
# A property model maps a crystal to a number instead of an energy with its forces. We train ALIGNN (K.
# Choudhary and B. DeCost, npj Comput. Mater. 7, 185 (2021)) on formation energies from JARVIS-DFT, on DGL
# graphs that are built before training.
#
# DGL is published for Python below 3.12 only. On later ones leave `to_dgl` out: the network takes NFFLr's own
# graphs and gives the same numbers.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nfflr
from nfflr import AtomsDataset, TrainingConfig, load_model, periodic_radius_graph, predict
from nfflr.data import to_dgl
from nfflr.models import ALIGNN, ALIGNNConfig
from nfflr.train import train

records = Path(nfflr.__file__).parents[1] / "tutorials/jarvis-properties/records.json"
CUTOFF = 5.0  # Å


def dgl_graph(atoms):
    return to_dgl(periodic_radius_graph(atoms, r=CUTOFF))


# %% [markdown]
# `records.json` holds 70 records of JARVIS-DFT (K. Choudhary et al., npj Comput. Mater. 6, 173 (2020);
# OptB88vdW), of which 50 have labels. So few show how it is done, not how well it can be done.

# %%
dataset = AtomsDataset(
    records,
    "formation_energy_peratom",  # eV/atom; any key of the records
    n_train=0.7,
    n_val=0.15,
    transform=dgl_graph,
    allow_missing=True,
)
graph, labels = dataset[0]
print(graph)

# %% [markdown]
# The readout is a mean over atoms, as the property does not grow with the cell; a magnetic moment would be a
# sum. `output_features` above 1 makes a vector or classes, a dictionary several properties at once
# (`tutorials/jarvis-properties`).

# %%
torch.manual_seed(0)
model = ALIGNN(
    ALIGNNConfig(
        cutoff=CUTOFF,
        elements=dataset.elements,
        hidden_features=32,
        alignn_layers=1,
        gcn_layers=1,
        readout="mean",
    )
)
config = TrainingConfig(
    dataset=dataset,
    model=model,
    output_dir=Path("run"),
    epochs=15,
    batch_size=4,
    learning_rate=3e-3,
    validate_every=1,
)
model, _ = load_model(train(config))  # the weights that did best on the validation split

# %% [markdown]
# ## How good is it?
#
# Look at the held-out records beside those that were trained on. The yardstick is the error of one who always
# says the mean of the training labels.

# %%
parts = {"training": dataset.split["train"], "held out": dataset.split["val"] + dataset.split["test"]}
pairs = {}  # predicted and reference of each part, (S,) eV/atom
for name, indices in parts.items():
    comparison = predict(model, dataset, indices)["formation_energy_peratom"]
    pairs[name] = comparison.rows(comparison.labelled)
mean = pairs["training"].reference.mean()
error = {name: np.abs(pair.predicted - pair.reference).mean() for name, pair in pairs.items()}
guess = {name: np.abs(pair.reference - mean).mean() for name, pair in pairs.items()}
for name, pair in pairs.items():
    errors = f"MAE {error[name]:.2f} eV/atom; always the mean {guess[name]:.2f}"
    print(f"{name}: {len(pair.reference)} records, {errors}")

figure, axes = plt.subplots(figsize=(4.2, 3.8), layout="constrained")
for (name, pair), marker in zip(pairs.items(), "os", strict=True):
    axes.plot(pair.reference, pair.predicted, marker, ms=5, label=f"{name}, MAE {error[name]:.2f} eV/atom")
both = np.concatenate([np.concatenate([pair.reference, pair.predicted]) for pair in pairs.values()])
ends = [both.min(), both.max()]
axes.plot(ends, ends, color="0.4", lw=0.8)
axes.set(xlabel="OptB88vdW formation energy (eV/atom)", ylabel="predicted (eV/atom)")
axes.legend(frameon=False, fontsize="small")
figure.savefig("6_property_model.png", dpi=100)

# %% [markdown]
# Hardly better than the mean, and the figure shows it: predictions lie in a band about it. With 38 crystals
# of nearly as many elements, what fits the training records better does not help the others, and the
# validation split stops it early. That is what the split is for. To learn formation energies takes thousands
# of crystals: `AtomsDataset("dft_3d", "formation_energy_peratom")` reads those of JARVIS-DFT, with the extra
# `nfflr[jarvis]`.

# %%
assert 0.5 * guess["training"] < error["training"] < guess["training"]
assert error["held out"] < 1.2 * guess["held out"]
