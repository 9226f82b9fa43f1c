"""Formation energy and band gap of crystals from JARVIS-DFT, both with ALIGNN (see the README beside)."""

from functools import partial
from pathlib import Path

from torch import nn

from nfflr.data.dataset import AtomsDataset
from nfflr.data.graph import periodic_radius_graph
from nfflr.models import ALIGNN, ALIGNNConfig

here = Path(__file__).parent
output_dir = Path("runs/jarvis-properties")
random_seed = 0

cutoff = 5.0
dataset = AtomsDataset(
    here / "records.json",
    ("formation_energy_peratom", "optb88vdw_bandgap"),
    n_train=0.8,
    n_val=0.1,
    transform=partial(periodic_radius_graph, r=cutoff),
    allow_missing=True,
)
model = ALIGNN(
    ALIGNNConfig(
        cutoff=cutoff,
        elements=dataset.elements,
        hidden_features=32,
        alignn_layers=1,
        gcn_layers=1,
        readout="mean",
        output_features={"formation_energy_peratom": 1, "optb88vdw_bandgap": 1},
    )
)

epochs = 12
validate_every = 1
batch_size = 8
learning_rate = 3e-3
criterion = {"formation_energy_peratom": nn.MSELoss(), "optb88vdw_bandgap": nn.L1Loss()}
target_weights = {"optb88vdw_bandgap": 0.5}
