# %% [markdown]
# # Can a graph network tell a band gap?
#
# A property model maps a crystal to a number instead of an energy with its forces. We train ALIGNN (K. Choudhary and B.
# DeCost, npj Comput. Mater. 7, 185 (2021)) on formation energies from JARVIS-DFT, on DGL graphs that are built before
# training.
#
# DGL is published for Python below 3.12 only. On later ones leave `to_dgl` out: the network takes NFFLr's own graphs and gives
# the same numbers.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nfflr
from nfflr import AtomsDataset, periodic_radius_graph
from nfflr.data.dgl_view import to_dgl
from nfflr.models.gnn.alignn_ff import ALIGNN, ALIGNNConfig
from nfflr.train.config import TrainingConfig
from nfflr.train.properties import predict_properties
from nfflr.train.trainer import train

records = Path(nfflr.__file__).parents[1] / "tutorials/jarvis-properties/records.json"
CUTOFF = 5.0  # Å


def dgl_graph(atoms):
    return to_dgl(periodic_radius_graph(atoms, r=CUTOFF))


# %% [markdown]
# `records.json` holds 70 records of JARVIS-DFT (K. Choudhary et al., npj Comput. Mater. 6, 173 (2020); OptB88vdW), of which
# 50 have labels. So few show how it is done, not how well it can be done.

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
checkpoint = train(config)

# %% [markdown]
# ## How good is it?
#
# Fifteen held-out records (validation and test) beside those that were trained on. The measure of a model is
# the mean absolute deviation of the labels, the error of one who always says the mean.

# %%
parts = {"training": dataset.split["train"], "held out": dataset.split["val"] + dataset.split["test"]}
pairs = {}
for name, indices in parts.items():
    values = predict_properties(model, dataset, indices).values["formation_energy_peratom"][:, 0]
    pairs[name] = values[np.isfinite(values[:, 1])]
error = {name: np.abs(values[:, 0] - values[:, 1]).mean() for name, values in pairs.items()}
mean = pairs["training"][:, 1].mean()
guess = np.abs(pairs["held out"][:, 1] - mean).mean()
print(f"MAE: {error['training']:.2f} training, {error['held out']:.2f} held out, {guess:.2f} always the mean (eV/atom)")
